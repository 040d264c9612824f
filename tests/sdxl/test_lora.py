from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model

from sdxl.base import load_base
from sdxl.lora import attach, serve, target_modules

RANK, ALPHA = 4, 2.0


@pytest.fixture
def unet(tiny_base) -> Any:
    return load_base(tiny_base, dtype=torch.float32, components={"unet"}).unet


def inputs(count: int, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "sample": torch.randn(count, 4, 8, 8, generator=generator),
        "timestep": torch.arange(count) * 37 + 100,
        "encoder_hidden_states": torch.randn(count, 77, 64, generator=generator),
        "added_cond_kwargs": {
            "text_embeds": torch.randn(count, 32, generator=generator),
            "time_ids": torch.full((count, 6), 64.0),
        },
    }


def one(given: dict[str, Any], index: int) -> dict[str, Any]:
    return {
        key: one(value, index) if isinstance(value, dict) else value[index : index + 1] for key, value in given.items()
    }


def random_state(bank, seed: int, rank: int = RANK) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, (features_out, features_in) in bank.shapes.items():
        state[f"unet.{name}.lora_A.weight"] = torch.randn(rank, features_in, generator=generator) * 0.2
        state[f"unet.{name}.lora_B.weight"] = torch.randn(features_out, rank, generator=generator) * 0.2
    return state


def trained(unet, **changes: Any):
    settings = {"rank": RANK, "alpha": ALPHA, "targets": "attn-ff", "seed": 7} | changes
    return attach(unet, **settings)


def with_peft(unet, state):
    names = list(target_modules(unet, "attn-ff"))
    adapted = inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=names), unet)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data.copy_(state["unet." + name.replace(".default", "")])
    return adapted


class TestParityWithPeft:
    def test_same_forward_and_backward_from_the_same_weights(self, unet, tiny_base):
        bank = trained(unet)
        bank.load_state_dict(random_state(bank, 1))
        plain = load_base(tiny_base, dtype=torch.float32, components={"unet"}).unet
        theirs = with_peft(plain, bank.state_dict())
        given = inputs(2)
        results = [net(**given).sample for net in (unet, theirs)]
        for result in results:
            result.square().mean().backward()
        assert torch.allclose(*results, rtol=1e-4, atol=1e-5)
        expected = {
            "unet." + name.replace(".default", ""): p.grad for name, p in theirs.named_parameters() if p.requires_grad
        }
        found = dict(zip(bank.state_dict(), [p.grad for p in bank.parameters()], strict=True))
        assert found.keys() == expected.keys()
        for key, gradient in expected.items():
            assert torch.allclose(found[key], gradient, rtol=1e-3, atol=gradient.abs().max().item() * 1e-4), key

    def test_starts_as_peft_does_with_b_zero_and_a_uniform_within_one_over_root_of_inputs(self, unet):
        state = trained(unet).state_dict()
        for key, tensor in state.items():
            if ".lora_B." in key:
                assert not tensor.any()
                continue
            bound = tensor.shape[1] ** -0.5
            assert tensor.abs().max() <= bound
            assert tensor.std() == pytest.approx(bound / 3**0.5, rel=0.25)


class TestTraining:
    def test_the_adapter_moves_and_the_base_does_not(self, unet):
        before = {name: p.clone() for name, p in unet.named_parameters()}
        bank = trained(unet)
        optimizer = torch.optim.SGD(bank.parameters(), lr=0.5)
        for _ in range(2):
            unet(**inputs(2)).sample.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert all(tensor.any() for key, tensor in bank.state_dict().items() if ".lora_B." in key)
        bank.detach()
        after = dict(unet.named_parameters())
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], before[name]) for name in before)

    def test_the_same_seed_gives_the_same_adapter_and_the_global_generator_is_left_alone(self, unet, tiny_base):
        before = torch.get_rng_state()
        other = load_base(tiny_base, dtype=torch.float32, components={"unet"}).unet
        first, second = trained(unet).state_dict(), trained(other).state_dict()
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_half_precision_base_keeps_its_dtype_and_the_adapter_stays_fp32(self, tiny_base):
        unet = load_base(tiny_base, dtype=torch.bfloat16, components={"unet"}).unet
        bank = trained(unet)
        given = inputs(1)
        half = {k: v.bfloat16() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in given.items()}
        half["added_cond_kwargs"] = {k: v.bfloat16() for k, v in given["added_cond_kwargs"].items()}
        out = unet(**half).sample
        out.float().square().mean().backward()
        assert out.dtype == torch.bfloat16
        assert {p.dtype for p in bank.parameters()} == {p.grad.dtype for p in bank.parameters()} == {torch.float32}

    def test_gradient_checkpointing_changes_no_gradient_with_dropout_on(self, unet):
        bank = trained(unet, dropout=0.3)
        bank.load_state_dict(random_state(bank, 1))
        unet.train()
        gradients = []
        for checkpointing in (False, True):
            if checkpointing:
                unet.enable_gradient_checkpointing()
            bank.dropout_keys([11, 12])
            unet(**inputs(2)).sample.square().mean().backward()
            gradients.append([p.grad.clone() for p in bank.parameters()])
            for p in bank.parameters():
                p.grad = None
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(*gradients, strict=True))

    def test_dropout_acts_only_with_keys_and_belongs_to_the_sample_not_the_batch(self, unet):
        bank = trained(unet, dropout=0.3)
        bank.load_state_dict(random_state(bank, 1))
        given = inputs(2)
        with torch.no_grad():
            plain = unet(**given).sample
            bank.dropout_keys([11, 12])
            together = unet(**given).sample
            bank.dropout_keys([12])
            alone = unet(**one(given, 1)).sample
            bank.dropout_keys(None)
            assert torch.equal(unet(**given).sample, plain)
        assert (together - plain).abs().max() > 1e-4
        assert torch.allclose(together[1:], alone, rtol=1e-4, atol=1e-5)

    def test_a_state_with_other_keys_is_refused(self, unet):
        bank = trained(unet)
        state = bank.state_dict()
        state.pop(next(iter(state)))
        with pytest.raises(ValueError, match="keys differ"):
            bank.load_state_dict(state)


class TestSelect:
    MIXED = ({"a": 1.0}, {}, {"b": 0.5, "c": -0.7}, {"a": 0.3})

    @pytest.fixture
    def bank(self, unet):
        bank = serve(unet)
        bank.add("a", random_state(bank, 1), alpha=ALPHA)
        bank.add("b", random_state(bank, 2, rank=7))
        attention = {key: tensor for key, tensor in random_state(bank, 3, rank=2).items() if ".attn1." in key}
        bank.add("c", attention, alpha=1.0)
        return bank

    @torch.no_grad()
    def test_a_mixed_batch_equals_its_samples_alone_also_when_doubled_for_guidance(self, bank, unet):
        given = inputs(8)
        bank.select(self.MIXED)
        together = unet(**given).sample
        for index in range(8):
            bank.select([self.MIXED[index % 4]])
            alone = unet(**one(given, index)).sample
            assert torch.allclose(together[index : index + 1], alone, rtol=1e-4, atol=1e-5)
        bank.select([{}])
        assert (together[0] - unet(**one(given, 0)).sample[0]).abs().max() > 1e-3

    @torch.no_grad()
    def test_no_adapter_is_the_base_to_the_last_bit(self, bank, unet, tiny_base):
        bank.select([{}, {"a": 0.0}])
        plain = load_base(tiny_base, dtype=torch.float32, components={"unet"}).unet
        assert torch.equal(unet(**inputs(2)).sample, plain(**inputs(2)).sample)

    @torch.no_grad()
    def test_equals_weights_with_the_updates_added_in(self, bank, unet, tiny_base):
        bank.select([{"a": 0.8, "c": -0.5}])
        merged = load_base(tiny_base, dtype=torch.float32, components={"unet"}).unet
        linears = target_modules(merged, "attn-ff")
        for choice, alpha, strength in (
            (random_state(bank, 1), ALPHA / RANK, 0.8),
            ({k: v for k, v in random_state(bank, 3, rank=2).items() if ".attn1." in k}, 0.5, -0.5),
        ):
            for name, linear in linears.items():
                if f"unet.{name}.lora_A.weight" in choice:
                    down, up = (choice[f"unet.{name}.lora_{side}.weight"] for side in "AB")
                    linear.weight += up @ down * alpha * strength
        assert torch.allclose(unet(**inputs(2)).sample, merged(**inputs(2)).sample, rtol=1e-4, atol=1e-5)

    def test_an_unknown_name_never_means_the_base(self, bank):
        with pytest.raises(ValueError, match="no adapter"):
            bank.select([{"nobody": 1.0}])

    def test_a_batch_of_another_size_is_refused(self, bank, unet):
        bank.select(self.MIXED)
        with pytest.raises(ValueError, match="cannot be shared"):
            unet(**inputs(3))

    @torch.no_grad()
    def test_a_removed_adapter_acts_no_more(self, bank, unet):
        bank.select([{}])
        plain = unet(**inputs(1)).sample
        bank.select([{"a": 1.0}])
        bank.remove("a")
        assert torch.equal(unet(**inputs(1)).sample, plain)
        with pytest.raises(ValueError, match="no adapter"):
            bank.select([{"a": 1.0}])

    def test_an_adapter_that_does_not_fit_changes_nothing(self, bank):
        state = random_state(bank, 4)
        key = next(iter(state))
        for wrong in (state | {key: torch.zeros(4, 3)}, state | {"unet.nowhere.lora_A.weight": torch.zeros(4, 3)}):
            with pytest.raises(ValueError, match=r"does not fit|no layer"):
                bank.add("a", wrong)
        assert bank.names == {"a", "b", "c"}

    @torch.no_grad()
    def test_the_adapter_in_training_can_be_switched_off_weakened_and_mixed(self, unet):
        bank = trained(unet)
        bank.load_state_dict(random_state(bank, 5))
        given = inputs(2)
        full = unet(**given).sample
        bank.select([{"default": 1.0}, {}])
        mixed = unet(**given).sample
        assert torch.allclose(mixed[0], full[0], rtol=1e-4, atol=1e-5)
        bank.select([{}])
        assert torch.allclose(mixed[1], unet(**given).sample[1], rtol=1e-4, atol=1e-5)
        bank.select([{"default": 0.5}])
        assert (unet(**given).sample - full).abs().max() > 1e-3
        bank.select([{"default": 1.0}])
        assert torch.equal(unet(**given).sample, full)

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from contracts.lora import Adaptation, by_pattern
from sdxl.base import load_base
from sdxl.files import SDXL_CONFIGS, BaseFiles
from sdxl.lora import attach, attach_all, serve, target_modules
from sdxl.lora_layer import TRAINING, LoraLayer
from sdxl.networks import empty_network

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


def cast(given: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {
        key: cast(value, dtype) if isinstance(value, dict) else value.to(dtype) if value.is_floating_point() else value
        for key, value in given.items()
    }


def distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Relative."""
    apart = torch.linalg.vector_norm(first.detach().float() - second.detach().float())
    return float(apart / torch.linalg.vector_norm(second.detach().float()))


def one(given: dict[str, Any], index: int) -> dict[str, Any]:
    return {
        key: one(value, index) if isinstance(value, dict) else value[index : index + 1] for key, value in given.items()
    }


def random_state(bank, seed: int, rank: int = RANK) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, (features_out, *inputs) in bank.shapes.items():
        state[f"{name}.lora_A.weight"] = torch.randn(rank, *inputs, generator=generator) * 0.2
        up = torch.randn(features_out, rank, generator=generator) * 0.2
        state[f"{name}.lora_B.weight"] = up.view(features_out, rank, *(1 for _ in inputs[1:]))
    return state


def dora_state(bank, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    magnitudes = {
        f"{key}.lora_magnitude_vector": torch.rand(layer.shape[0], generator=generator) + 0.5
        for key, layer in bank.layers.items()
    }
    return random_state(bank, seed) | magnitudes


def serve_again(bank, unet):
    bank.detach()
    return serve(unet)


def trained(unet, **changes: Any):
    settings = {"rank": RANK, "alpha": ALPHA, "targets": "attn-ff", "seed": 7} | changes
    return attach(unet, **settings)


def with_peft(unet, state, how):
    """The same adapter in peft's own layers; they compute in the base's dtype."""
    ranks = {n: how.rank_of(n) for n in target_modules(unet, how.targets)}
    settings = LoraConfig(
        r=how.rank,
        lora_alpha=how.alpha,
        target_modules=list(ranks),
        rank_pattern={f"^{n}$": rank for n, rank in ranks.items()},
        alpha_pattern={f"^{n}$": by_pattern(how.alpha_pattern, n, how.alpha) for n in ranks},
        use_rslora=how.rslora,
        use_dora=how.dora,
    )
    dtype = unet.dtype  # diffusers walks through all modules to find it
    adapted = inject_adapter_in_model(settings, unet)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = state[peft_key(name)].to(dtype)
    return adapted


def peft_key(name: str) -> str:
    return "unet." + name.replace(".default", "").replace("magnitude_vector.weight", "magnitude_vector")


def shaken(bank, seed: int = 1) -> dict[str, torch.Tensor]:
    """The adapter in training away from where it starts."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {key: torch.randn(tensor.shape, generator=generator) for key, tensor in bank.state_dict().items()}
    return {
        key: tensor * (1 + 0.2 * drawn[key]) if "magnitude" in key else drawn[key] * 0.2
        for key, tensor in bank.state_dict().items()
    }


KINDS = {
    "LoRA": Adaptation(rank=RANK, alpha=ALPHA, targets="attn-ff"),
    "rsLoRA LoCon by pattern": Adaptation(
        rank=RANK,
        alpha=ALPHA,
        targets="attn-ff-conv",
        rslora=True,
        rank_pattern={"*.conv?": 2, "*.to_q": 3, "down_blocks.*.to_q": 5},
        alpha_pattern={"mid_block.*": 7.0},
    ),
    "DoRA LoCon": Adaptation(rank=RANK, alpha=ALPHA, targets="attn-ff-conv", dora=True, rslora=True),
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request) -> Adaptation:
    return request.param


class TestParityWithPeft:
    def test_same_forward_and_backward_from_the_same_weights(self, tiny_base, kind):
        ours, plain = (load_base(tiny_base, dtype=torch.float32, components={"unet"}).unet for _ in range(2))
        bank = attach_all({"unet": ours}, {"unet": kind}, seed=7)
        bank.load_state_dict(shaken(bank))
        theirs = with_peft(plain, bank.state_dict(), kind)
        results = [net(**inputs(2)).sample for net in (ours, theirs)]
        for result in results:
            result.square().mean().backward()
        assert distance(*results) < 1e-5
        expected = {peft_key(name): p.grad for name, p in theirs.named_parameters() if p.requires_grad}
        found = {key: p.grad for key, p in bank.named_parameters().items()}
        assert found.keys() == expected.keys()
        for key, gradient in expected.items():
            assert gradient.any(), key
            assert distance(found[key], gradient) < 1e-3, key

    @pytest.mark.parametrize("dora", [False, True])
    @pytest.mark.parametrize("strength", [1.0, 0.5])
    @pytest.mark.parametrize(
        "base", [nn.Linear(24, 40), nn.Conv2d(6, 10, 3, stride=2, padding=1)], ids=["Linear", "Conv2d"]
    )
    @pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
    def test_a_layer_alone_does_in_every_dtype(self, base, dtype, close, dora, strength):
        layer = LoraLayer(copy.deepcopy(base).to(dtype).requires_grad_(False))
        layer.add_training(RANK, ALPHA, torch.Generator().manual_seed(0), dora=dora)
        layer.use_training(1.0 if dora else strength)
        settings = LoraConfig(r=RANK, lora_alpha=ALPHA * (1 if dora else strength), target_modules=["0"], use_dora=dora)
        theirs = inject_adapter_in_model(settings, nn.Sequential(copy.deepcopy(base).to(dtype)))
        named = {n.partition(".")[2].replace(".default", ""): p for n, p in theirs.named_parameters() if "lora_" in n}
        for name, parameter in layer.trained().items():
            parameter.data.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
            named[name.replace("vector", "vector.weight") if "vector" in name else name].data = parameter.to(dtype)
        shape = (3, 5, 24) if isinstance(base, nn.Linear) else (3, 6, 8, 8)
        given = [
            torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype).requires_grad_() for _ in "ab"
        ]
        results = [net(x) for net, x in zip((layer, theirs), given, strict=True)]
        for result in results:
            result.float().square().mean().backward()
        assert results[0].dtype == dtype
        assert distance(*results) < close
        assert distance(*(x.grad for x in given)) < close
        for name, parameter in layer.trained().items():
            other = next(p for n, p in named.items() if n.startswith(name))
            assert parameter.grad.dtype == torch.float32
            assert distance(parameter.grad, other.grad) < close, name

    @pytest.mark.parametrize("dropout", [0.0, 1e-9], ids=["its own function", "with dropout"])
    def test_in_bf16_a_magnitude_hardly_off_acts_in_training_as_in_serving(self, dropout):
        """By 3 in 1000: rounded to bf16 such a factor is 1."""
        layer = LoraLayer(nn.Linear(64, 256, bias=False).to(torch.bfloat16).requires_grad_(False))
        layer.add_training(RANK, ALPHA, torch.Generator().manual_seed(0), dropout=dropout, dora=True)
        layer.dropout_keys = (0,)
        layer.magnitude.data.mul_(1.003)
        x = torch.randn(1, 400, 64, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
        plain = layer.base(x).float()
        for use in (layer.use_training, lambda: layer.use_same({TRAINING: 1.0})):
            use()
            grown = (layer(x).float() * plain).sum() / plain.square().sum()
            assert float(grown.detach()) == pytest.approx(1.003, abs=5e-4)

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
    def test_the_adapter_moves_and_the_base_does_not(self, unet, kind):
        before = {name: p.clone() for name, p in unet.named_parameters()}
        bank = attach_all({"unet": unet}, {"unet": kind}, seed=7)
        start = {key: tensor.clone() for key, tensor in bank.state_dict().items()}
        optimizer = torch.optim.Adam(bank.parameters(), lr=0.01)
        for _ in range(2):
            unet(**inputs(2)).sample.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert all(not torch.equal(tensor, start[key]) for key, tensor in bank.state_dict().items())
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
        out = unet(**cast(inputs(1), torch.bfloat16)).sample
        out.float().square().mean().backward()
        assert out.dtype == torch.bfloat16
        assert {p.dtype for p in bank.parameters()} == {p.grad.dtype for p in bank.parameters()} == {torch.float32}

    def test_an_adapter_starts_alike_whatever_else_is_adapted(self, unet, tiny_base):
        other = load_base(tiny_base, dtype=torch.float32, components={"unet"}).unet
        few, all_ = (trained(net, targets=set_).state_dict() for net, set_ in ((unet, "attn"), (other, "attn-ff-conv")))
        assert few.keys() < all_.keys()
        assert all(torch.equal(few[key], all_[key]) for key in few)

    @torch.no_grad()
    def test_no_kind_changes_anything_before_it_has_learned(self, unet, kind, tiny_base):
        attach_all({"unet": unet}, {"unet": kind}, seed=7)
        plain = load_base(tiny_base, dtype=torch.float32, components={"unet"}).unet
        assert distance(unet(**inputs(1)).sample, plain(**inputs(1)).sample) < 1e-6

    def test_gradient_checkpointing_changes_no_gradient_with_dropout_on(self, unet, kind):
        bank = attach_all({"unet": unet}, {"unet": replace(kind, dropout=0.3)}, seed=7)
        bank.load_state_dict(shaken(bank))
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


class TestTargets:
    def test_are_kohyas_modules_at_full_size_with_a_trainable_tensor_each(self):
        unet = empty_network(BaseFiles(SDXL_CONFIGS, SDXL_CONFIGS, SDXL_CONFIGS, single_file=False), "unet")
        sets = {targets: target_modules(unet, targets) for targets in ("attn", "attn-ff", "attn-ff-conv")}
        assert {targets: len(found) for targets, found in sets.items()} == {
            "attn": 560,
            "attn-ff": 722,
            "attn-ff-conv": 788,
        }
        transformers = {n for n, m in unet.named_modules() if ".attentions." in n and isinstance(m, nn.Linear)}
        assert set(sets["attn-ff"]) == transformers
        resnets = {
            name
            for name, module in unet.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d) and (".resnets." in name or "samplers." in name)
        }
        assert set(sets["attn-ff-conv"]) == transformers | resnets


class TestSelect:
    MIXED = ({"a": 1.0}, {}, {"b": 0.5, "c": -0.7, "d": 0.9}, {"a": 0.3})

    @pytest.fixture
    def bank(self, unet):
        bank = serve(unet)
        bank.add("a", random_state(bank, 1), alpha=ALPHA)
        bank.add("b", random_state(bank, 2, rank=7))
        attention = {key: tensor for key, tensor in random_state(bank, 3, rank=2).items() if ".attn1." in key}
        bank.add("c", attention, alpha=1.0)
        bank.add("d", dora_state(bank, 4), alpha=ALPHA)
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
        bank.select([{"a": 0.8, "d": 0.6, "c": -0.5}])
        merged = load_base(tiny_base, dtype=torch.float32, components={"unet"}).unet
        layers = target_modules(merged, "attn-ff-conv")
        before = {name: layer.weight.clone() for name, layer in layers.items()}
        attention = {k: v for k, v in random_state(bank, 3, rank=2).items() if ".attn1." in k}
        for state, scale, strength in (
            (random_state(bank, 1), ALPHA / RANK, 0.8),
            (attention, 0.5, -0.5),
            (dora_state(bank, 4), ALPHA / RANK, 0.6),
        ):
            for name, layer in layers.items():
                if f"unet.{name}.lora_A.weight" not in state:
                    continue
                down, up = (state[f"unet.{name}.lora_{side}.weight"].flatten(1) for side in "AB")
                changed = before[name] + (up @ down).view_as(before[name]) * scale
                if (magnitude := state.get(f"unet.{name}.lora_magnitude_vector")) is not None:
                    grown = magnitude.flatten() / changed.flatten(1).norm(dim=1)
                    changed = changed * grown.view(-1, *[1] * (changed.ndim - 1))
                layer.weight += (changed - before[name]) * strength
        assert torch.allclose(unet(**inputs(2)).sample, merged(**inputs(2)).sample, rtol=1e-4, atol=1e-5)

    @torch.no_grad()
    def test_a_dora_follows_when_the_base_gets_other_weights(self, bank, unet):
        bank.select([{"d": 1.0}])
        before = unet(**inputs(1)).sample
        for layer in bank.layers.values():
            layer.base.weight.mul_(1.5)
        bank.base_changed()
        bank.select([{"d": 1.0}])
        after = unet(**inputs(1)).sample
        fresh = serve_again(bank, unet)
        fresh.add("d", dora_state(fresh, 4), alpha=ALPHA)
        fresh.select([{"d": 1.0}])
        assert torch.equal(unet(**inputs(1)).sample, after)
        assert distance(after, before) > 1e-3

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
        magnitude = key.replace("lora_A.weight", "lora_magnitude_vector")
        for change in (
            {key: torch.zeros(4, 3)},
            {magnitude: torch.ones(3)},
            {"unet.nowhere.lora_A.weight": torch.zeros(4, 3)},
        ):
            with pytest.raises(ValueError, match=r"does not fit|no layer"):
                bank.add("a", state | change)
        assert bank.names == {"a", "b", "c", "d"}

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

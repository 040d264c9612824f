from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from contracts.failures import FailureCode, PatinaError
from inference import engine as engine_module
from inference.engine import AdapterUse, Engine, EngineRequest
from sdxl import files as base_files
from sdxl.formats import load_adapter, save_adapter, save_full
from sdxl.lora_layer import LoraLayer


def request(prompt: str = "red heart", *, seeds=(3,), size=(64, 64), **changes) -> EngineRequest:
    return EngineRequest(prompt, seeds, *size, **{"steps": 3} | changes)


def differs(a, b) -> float:
    return float(np.abs(a - b).max())


class TestGenerate:
    def test_equals_the_stock_pipeline_with_the_lora_loaded(self, engine, tiny_base, make_adapter):
        path = make_adapter(1)
        pipe = StableDiffusionXLPipeline.from_pretrained(tiny_base, dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        pipe.load_lora_weights(path)
        stock = pipe(
            "red heart",
            negative_prompt="blurry",
            num_inference_steps=3,
            guidance_scale=5.0,
            generator=torch.Generator().manual_seed(3),
            output_type="np",
        ).images
        asked = request(negative_prompt="blurry", adapters=(AdapterUse("a", path),))
        (ours,) = engine.generate_unit([asked])
        assert differs(ours, stock) < 1e-4
        ((eight_bits,),) = engine.generate([asked])
        assert eight_bits.dtype == np.uint8
        assert np.abs(eight_bits.astype(int) - (stock[0] * 255).round().astype(int)).max() <= 1

    def test_requests_with_different_adapters_in_one_batch_equal_themselves_alone(self, engine, make_adapter):
        a, b = (AdapterUse(f"lora {seed}", make_adapter(seed)) for seed in (1, 2))
        asked = [
            request(seeds=(3, 4), adapters=(a,)),
            request(),
            request("a face", adapters=(a, b), guidance_scale=7.5),
            request(size=(96, 64), guidance_scale=1.0, adapters=(b,)),
        ]
        batches = []
        together = engine.generate_unit(asked, progress=lambda who, done, steps: batches.append((who, done, steps)))
        assert [found.shape for found in together] == [(2, 64, 64, 3), (1, 64, 64, 3), (1, 64, 64, 3), (1, 64, 96, 3)]
        assert batches == [((0, 1, 2), n, 3) for n in (1, 2, 3)] + [((3,), n, 3) for n in (1, 2, 3)]
        for one, found in zip(asked, together, strict=True):
            (alone,) = engine.generate_unit([one])
            assert differs(alone, found) < 1e-4
        assert differs(together[0][0], together[1][0]) > 1e-3

    def test_a_request_with_bad_weights_fails_alone(self, engine, make_adapter, make_header, tmp_path, shapes):
        (tmp_path / "bad.safetensors").write_bytes(b"no")
        bad, good = engine.generate_unit(
            [request(adapters=(AdapterUse("bad", tmp_path / "bad.safetensors"),)), request()]
        )
        assert isinstance(bad, PatinaError)
        assert bad.code is FailureCode.WEIGHTS_UNREADABLE
        assert good.shape == (1, 64, 64, 3)

    def test_weights_of_another_base_are_refused_with_both_identities(
        self, engine, make_adapter, make_header, base_identity, tmp_path
    ):
        other = tmp_path / "other.safetensors"
        save_adapter(other, load_adapter(make_adapter(1)).state, make_header(base_identity="e" * 64))
        (refused,) = engine.generate([request(adapters=(AdapterUse("a", other),))])
        assert isinstance(refused, PatinaError)
        assert refused.code is FailureCode.BASE_MISMATCH
        assert base_identity in refused.message
        assert "e" * 64 in refused.message

    def test_a_base_whose_files_were_changed_since_is_refused(self, tiny_base, base_identity, tmp_path):
        with pytest.raises(PatinaError) as caught:
            Engine(tiny_base, base_identity="e" * 64, identity_cache=tmp_path)
        assert caught.value.code is FailureCode.BASE_MISMATCH
        assert f"it was registered as {'e' * 12}, and is {base_identity[:12]}" in caught.value.message

    def test_memory_that_runs_out_while_weights_are_chosen_leaves_none_of_them_on_others(
        self, engine, make_adapter, monkeypatch
    ):
        plain = [request(seeds=(1,)), request(seeds=(2,))]
        styled = [request(seeds=(n,), adapters=(AdapterUse("a", make_adapter(1)),)) for n in (3, 4)]
        expected = engine.generate_unit([*plain, *styled])
        engine.generate_unit(plain)
        use, taken = LoraLayer.use_mixed, []

        def running_out(layer, *given):
            taken.append(layer)
            if len(taken) == 5:
                raise torch.OutOfMemoryError
            return use(layer, *given)

        monkeypatch.setattr(LoraLayer, "use_mixed", running_out)
        found = engine.generate_unit([*plain, *styled])
        assert len(taken) == 5
        for made, wanted in zip(found, expected, strict=True):
            assert differs(made, wanted) < 1e-4

    def test_weights_the_device_has_no_memory_for_fail_alone_and_leave_nothing(self, engine, make_adapter, monkeypatch):
        def no_room(*_, **__):
            raise torch.OutOfMemoryError

        with monkeypatch.context() as patched:
            patched.setattr(engine._text_bank, "add", no_room)
            failed, good = engine.generate_unit([request(adapters=(AdapterUse("a", make_adapter(1)),)), request()])
        assert isinstance(failed, PatinaError)
        assert failed.code is FailureCode.OUT_OF_MEMORY
        assert good.shape == (1, 64, 64, 3)
        assert engine._bank.names == set()
        assert engine.adapters.held_bytes == 0

    def test_stops_when_nobody_waits_any_more(self, engine):
        steps = []
        first, second = engine.generate(
            [request(steps=9), request(size=(96, 64))],
            progress=lambda who, done, _: steps.append((who, done)),
            cancelled=lambda index: index == 0 and len(steps) >= 2,
        )
        assert isinstance(first, PatinaError)
        assert first.code is FailureCode.CANCELLED
        assert len(second) == 1
        assert steps[:2] == [((0,), 1), ((0,), 2)]
        assert ((0,), 4) not in steps

    def test_a_batch_too_large_for_the_device_is_halved(self, engine, monkeypatch):
        real, sizes = engine_module.sample, []

        def small_device(base, conditioning, **given):
            sizes.append(len(conditioning))
            if len(conditioning) > 1:
                raise torch.OutOfMemoryError
            return real(base, conditioning, **given)

        expected = engine.generate_unit([request(seeds=(3, 4, 5))])[0]
        monkeypatch.setattr(engine_module, "sample", small_device)
        (found,) = engine.generate_unit([request(seeds=(3, 4, 5))])
        assert sizes == [3, 1, 2, 1, 1]
        assert differs(found, expected) < 1e-4

    def test_one_picture_too_large_for_the_device_says_so(self, engine, monkeypatch):
        def no_device(*_, **__):
            raise torch.OutOfMemoryError

        monkeypatch.setattr(engine_module, "sample", no_device)
        (failed,) = engine.generate([request(seeds=(1, 2))])
        assert isinstance(failed, PatinaError)
        assert failed.code is FailureCode.OUT_OF_MEMORY

    @pytest.mark.gpu
    def test_runs_in_half_precision_on_a_gpu(self, tiny_base, make_adapter):
        engine = Engine(tiny_base, device="cuda")
        found = engine.generate_unit([request(), request(adapters=(AdapterUse("a", make_adapter(1)),))])
        assert all(np.isfinite(pictures).all() for pictures in found)
        engine.close()


class TestFullFineTunes:
    @pytest.fixture
    def full(self, tiny_base, tmp_path, make_header):
        """Writes the base's UNet changed by a factor, and perhaps one value that is no number."""

        def make(name: str, factor: float, poison: float = 0.0):
            state = {k: t.float() * factor for k, t in base_files.tensors(base_files.open_base(tiny_base), "unet")}
            list(state.values())[-1].view(-1)[0] += poison
            save_full(tmp_path / name, state, make_header(method="full", rank=None, alpha=None, targets=None))
            return tmp_path / name

        return make

    def test_take_the_place_of_the_base_and_give_it_back(self, engine, tiny_base, full):
        weights = tiny_base / "unet" / "diffusion_pytorch_model.safetensors"
        on_disk = hashlib.sha256(weights.read_bytes()).hexdigest()
        (plain,) = engine.generate_unit([request()])
        same, changed, again = engine.generate_unit(
            [
                request(full_weights=full("same.safetensors", 1.0)),
                request(full_weights=full("changed.safetensors", 1.1)),
                request(),
            ]
        )
        assert differs(same, plain) == 0
        assert differs(changed, plain) > 1e-3
        assert differs(again, plain) == 0
        assert hashlib.sha256(weights.read_bytes()).hexdigest() == on_disk

    def test_a_bad_one_leaves_the_base_in_place(self, engine, full):
        (plain,) = engine.generate_unit([request()])
        bad, after = engine.generate_unit(
            [request(full_weights=full("bad.safetensors", 1.1, poison=float("nan"))), request()]
        )
        assert isinstance(bad, PatinaError)
        assert bad.code is FailureCode.WEIGHTS_UNREADABLE
        assert differs(after, plain) == 0

    def test_adapters_act_on_top(self, engine, full, make_adapter):
        tuned = full("tuned.safetensors", 1.1)
        use = (AdapterUse("a", make_adapter(1)),)
        with_both, alone = engine.generate_unit(
            [request(full_weights=tuned, adapters=use), request(full_weights=tuned)]
        )
        assert differs(with_both, alone) > 1e-3


class TestClose:
    def test_lets_go_of_the_networks(self, engine):
        engine.close()
        assert engine.base.unet is None

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from contracts.base import AUTOCAST, DORA, DROPOUT, FULL, BaseProfile
from contracts.footprint import Work
from contracts.lora import TEXT_ENCODERS, UNET, Adaptation
from sdxl import profile
from sdxl.base import load_base
from sdxl.files import SDXL_CONFIGS, BaseFiles, open_base
from sdxl.full import trained_weights
from sdxl.live import peak_bytes_of
from sdxl.lora import attach, attach_all
from sdxl.profile import profile_of, trace_profile
from tests.profiles import few_traces

DEMO_BASE = Path(__file__).parents[2] / "bases" / "emoji-xl"
IMAGES, SIDE = 3, 16


@pytest.fixture(scope="module")
def traced(tiny_base: Path, known_shapes: Path) -> BaseProfile:
    return profile_of(open_base(tiny_base), known_shapes)


@pytest.fixture(scope="module")
def traced_whole(tiny_base: Path) -> BaseProfile:
    return trace_profile(open_base(tiny_base))


class TestTraceProfile:
    @pytest.mark.parametrize(
        "what",
        ["attn", "attn-ff", "attn-ff-conv+dropout", "attn-ff+dora+dropout", "full", "full+autocast"],
    )
    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_knows_what_a_real_step_has_alive(
        self, tiny_base: Path, traced: BaseProfile, what: str, checkpointing: bool
    ) -> None:
        self._compare(tiny_base, traced, what, checkpointing)

    @pytest.mark.slow
    @pytest.mark.parametrize("what", ["attn-ff-conv", "attn-ff+dora"])
    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_knows_what_the_other_steps_have_alive(
        self, tiny_base: Path, traced_whole: BaseProfile, what: str, checkpointing: bool
    ) -> None:
        self._compare(tiny_base, traced_whole, what, checkpointing)

    def _compare(self, tiny_base: Path, traced: BaseProfile, what: str, checkpointing: bool) -> None:
        unet = load_base(tiny_base, dtype=torch.float32, components={"unet"}).unet
        if checkpointing:
            unet.enable_gradient_checkpointing()
        rank = 0 if what.startswith(FULL) else 4
        autocast = AUTOCAST in what
        if rank:
            _attach(unet, rank, what)
        else:
            unet.requires_grad_(True)

        def step() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                predicted = _call(unet)
            (predicted.float() - torch.zeros_like(predicted, dtype=torch.float32)).square().mean().backward()

        counted = peak_bytes_of(step, ignored=_resident(unet))
        footprints = traced.steps[what]
        footprint = footprints.checkpointed if checkpointing else footprints.plain
        work = Work(images=IMAGES, positions=SIDE * SIDE, rank=rank, bytes_each=2 if autocast else 4)
        assert footprint.peak_bytes(work) == pytest.approx(counted, rel=0.05)

    @pytest.mark.parametrize("kind", ["nf4", "int8"])
    @pytest.mark.parametrize(
        "what",
        ["attn-ff", *(pytest.param(f"attn-ff{w}", marks=pytest.mark.slow) for w in ("+dora+dropout", "+dropout"))],
    )
    def test_a_quantised_step_keeps_no_more_than_one_dense_weight_besides(
        self, tiny_base: Path, traced: BaseProfile, what: str, kind: Any
    ) -> None:
        unet = load_base(tiny_base, dtype=torch.float32, components={"unet"}, quantize=kind).unet
        _attach(unet, 4, what)

        def step() -> None:
            _call(unet).square().mean().backward()

        counted = peak_bytes_of(step, ignored=_resident(unet))
        dense = traced.packed_largest * 4
        # The scales, which are no buffers, are seen too.
        scales = 20_000 + traced.packed_weights // 32
        planned = traced.steps[what].plain.peak_bytes(_work(4))
        assert 0.95 * planned < counted < 1.05 * (planned + dense) + scales

    def test_knows_what_sampling_and_the_vae_have_alive(self, tiny_base: Path, traced: BaseProfile) -> None:
        base = load_base(tiny_base, dtype=torch.float32, components={"unet", "vae"})
        weights = [*base.unet.parameters(), *base.vae.parameters()]
        with torch.no_grad():
            sampling = peak_bytes_of(lambda: _call(base.unet), ignored=weights)
            decoding = peak_bytes_of(lambda: base.vae.decode(torch.zeros(IMAGES, 4, SIDE, SIDE)), ignored=weights)
            pixels = torch.zeros(IMAGES, 3, SIDE * base.vae_factor, SIDE * base.vae_factor)
            encoding = peak_bytes_of(lambda: base.vae.encode(pixels).latent_dist.var, ignored=weights)
        assert traced.sampling.peak_bytes(_work(0)) == pytest.approx(sampling, rel=0.05)
        assert traced.vae_decoding.peak_bytes(_work(0)) == pytest.approx(decoding, rel=0.05)
        assert traced.vae_encoding.peak_bytes(_work(0)) == pytest.approx(encoding, rel=0.05)

    @pytest.mark.parametrize("name", TEXT_ENCODERS)
    def test_knows_what_encoding_with_a_text_encoder_that_is_trained_whole_keeps(
        self, tiny_base: Path, traced: BaseProfile, name: str
    ) -> None:
        encoder = getattr(load_base(tiny_base, dtype=torch.float32, components={name}), name)
        trained = trained_weights(name, encoder)
        for weight in trained.values():
            weight.requires_grad_(True)
        tokens, kept = torch.zeros(IMAGES, 77, dtype=torch.int64), []
        counted = peak_bytes_of(
            lambda: kept.append(encoder(tokens, output_hidden_states=True)),
            ignored=[*encoder.parameters(), *encoder.buffers(), tokens],
        )
        assert traced.full_text_steps[name].peak_bytes(_work(0)) == pytest.approx(counted, rel=0.05)
        assert traced.text_trained[name] == sum(weight.numel() for weight in trained.values())

    def test_counts_what_is_there(self, tiny_base: Path, traced: BaseProfile) -> None:
        unet = load_base(tiny_base, dtype=torch.float32, components={"unet"}).unet
        assert traced.unet_parameters == sum(p.numel() for p in unet.parameters())
        bank = attach(unet, rank=4, alpha=4, targets="attn-ff", seed=0)
        features = sum(inputs + outputs for inputs, outputs in traced.adapted("attn-ff").values())
        assert 4 * features == sum(p.numel() for p in bank.parameters())
        assert {f"unet.{name}" for name in traced.adapted("attn-ff")} == set(bank.module_names)


@pytest.mark.timeout(900)
class TestStoredProfiles:
    """Tracing all ways of training takes minutes at full size."""

    @pytest.mark.slow
    def test_that_of_the_tests_is_as_it_would_be_traced_now(
        self, tiny_base: Path, known_shapes: Path, traced_whole: BaseProfile
    ) -> None:
        assert profile_of(open_base(tiny_base), known_shapes) == traced_whole

    @pytest.mark.slow
    def test_the_demo_base_is_one_and_as_it_would_be_traced_now(self) -> None:
        files = open_base(DEMO_BASE)
        with few_traces(tuple((targets, "") for targets in profile.TARGET_SETS)):
            traced = trace_profile(files)
        stored = profile_of(files)
        assert traced.steps.items() <= stored.steps.items()
        assert traced.text_steps.items() <= stored.text_steps.items()
        rest = {"steps": traced.steps, "text_steps": traced.text_steps}
        assert stored.model_copy(update=rest) == traced

    @pytest.mark.slow
    def test_the_demo_base_is_traced_alike_with_dora_and_dropout(self) -> None:
        files = open_base(DEMO_BASE)
        assert profile_of(files) == trace_profile(files)

    def test_a_base_of_a_stored_shape_is_not_traced(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(profile, "trace_profile", None)
        assert profile_of(open_base(DEMO_BASE)).unet_parameters > 0

    @pytest.mark.slow
    def test_real_sdxl_is_one_and_as_it_would_be_traced_now(self) -> None:
        files = BaseFiles(SDXL_CONFIGS, SDXL_CONFIGS, SDXL_CONFIGS, single_file=False)
        (stored,) = profile.KNOWN.glob("sdxl-1.0.*.json")
        assert BaseProfile.model_validate_json(stored.read_text()) == trace_profile(files)

    def test_real_sdxl_is_as_its_makers_say(self) -> None:
        (stored,) = profile.KNOWN.glob("sdxl-1.0.*.json")
        found = BaseProfile.model_validate_json(stored.read_text())
        assert found.unet_parameters == 2_567_463_684
        assert found.vae_parameters == 83_653_863
        assert (len(found.adapted("attn")), len(found.adapted("attn-ff"))) == (560, 722)
        assert sum(inputs + outputs for inputs, outputs in found.adapted("attn-ff").values()) == 2_659_840
        native = Work(images=1, positions=128 * 128, rank=16, bytes_each=2)
        step = found.steps["attn-ff"]
        assert step.checkpointed.peak_bytes(native) < step.plain.peak_bytes(native) / 5
        # Every Linear of the transformers, but for those of time and size.
        assert 0.8 < found.packed_weights / found.unet_parameters < 0.9


def _call(unet: Any) -> torch.Tensor:
    predicted: torch.Tensor = unet(
        torch.zeros(IMAGES, 4, SIDE, SIDE),
        torch.zeros(IMAGES),
        torch.zeros(IMAGES, 77, 64),
        added_cond_kwargs={"text_embeds": torch.zeros(IMAGES, 32), "time_ids": torch.zeros(IMAGES, 6)},
        return_dict=False,
    )[0]
    return predicted


def _attach(unet: Any, rank: int, what: str) -> None:
    targets: Any = what.partition("+")[0]
    how = Adaptation(rank=rank, alpha=4, targets=targets, dora=DORA in what, dropout=0.5 if DROPOUT in what else 0.0)
    attach_all({UNET: unet}, {UNET: how}, seed=0).dropout_keys(range(IMAGES))


def _resident(unet: Any) -> list[torch.Tensor]:
    """What a step finds there: weights, packed ones included, and gradients."""
    found = [*unet.parameters(), *unet.buffers()]
    for parameter in unet.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
            found.append(parameter.grad)
    return found


def _work(rank: int) -> Work:
    return Work(images=IMAGES, positions=SIDE * SIDE, rank=rank, bytes_each=4)

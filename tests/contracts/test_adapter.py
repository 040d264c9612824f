"""The header of weights files: ours comes back, other tools find their keys, and strange text is no header."""

from __future__ import annotations

import pytest

from contracts.adapter import AdapterHeader, shared_denoising
from contracts.base import Denoising
from contracts.failures import InvalidInput

HEADER = AdapterHeader(
    name="my-style", method="lora", base_identity="a" * 64, config_digest="b" * 64, dataset_version="c" * 64,
    trigger_word="tok", rank=8, alpha=4.0, targets="attn-ff", resolution_px=1024, prediction_type="v_prediction",
    steps=100, created="2026-01-01T00:00:00+00:00",
)  # fmt: skip
ASKED_OF_MODELSPEC = {
    "modelspec.sai_model_spec",
    "modelspec.architecture",
    "modelspec.implementation",
    "modelspec.title",
    "modelspec.resolution",
}
ASKED_BY_KOHYA = {
    "ss_v2",
    "ss_base_model_version",
    "ss_network_module",
    "ss_network_dim",
    "ss_network_alpha",
    "ss_network_args",
}


class TestAdapterHeader:
    def test_comes_back_from_its_metadata(self) -> None:
        assert AdapterHeader.from_metadata(HEADER.to_metadata()) == HEADER
        weaker = HEADER.model_copy(update={"strength_pattern": {"up_blocks.*": 0.5}})
        assert AdapterHeader.from_metadata(weaker.to_metadata()) == weaker
        assert "strength_pattern" not in HEADER.to_metadata()["patina.header"]

    def test_has_what_other_tools_must_find_all_of_it_text(self) -> None:
        metadata = HEADER.to_metadata()
        assert metadata.keys() >= ASKED_OF_MODELSPEC | ASKED_BY_KOHYA
        assert {type(value) for value in metadata.values()} == {str}
        assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
        assert metadata["modelspec.trigger_phrase"] == "tok"
        assert metadata["modelspec.prediction_type"] == "v"
        assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("8", "4.0")

    def test_of_a_full_fine_tune_claims_no_network(self) -> None:
        full = HEADER.model_copy(update={"method": "full", "rank": None, "alpha": None, "targets": None})
        metadata = full.to_metadata()
        assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base"
        assert not [key for key in metadata if key.startswith("ss_network")]

    @pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", HEADER.model_dump_json().replace("4.0", "Infinity")])
    def test_is_none_where_there_is_none_to_be_trusted(self, text: str | None) -> None:
        assert AdapterHeader.from_metadata({} if text is None else {"patina.header": text}) is None
        assert AdapterHeader.from_metadata(None) is None


class TestSharedDenoising:
    BASE = Denoising("epsilon")
    VELOCITY = HEADER.model_copy(update={"zero_terminal_snr": False})
    FROM_PURE_NOISE = HEADER.model_copy(update={"name": "dark", "zero_terminal_snr": True})

    def test_is_what_the_weights_say_and_without_any_the_base(self) -> None:
        assert shared_denoising(self.BASE, []) == self.BASE
        assert shared_denoising(self.BASE, [self.VELOCITY, self.VELOCITY]) == Denoising("v_prediction", False)
        assert shared_denoising(self.BASE, [self.FROM_PURE_NOISE]) == Denoising("v_prediction", True)

    def test_what_an_older_file_leaves_unsaid_is_as_its_base(self) -> None:
        older = HEADER.model_dump(mode="json")
        del older["zero_terminal_snr"]
        read = AdapterHeader.model_validate(older)
        for pure in (False, True):
            assert shared_denoising(Denoising("v_prediction", pure), [read]) == Denoising("v_prediction", pure)

    def test_weights_that_differ_are_refused_by_name(self) -> None:
        with pytest.raises(InvalidInput) as caught:
            shared_denoising(self.BASE, [self.VELOCITY, self.FROM_PURE_NOISE])
        assert [error.pointer for error in caught.value.errors] == ["/weights"]
        assert (
            "'my-style' predicts v, from nearly pure noise; 'dark' predicts v, from pure noise" in caught.value.message
        )
        again = self.VELOCITY.model_copy(update={"prediction_type": "epsilon"})
        with pytest.raises(InvalidInput, match=r"'my-style' predicts v.*'my-style' predicts the noise"):
            shared_denoising(self.BASE, [self.VELOCITY, again])

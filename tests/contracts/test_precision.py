"""What the ways of saving memory rule out is said with the reason, all of it at once."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.failures import InvalidInput
from contracts.train import parse_config

FUSED = {"method": "full", "full": {"master_weights": "bf16-stochastic", "fused_backward": True}}


def refusals(values: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(InvalidInput) as caught:
        parse_config(values)
    return {error.pointer: error.message for error in caught.value.errors}


class TestFullFineTuning:
    def test_updating_in_the_backward_pass_rules_out_sums_and_common_norms(self) -> None:
        wrong = refusals({**FUSED, "precision": "fp16", "gradient_accumulation_steps": 2})
        assert set(wrong) == {"/gradient_accumulation_steps", "/optimizer/max_grad_norm", "/precision"}
        assert "a common norm needs all gradients" in wrong["/optimizer/max_grad_norm"]

    def test_goes_without_both(self) -> None:
        config = parse_config({**FUSED, "optimizer": {"kind": "adamw8bit", "max_grad_norm": None}})
        assert config.full.fused_backward
        # Adafactor clips for itself: it needs nothing said.
        assert parse_config({**FUSED, "optimizer": {"kind": "adafactor"}}).optimizer.max_grad_norm is None

    def test_bf16_weights_are_computed_with_in_bf16(self) -> None:
        full = {"master_weights": "bf16-stochastic"}
        wrong = refusals({"method": "full", "full": full, "precision": "fp32", "gradient_accumulation_steps": 4})
        assert set(wrong) == {"/precision", "/gradient_accumulation_steps"}

    def test_adapters_on_text_encoders_are_refused_of_it(self) -> None:
        wrong = refusals({"method": "full", "lora": {"text_encoder": {}, "rank": 4}})
        assert wrong == {"/lora/text_encoder": "would train nothing with method full: set full.text_encoder"}

    def test_its_settings_are_refused_of_adapters(self) -> None:
        assert "always kept in fp32" in refusals({"full": {"fused_backward": True}})["/full"]


class TestQuantising:
    def test_is_for_weights_that_are_not_trained(self) -> None:
        assert "cannot be kept in a few bits" in refusals({"method": "full", "quantize": "nf4"})["/quantize"]
        assert parse_config({"quantize": "int8"}).quantize == "int8"

    def test_knows_its_kinds(self) -> None:
        assert "/quantize" in refusals({"quantize": "fp4"})

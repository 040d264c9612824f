"""What is not installed is said before anything is loaded, with what to install."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import trainer.needs
from contracts.failures import InvalidInput
from contracts.optimizers import BITSANDBYTES_KINDS
from contracts.train import parse_config
from tests.trainer.tiny import make_recipe, train
from trainer.needs import refuse_missing_libraries


@pytest.fixture
def without_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    found: Any = trainer.needs.find_spec
    monkeypatch.setattr(trainer.needs, "find_spec", lambda name: None if name == "bitsandbytes" else found(name))


@pytest.mark.usefixtures("without_bitsandbytes")
class TestWithoutBitsandbytes:
    @pytest.mark.parametrize("kind", sorted(BITSANDBYTES_KINDS))
    def test_an_8_bit_optimiser_is_refused_with_what_to_install(self, kind: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            refuse_missing_libraries(parse_config({"optimizer": {"kind": kind}}))
        (error,) = caught.value.errors
        assert error.pointer == "/optimizer/kind"
        assert f"{kind} needs the library bitsandbytes" in error.message
        assert "pip install bitsandbytes" in caught.value.hint

    def test_every_setting_that_needs_it_is_named(self) -> None:
        with pytest.raises(InvalidInput) as caught:
            refuse_missing_libraries(parse_config({"quantize": "nf4", "optimizer": {"kind": "lion8bit"}}))
        assert {error.pointer for error in caught.value.errors} == {"/quantize", "/optimizer/kind"}

    def test_what_needs_it_not_goes_on(self) -> None:
        refuse_missing_libraries(parse_config({"optimizer": {"kind": "adafactor"}}))

    def test_the_command_says_so_and_loads_nothing(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], base_dir: Path, pictures: Path
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, optimizer__kind="adamw8bit")
        assert train(recipe, tmp_path / "run", tmp_path / "cache") == 1
        assert "optimizer.kind: adamw8bit needs the library bitsandbytes" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


class TestWithBitsandbytes:
    def test_every_kind_goes_on(self) -> None:
        for kind in BITSANDBYTES_KINDS:
            refuse_missing_libraries(parse_config({"optimizer": {"kind": kind}}))

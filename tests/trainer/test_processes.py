"""The processes of a run: alone when nothing says otherwise, and plain about what they cannot do."""

from __future__ import annotations

import pytest
import torch

from contracts.failures import InvalidInput
from trainer.processes import join


class TestJoin:
    def test_alone_is_one_process_whose_sums_are_its_own(self) -> None:
        processes = join()
        assert (processes.rank, processes.count, processes.is_main) == (0, 1, True)
        assert processes.sum_(torch.tensor([2.0])).tolist() == [2.0]
        assert processes.from_main({"a": 1}) == {"a": 1}

    @pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
    def test_refuses_what_it_does_not_do(self, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(variable, "true")
        with pytest.raises(InvalidInput, match="is not supported"):
            join()

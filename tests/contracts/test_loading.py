from __future__ import annotations

import gc

import pytest

from contracts.loading import loading


class TestLoading:
    def test_collects_nothing_meanwhile_and_again_afterwards(self) -> None:
        assert gc.isenabled()
        with loading():
            assert not gc.isenabled()
        assert gc.isenabled()

    def test_leaves_what_was_made_out_of_later_searches(self) -> None:
        before = gc.get_freeze_count()
        try:
            with loading():
                made = [[] for _ in range(1000)]
            assert gc.get_freeze_count() - before >= len(made)
        finally:
            gc.unfreeze()

    def test_does_not_start_collecting_where_that_was_switched_off(self) -> None:
        gc.disable()
        try:
            with loading():
                pass
            assert not gc.isenabled()
        finally:
            gc.enable()

    def test_goes_on_collecting_after_an_import_that_failed(self) -> None:
        with pytest.raises(ImportError), loading():
            raise ImportError
        assert gc.isenabled()

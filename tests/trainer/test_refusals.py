"""What is wrong with several inputs of a run is said together."""

from __future__ import annotations

import pytest

from contracts.failures import FailureCode, FieldError, InvalidInput, PatinaError
from trainer.refusals import Refusals

NO_BASE = PatinaError(FailureCode.BASE_UNREADABLE, "No base.", "Give one.")
NO_DATA = InvalidInput([FieldError(pointer="/prior/concept", message="no picture has it")], "No data.", "Give some.")


def refusing(*errors: PatinaError) -> Refusals:
    refused = Refusals()
    for error in errors:
        with refused.asking():
            raise error
    return refused


class TestRefusals:
    def test_several_are_one_failure_with_all_their_words_and_the_first_ones_code(self) -> None:
        with pytest.raises(PatinaError) as caught:
            refusing(NO_BASE, NO_DATA).say()
        assert (caught.value.code, caught.value.message, caught.value.hint) == (
            "base_unreadable", "No base. No data. /prior/concept: no picture has it.", "Give one. Give some.",
        )  # fmt: skip

    def test_one_is_itself_however_often_it_was_found(self) -> None:
        with pytest.raises(InvalidInput) as caught:
            refusing(NO_DATA, NO_DATA).say()
        assert caught.value is NO_DATA

    def test_without_one_nothing_is_said_and_what_is_no_refusal_is_not_kept(self) -> None:
        refusing().say()
        with pytest.raises(KeyError), Refusals().asking():
            raise KeyError

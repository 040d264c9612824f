"""What becomes of a caption before it is encoded."""

from __future__ import annotations

import pytest

from contracts.captions import clean_caption, with_trigger


class TestCleanCaption:
    @pytest.mark.parametrize(
        ("given", "kept"), [(" a\tred\r\nheart ", "a red heart"), ("e\u0301", "\u00e9"), ("a\x00b", "a b"), ("\n", "")]
    )
    def test_is_one_line_of_composed_visible_text(self, given: str, kept: str) -> None:
        assert clean_caption(given) == kept
        assert clean_caption(kept) == kept


class TestWithTrigger:
    @pytest.mark.parametrize(
        ("caption", "word", "trained"),
        [
            ("a cat", "tok", "tok, a cat"),
            ("a cat, TOK", "tok", "a cat, TOK"),
            ("", "tok", "tok"),
            ("a cat", None, "a cat"),
        ],
    )
    def test_puts_the_word_in_front_once(self, caption: str, word: str | None, trained: str) -> None:
        assert with_trigger(caption, word) == trained

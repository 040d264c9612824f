"""Caption sidecars as they are offered."""

from __future__ import annotations

import codecs

import pytest

from worker.captions import decoded_text


class TestDecodedText:
    def test_a_byte_order_mark_is_no_part_of_it(self) -> None:
        assert decoded_text("\ufeffa cat".encode()) == "a cat"

    def test_utf_16_is_read_when_it_says_so(self) -> None:
        assert decoded_text(codecs.BOM_UTF16_LE + "a cat".encode("utf-16-le")) == "a cat"
        assert decoded_text(codecs.BOM_UTF16_BE + "a cat".encode("utf-16-be")) == "a cat"

    def test_what_is_not_text_is_none(self) -> None:
        assert decoded_text(b"\xff\xfe\x00") is None
        assert decoded_text(b"caf\xe9") is None

    @pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32"])
    def test_wide_text_that_does_not_say_so_is_none_and_not_letters_apart(self, encoding: str) -> None:
        assert decoded_text("a red car".encode(encoding)) is None

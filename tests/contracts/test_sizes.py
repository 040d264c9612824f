from __future__ import annotations

import pytest

from contracts.sizes import parse_bytes, size


class TestParseBytes:
    @pytest.mark.parametrize(("text", "count"), [("8GB", 2**33), ("12.5 GiB", 12.5 * 2**30), ("500mb", 500 * 2**20)])
    def test_reads_sizes_as_they_are_on_cards(self, text: str, count: float) -> None:
        assert parse_bytes(text) == count

    @pytest.mark.parametrize("text", ["8", "GB", "eight GB", "-1GB", "8 parsecs", "9" * 400 + "GB"])
    def test_refuses_what_is_none(self, text: str) -> None:
        with pytest.raises(ValueError, match="no amount of memory"):
            parse_bytes(text)


class TestSize:
    @pytest.mark.parametrize(
        ("count", "words"),
        [
            (12, "12 bytes"),
            (1023, "1023 bytes"),
            (1536, "1.5 KiB"),
            (320 * 2**20, "320 MiB"),
            (2**33, "8 GiB"),
            (2**42, "4 TiB"),
        ],
    )
    def test_leaves_a_number_a_person_can_read(self, count: int, words: str) -> None:
        assert size(count) == words

    def test_is_read_back_as_what_it_was(self) -> None:
        assert parse_bytes(size(12.5 * 2**30)) == 12.5 * 2**30

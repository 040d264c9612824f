"""Reading a base's tensors: what it costs in memory (what is read is tested with identities and loading)."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdxl import files as base_files

LOOK_EVERY = 25
"""Tensors between looks, which take a while."""


class TestTensors:
    def test_what_was_read_and_is_not_held_leaves_memory(
        self, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = base_files.open_base(tiny_base)
        monkeypatch.setattr(base_files, "MAPPED_PARTS", 1)
        whole = _most_resident_bytes(files)
        monkeypatch.setattr(base_files, "MAPPED_PARTS", 16)
        assert 0 < _most_resident_bytes(files) < whole / 2

    def test_opening_a_file_anew_changes_nothing(self, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        files = base_files.open_base(tiny_base)
        whole = dict(base_files.tensors(files, "unet"))
        monkeypatch.setattr(base_files, "MAPPED_PARTS", 10**9)
        pieces = dict(base_files.tensors(files, "unet"))
        assert list(pieces) == list(whole)
        assert all(pieces[key].equal(tensor) for key, tensor in whole.items())


def _most_resident_bytes(files: base_files.BaseFiles) -> int:
    (path,) = base_files.weight_files(files, "unet")
    most = 0
    for number, (_, tensor) in enumerate(base_files.tensors(files, "unet")):
        tensor.sum()  # reads every page
        if number % LOOK_EVERY == 0:
            most = max(most, _resident_bytes(path))
    return most


def _resident_bytes(path: Path) -> int:
    """How much of a mapped file this process has in memory."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            ours = rest[-1:] == [str(path)]
        elif ours and first == "Rss:":
            total += int(rest[0]) * 1024
    return total

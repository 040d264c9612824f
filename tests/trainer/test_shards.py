"""The cache's shards: adding is cheap, sharing is safe, damage is made good."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from trainer.shards import Shards, Tensors


def entries(*keys: str) -> Iterator[tuple[str, Tensors]]:
    for key in keys:
        yield key, {"mean": torch.full((2, 3), float(len(key))), "half": torch.ones(2, dtype=torch.bfloat16)}


def unwanted() -> Tensors:
    raise AssertionError("it is in the cache")


def made(key: str) -> Tensors:
    return dict(entries(key))[key]


class TestShards:
    def test_give_back_what_was_put_in_with_shape_and_type(self, tmp_path: Path) -> None:
        Shards(tmp_path).add(entries("a", "bb"))
        found = Shards(tmp_path).read("bb", unwanted)
        assert torch.equal(found["mean"], torch.full((2, 3), 2.0))
        assert found["half"].dtype == torch.bfloat16

    def test_adding_touches_no_shard_that_is_there(self, tmp_path: Path) -> None:
        shards = Shards(tmp_path)
        shards.add(entries("a"))
        (before,) = tmp_path.iterdir()
        stamp = before.stat().st_mtime_ns
        shards.add(entries("bb"))
        assert len(list(tmp_path.iterdir())) == 2
        assert before.stat().st_mtime_ns == stamp

    def test_two_builders_at_once_leave_a_cache_with_everything(self, tmp_path: Path) -> None:
        first, second = Shards(tmp_path), Shards(tmp_path)

        def interleaved() -> Iterator[tuple[str, Tensors]]:
            yield from entries("a")
            second.add(entries("a", "ccc"))
            yield from entries("bb")

        first.add(interleaved())
        third = Shards(tmp_path)
        assert all(key in third for key in ("a", "bb", "ccc"))
        assert all(path.suffix == ".arrow" and not path.name.startswith(".") for path in tmp_path.iterdir())

    def test_an_interrupted_shard_leaves_nothing(self, tmp_path: Path) -> None:
        def breaking() -> Iterator[tuple[str, Tensors]]:
            yield from entries("a")
            raise RuntimeError

        with pytest.raises(RuntimeError):
            Shards(tmp_path).add(breaking())
        assert not list(tmp_path.iterdir())

    def test_a_damaged_shard_is_forgotten_and_can_be_made_again(self, tmp_path: Path) -> None:
        Shards(tmp_path).add(entries("a"))
        (file,) = tmp_path.iterdir()
        file.write_bytes(file.read_bytes()[:100])
        again = Shards(tmp_path)
        assert "a" not in again
        again.add(entries("a"))
        assert "a" in Shards(tmp_path)

    def test_an_entry_whose_bytes_changed_is_made_again_and_its_neighbours_are_kept(self, tmp_path: Path) -> None:
        Shards(tmp_path).add(entries("a", "bb", "ccc"))
        (file,) = tmp_path.iterdir()
        content = bytearray(file.read_bytes())
        flipped = content.index(torch.full((6,), 2.0).numpy().tobytes())
        content[flipped] ^= 1
        file.write_bytes(content)
        shards = Shards(tmp_path)
        assert torch.equal(shards.read("a", unwanted)["mean"], made("a")["mean"])
        assert torch.equal(shards.read("bb", lambda: made("bb"))["mean"], made("bb")["mean"])
        for again in (shards, Shards(tmp_path)):
            for key in ("a", "bb", "ccc"):
                assert torch.equal(again.read(key, unwanted)["mean"], made(key)["mean"])

    def test_any_flipped_bit_is_noticed(self, tmp_path: Path) -> None:
        Shards(tmp_path / "whole").add(entries("a", "bb"))
        (file,) = (tmp_path / "whole").iterdir()
        content = file.read_bytes()
        drawn = random.Random(0)
        for _ in range(30):
            folder = tmp_path / "flipped"
            folder.mkdir(exist_ok=True)
            changed = bytearray(content)
            changed[drawn.randrange(len(changed))] ^= 1 << drawn.randrange(8)
            (folder / file.name).write_bytes(changed)
            shards = Shards(folder)
            for key in ("a", "bb"):
                assert torch.equal(shards.read(key, lambda key=key: made(key))["mean"], made(key)["mean"])  # type: ignore[misc]
            shutil.rmtree(folder)

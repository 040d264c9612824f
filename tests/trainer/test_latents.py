"""The caches of pictures and captions: encoded once, one at a time, and refused when they are no numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import trainer.latents
from contracts.buckets import Bucket
from contracts.failures import PatinaError
from tests.trainer.tiny import make_pictures
from trainer.control import StopRequested
from trainer.data import Dataset, read_dataset
from trainer.feed import Views
from trainer.images import IdentityMemory
from trainer.latents import Latents, Texts, View, cached_latents, cached_texts, live_latents, live_texts
from trainer.processes import Processes

ALONE = Processes(0, 1, torch.device("cpu"))
VIEWS = Views((Bucket(64, 64),))


@pytest.fixture
def dataset(pictures: Path, tmp_path: Path) -> Dataset:
    return read_dataset(pictures, IdentityMemory(tmp_path / "pictures.jsonl"))


def fill(folder: Path, base_dir: Path, dataset: Dataset, views: list[View]) -> tuple[Latents, list[int]]:
    told: list[int] = []
    latents = cached_latents(
        folder, base_dir, "vae", views, dataset.read, ALONE, lambda done, total: bool(told.append(total))
    )
    return latents, told


class TestCachedLatents:
    def test_adding_one_picture_encodes_one(self, base_dir: Path, dataset: Dataset, tmp_path: Path) -> None:
        views = [VIEWS.of(row) for row in dataset.rows[:3]]
        assert fill(tmp_path, base_dir, dataset, views[:2])[1] == [2, 2]
        assert fill(tmp_path, base_dir, dataset, views)[1] == [1]
        assert fill(tmp_path, base_dir, dataset, views)[1] == []

    def test_equal_what_is_encoded_live_and_tell_views_apart(
        self, base_dir: Path, dataset: Dataset, tmp_path: Path
    ) -> None:
        row = dataset.rows[0]
        plain, flipped = VIEWS.of(row), VIEWS.of(row, flipped=True)
        cached, _ = fill(tmp_path, base_dir, dataset, [plain, flipped])
        live = live_latents(base_dir, dataset.read, ALONE)
        for view in (plain, flipped):
            assert all(torch.equal(a, b) for a, b in zip(cached(view), live(view), strict=True))
        assert not torch.equal(cached(plain)[0], cached(flipped)[0])

    def test_refuse_a_latent_that_is_no_number_by_the_pictures_name(
        self, base_dir: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trainer.latents, "to_tensor", lambda *a, **k: torch.full((3, 64, 64), float("nan")))
        row = dataset.rows[0]
        with pytest.raises(PatinaError, match=row.source_name) as caught:
            fill(tmp_path, base_dir, dataset, [VIEWS.of(row)])
        assert caught.value.code == "nan_latent"

    def test_a_stop_keeps_what_is_encoded(self, base_dir: Path, dataset: Dataset, tmp_path: Path) -> None:
        views = [VIEWS.of(row) for row in dataset.rows[:3]]
        with pytest.raises(StopRequested):
            cached_latents(tmp_path, base_dir, "vae", views, dataset.read, ALONE, lambda done, total: done == 1)
        assert fill(tmp_path, base_dir, dataset, views)[1] == [2, 2]


class TestCachedTexts:
    def test_keep_captions_and_the_empty_condition_in_the_computing_type(self, base_dir: Path, tmp_path: Path) -> None:
        def texts() -> Texts:
            return cached_texts(tmp_path, base_dir, "base", ["a cat"], 75, torch.bfloat16, ALONE, lambda *_: False)

        texts()
        found = texts()
        assert found("a cat").text.dtype == torch.bfloat16
        assert found("a cat").text.shape == (1, 77, 64)
        assert found(None).text.abs().max() == 0

    def test_long_captions_equal_what_is_encoded_live_and_keep_apart_from_cut_ones(
        self, base_dir: Path, tmp_path: Path
    ) -> None:
        captions = ["cat " * 200, "a cat"]
        for max_tokens, length in ((75, 77), (150, 154), (225, 231)):
            live = live_texts(base_dir, max_tokens, torch.float32, ALONE)
            cached = cached_texts(
                tmp_path, base_dir, "base", captions, max_tokens, torch.float32, ALONE, lambda *_: False
            )
            assert [cached(caption).text.shape[1] for caption in captions] == [length, 77]
            for caption in captions:
                assert torch.equal(cached(caption).text, live(caption).text)
                assert torch.equal(cached(caption).pooled, live(caption).pooled)


def test_the_pictures_helper_makes_two_buckets(tmp_path: Path) -> None:
    dataset = read_dataset(make_pictures(tmp_path / "p"), IdentityMemory(tmp_path / "m.jsonl"))
    assert len({(row.original_width, row.original_height) for row in dataset.rows}) == 2

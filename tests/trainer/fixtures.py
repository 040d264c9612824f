"""One tiny base, one set of pictures and one finished run for every test of the trainer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from benchmarks.random_sdxl import write_base
from sdxl.tokens import load_tokenizer
from tests.trainer.tiny import empty_cache, make_pictures, make_recipe, train


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Bit-equal results need equal thread counts; the processes the tests start have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def tokenizers_read_once() -> Iterator[None]:
    """Each run in this process counts captions with those of one base; reading them takes as long as a step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.caption_report.load_tokenizer", cache(load_tokenizer))
        yield


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-base")
    write_base(folder, size="tiny", dtype=torch.float16)
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory, known_shapes: Path) -> Path:
    """Shared: whatever one test has encoded, the next reads."""
    return empty_cache(tmp_path_factory.mktemp("cache"), known_shapes)


@pytest.fixture(scope="session")
def finished(base_dir: Path, pictures: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of SETTINGS, trained without interruption."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = make_recipe(folder / "recipe.yaml", base_dir, pictures)
    assert train(recipe, folder / "run", cache_dir) == 0
    return folder / "run"

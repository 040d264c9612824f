"""Captions that vary: what a sample sees, and that encoding beforehand and at each use end in the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from contracts import events
from contracts.captions import CaptionSettings
from tests.trainer.tiny import events_of, make_pictures, make_recipe, same, train, weights_of
from trainer.captions import Captions

SHORT = {"steps": 2, "preview__prompts": [], "held_out__every_steps": None, "checkpoint__every_steps": None}


def captions(dropout: float = 0.0, **settings: Any) -> Captions:
    return Captions(CaptionSettings.model_validate(settings), "tok", dropout, seed=4, timesteps=range(1000))


class TestCaptions:
    def test_depend_on_step_and_sample_and_nothing_else(self) -> None:
        words = captions(dropout=0.3, alternatives=True)
        table = {(step, index): words("a {b|c|d|e}", step, index) for step in range(30) for index in range(5)}
        again = {key: words("a {b|c|d|e}", *key) for key in reversed(table)}
        assert table == again
        assert set(table.values()) == {None, "tok, a b", "tok, a c", "tok, a d", "tok, a e"}
        assert len({words("a {b|c|d|e}", 1, index) for index in range(30)}) > 3

    def test_every_is_all_that_samples_see(self) -> None:
        words = captions(shuffle=True, alternatives=True)
        seen = {words(text, step, 0) for text in ("a, {b|c}", "d") for step in range(100)}
        assert words.every(["a, {b|c}", "d", "d"]) == seen
        assert words.every(["a, b", "a, b, c, d, e, f"]) is None


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The usual pictures with captions that can be said in more than one way."""
    folder = make_pictures(tmp_path_factory.mktemp("tagged"))
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines):
        line["text"] = f"picture {number}, {{red|green}} heart, small, round, flat"
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


class TestARun:
    @pytest.mark.parametrize(
        ("settings", "cached"),
        [
            ({"alternatives": True, "suffix": "photo"}, True),
            pytest.param(
                {"alternatives": True, "shuffle": True, "keep_tokens": 1, "tag_dropout": 0.2},
                False,
                marks=pytest.mark.slow,
            ),
        ],
    )
    def test_ends_in_the_same_weights_encoded_beforehand_or_at_each_use_and_says_which(
        self, settings: dict[str, Any], cached: bool, base_dir: Path, tagged: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, tagged, **SHORT, data__captions=settings)
        assert train(recipe, tmp_path / "one", cache_dir) == 0
        assert train(recipe, tmp_path / "two", cache_dir, "--no-cache") == 0
        assert same(weights_of(tmp_path / "one"), weights_of(tmp_path / "two"))
        said = [event.message for event in events_of(tmp_path / "one") if isinstance(event, events.Warned)]
        assert any("text embeddings are not cached" in message for message in said) is not cached
        phases = {event.phase for event in events_of(tmp_path / "one") if isinstance(event, events.Progress)}
        assert ("encoding" in phases) is cached

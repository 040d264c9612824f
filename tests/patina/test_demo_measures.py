"""The demo's two measures together: only pictures that are in the style and show the right thing may pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from patina.demo.judge import Pixels, StyleJudge
from patina.demo.measure import HeldOutEmoji, load_held_out, measure

JUDGE_FOLDER = Path(__file__).parents[2] / "datasets" / "emoji-judge"
STYLE_BAR, CONTENT_SHARE = 0.75, 0.8
LEAST_BASE_CONTENT = 0.3
"""Far below what any usable base reaches: the controls must fail even beside such a one."""


@pytest.fixture(scope="module")
def held_out() -> HeldOutEmoji:
    return load_held_out(JUDGE_FOLDER)


@pytest.fixture(scope="module")
def judge() -> StyleJudge:
    return StyleJudge.load(JUDGE_FOLDER / "judge.json")


def passes(judge: StyleJudge, held_out: HeldOutEmoji, pictures: Pixels) -> bool:
    figures = measure(judge, held_out, held_out.noto, pictures)
    return bool(figures["style_lora"] >= STYLE_BAR and figures["content_lora"] >= CONTENT_SHARE * LEAST_BASE_CONTENT)


def flat(colour: tuple[int, int, int]) -> Pixels:
    return np.full((100, 64, 64, 3), colour, dtype=np.uint8)


class TestTheJudge:
    def test_tells_the_real_held_out_pictures_apart(self, judge: StyleJudge, held_out: HeldOutEmoji) -> None:
        figures = measure(judge, held_out, held_out.noto, held_out.twemoji)
        assert figures["judge_accuracy_each"]["twemoji"] >= 0.93
        assert figures["judge_accuracy_each"]["noto"] >= 0.93

    def test_is_measured_on_pictures_that_no_adapter_was_taught(self, held_out: HeldOutEmoji) -> None:
        trained = (JUDGE_FOLDER.parent / "twemoji-style" / "metadata.jsonl").read_text()
        assert not [name for name in held_out.prompts if f'"{name}"' in trained]
        assert len(set(held_out.names)) == 100


class TestTheHeldOutPictures:
    def test_can_be_told_apart_by_the_nearest(self, held_out: HeldOutEmoji) -> None:
        both = np.concatenate([held_out.noto, held_out.twemoji]).reshape(200, -1).astype(np.float64)
        lengths = (both**2).sum(axis=1)
        differences = (lengths[:, None] + lengths - 2 * both @ both.T) / both.shape[1]
        others = ~np.tile(np.eye(100, dtype=bool), (2, 2))
        assert differences[others].min() >= 999.9


class TestThePair:
    def test_passes_the_real_style(self, judge: StyleJudge, held_out: HeldOutEmoji) -> None:
        assert passes(judge, held_out, held_out.twemoji)

    def test_fails_flat_grey(self, judge: StyleJudge, held_out: HeldOutEmoji) -> None:
        assert not passes(judge, held_out, flat((128, 128, 128)))

    def test_fails_flat_navy(self, judge: StyleJudge, held_out: HeldOutEmoji) -> None:
        assert not passes(judge, held_out, flat((0, 0, 128)))

    def test_fails_blurred_noto(self, judge: StyleJudge, held_out: HeldOutEmoji) -> None:
        for radius in (1, 2, 4):
            blurred = [Image.fromarray(p).filter(ImageFilter.GaussianBlur(radius)) for p in held_out.noto]
            assert not passes(judge, held_out, np.stack([np.asarray(p) for p in blurred]))

    def test_fails_shuffled_real_twemoji(self, judge: StyleJudge, held_out: HeldOutEmoji) -> None:
        order = np.random.default_rng(0).permutation(len(held_out.twemoji))
        assert not passes(judge, held_out, held_out.twemoji[order])

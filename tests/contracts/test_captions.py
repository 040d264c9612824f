"""What becomes of a caption before it is encoded."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from contracts.captions import (
    CaptionSettings,
    clean_caption,
    every_wording,
    fixed_wording,
    with_trigger,
    worded,
)


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
            ("a sks dog", "sks", "a sks dog"),
            ("a person wearing masks", "sks", "sks, a person wearing masks"),
            ("in c++ style", "c++", "in c++ style"),
            ("", "tok", "tok"),
            ("a cat", None, "a cat"),
        ],
    )
    def test_puts_the_word_in_front_once(self, caption: str, word: str | None, trained: str) -> None:
        assert with_trigger(caption, word) == trained


TAGS = "a cat, red, sitting, indoors"


def settings(**chosen: Any) -> CaptionSettings:
    return CaptionSettings.model_validate(chosen)


def seen(caption: str, chosen: CaptionSettings, trigger_word: str | None = None, times: int = 400) -> set[str]:
    return {worded(caption, trigger_word, chosen, f"caption/0/{step}/3") for step in range(times)}


class TestWorded:
    def test_changes_nothing_when_nothing_is_asked_for(self) -> None:
        assert seen("a  cat,red {a|b}", settings(), "tok", times=5) == {"tok, a cat,red {a|b}"}

    def test_says_the_same_for_the_same_key(self) -> None:
        chosen = settings(shuffle=True, tag_dropout=0.5, alternatives=True)
        texts = [worded("a, {b|c}, d, e, f", None, chosen, f"{key}") for key in (*range(20), *range(20))]
        assert texts[:20] == texts[20:]
        assert len(set(texts)) > 10

    def test_shuffles_all_tags_but_those_that_are_kept_in_front(self) -> None:
        found = seen(TAGS, settings(shuffle=True, keep_tokens=1))
        assert len(found) == 6
        assert {text.split(", ")[0] for text in found} == {"a cat"}
        assert {tuple(sorted(text.split(", "))) for text in found} == {tuple(sorted(TAGS.split(", ")))}

    def test_leaves_out_its_share_of_the_free_tags_and_no_other(self) -> None:
        texts = [worded(TAGS, None, settings(tag_dropout=0.25, keep_tokens=1), str(key)) for key in range(1000)]
        assert all(text.startswith("a cat") for text in texts)
        assert 0.22 < sum("red" not in text for text in texts) / 1000 < 0.28

    def test_chooses_among_alternatives_inner_ones_too(self) -> None:
        assert seen("a {red|dark {green|blue}|} cat", settings(alternatives=True)) == {
            "a red cat",
            "a dark green cat",
            "a dark blue cat",
            "a cat",
        }

    def test_a_setting_shifts_no_other_settings_choices(self) -> None:
        for key in map(str, range(50)):
            alone = worded(TAGS, None, settings(shuffle=True), key)
            beside = worded("a cat, {red|red}, sitting, indoors", None, settings(shuffle=True, alternatives=True), key)
            assert beside == alone

    def test_puts_prefix_suffix_and_trigger_word_around_it_whatever_is_shuffled_or_left_out(self) -> None:
        chosen = settings(shuffle=True, tag_dropout=0.9, prefix="photo", suffix="high quality")
        found = seen(TAGS, chosen, "tok")
        assert all(text.startswith("tok, photo") and text.endswith("high quality") for text in found)
        assert "tok, photo, high quality" in found

    def test_an_empty_caption_has_no_stray_comma(self) -> None:
        assert seen("", settings(suffix="photo"), "tok", times=1) == {"tok, photo"}
        assert seen("", settings(shuffle=True), times=1) == {""}


class TestEveryWording:
    @pytest.mark.parametrize(
        ("caption", "chosen"),
        [
            ("a cat", {}),
            ("a {red|dark {green|blue}} cat {x|y}", {"alternatives": True}),
            ("a, b, c", {"shuffle": True}),
            ("a, b, c", {"tag_dropout": 0.5}),
            ("a, b, {c|d}", {"shuffle": True, "tag_dropout": 0.5, "alternatives": True, "keep_tokens": 1}),
            ("", {"shuffle": True, "tag_dropout": 0.5}),
        ],
    )
    def test_is_exactly_what_can_be_seen(self, caption: str, chosen: dict[str, Any]) -> None:
        assert every_wording(caption, "tok", settings(**chosen)) == seen(caption, settings(**chosen), "tok")

    @pytest.mark.parametrize(
        ("caption", "chosen"),
        [
            ("a, b, c, d, e", {"shuffle": True}),
            (", ".join(map(str, range(200))), {"shuffle": True, "tag_dropout": 0.1}),
            ("{a|b} " * 30, {"alternatives": True}),
        ],
    )
    def test_is_none_when_there_are_too_many(self, caption: str, chosen: dict[str, Any]) -> None:
        assert every_wording(caption, None, settings(**chosen)) is None

    def test_holds_the_fixed_wording(self) -> None:
        chosen = settings(shuffle=True, alternatives=True, keep_tokens=1)
        fixed = fixed_wording("x, {a|b}, c", "tok", chosen)
        assert fixed == "tok, x, a, c"
        assert fixed in (every_wording("x, {a|b}, c", "tok", chosen) or set())


def test_keeping_tokens_from_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="no effect"):
        settings(keep_tokens=2)

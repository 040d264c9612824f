from __future__ import annotations

from typing import Any

import pytest

from contracts.dataset import Split, VersionRow
from contracts.failures import InvalidInput
from contracts.mixing import Share, Source, mix
from contracts.objective import PriorSettings
from contracts.subject import set_apart, summarise_run
from contracts.train import parse_config


def row(image: str, concept: str | None = None, split: Split = Split.TRAIN) -> VersionRow:
    return VersionRow(
        image=image, concept=concept, split=split, original_width=64, original_height=64, source_name=f"{image}.png"
    )


ROWS = [row("a"), row("b", "dog"), row("c", "cat"), row("d", split=Split.HELD_OUT), row("e", "dog", Split.HELD_OUT)]
MIXTURE = mix([Source(ROWS, Share(digest="x" * 64))])


class TestSetApart:
    def test_class_pictures_are_neither_trained_on_as_the_subject_nor_measured(self) -> None:
        subject, classes = set_apart(MIXTURE, PriorSettings(class_prompt="a dog", concept="dog"))
        assert [pick.row.image for pick in subject.train] == ["a", "c"]
        assert [pick.row.image for pick in classes.train] == ["b"]
        assert ([held.image for held in subject.held_out], classes.held_out) == (["d"], ())

    @pytest.mark.parametrize("settings", [None, PriorSettings(class_prompt="a dog")])
    def test_all_are_the_subjects_where_no_concept_is_named(self, settings: PriorSettings | None) -> None:
        subject, classes = set_apart(MIXTURE, settings)
        assert (subject, classes.rows) == (MIXTURE, ())

    def test_a_concept_that_no_picture_has_is_refused(self) -> None:
        with pytest.raises(InvalidInput) as caught:
            set_apart(MIXTURE, PriorSettings(class_prompt="a bird", concept="bird"))
        (error,) = caught.value.errors
        assert error.message == "no picture of the data set has the concept 'bird'; its concepts are cat, dog"


class TestSummariseRun:
    def test_counts_class_pictures_apart(self) -> None:
        given = parse_config({"prior": {"class_prompt": "a dog", "concept": "dog"}})
        found = summarise_run(*set_apart(MIXTURE, given.prior), given)
        assert (found.train_images, found.held_out_images, found.class_images) == (2, 1, 1)

    @pytest.mark.parametrize(("changes", "captions"), [({}, True), ({"lora.text_encoder": {}}, False)])
    def test_knows_that_nothing_is_encoded_beforehand_without_a_cache(
        self, changes: dict[str, Any], captions: bool
    ) -> None:
        found = summarise_run(*set_apart(MIXTURE, None), parse_config({}, changes), use_cache=False)
        assert (found.live_latents, found.live_captions) == (True, captions)

    @pytest.mark.parametrize(
        ("caption", "changes", "live"),
        [
            ("a, b, c, d, e", {}, False),
            ("a, b, c", {"data.captions.shuffle": True}, False),
            ("a, b, c, d, e", {"data.captions.shuffle": True}, True),
            ("a, b, c, d, e", {"data.captions.shuffle": True, "lora.text_encoder": {}}, False),
        ],
    )
    def test_knows_whether_captions_can_be_encoded_beforehand(
        self, caption: str, changes: dict[str, Any], live: bool
    ) -> None:
        rows = [row("a"), row("b").model_copy(update={"caption": caption})]
        mixture = mix([Source(rows, Share(digest="x" * 64))])
        assert summarise_run(*set_apart(mixture, None), parse_config({}, changes)).live_captions is live

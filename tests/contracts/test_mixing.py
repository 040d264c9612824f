"""Several versions in one run: weights are honoured exactly, and nothing held out is trained on."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from pydantic import ValidationError

from contracts.buckets import Bucket, Schedule
from contracts.dataset import Split, VersionRow
from contracts.failures import InvalidInput
from contracts.mixing import Mixture, Share, Source, mix, mixture_digest, summarise_mixture
from contracts.plan import _steps


def row(image: str, **changes: object) -> VersionRow:
    settings = {"image": image, "original_width": 64, "original_height": 64, "source_name": "x.png"} | changes
    return VersionRow.model_validate(settings)


def source(name: str, rows: list[VersionRow], weight: float = 1) -> Source:
    return Source(rows, Share(digest=name, weight=weight))


def seen(mixture: Mixture, epochs: int, batch: int = 4) -> list[Counter[str]]:
    """How often each image is in each epoch of the schedule."""
    samples = mixture.samples
    schedule = Schedule((Bucket(64, 64),) * len(samples.rows), batch, seed=1, sometimes=samples.sometimes)
    return [
        Counter(samples.rows[index].image for part in schedule.epoch(epoch) for index in part.samples)
        for epoch in range(epochs)
    ]


class TestWeights:
    @pytest.mark.parametrize("weight", [0.01, 0.1, 0.25, 0.37, 0.5, 1, 1.5, 2, 2.75, 3])
    @pytest.mark.parametrize("repeats", [1, 3])
    def test_are_what_every_image_is_seen_after_any_number_of_epochs(self, weight: float, repeats: int) -> None:
        mixture = mix([source("a", [row(f"{number:02}", repeats=repeats) for number in range(7)], weight)])
        epochs = seen(mixture, 100)
        due = repeats * Fraction(repr(weight))
        total: Counter[str] = Counter()
        for number, epoch in enumerate(epochs, start=1):
            total += epoch
            for image in (f"{number:02}" for number in range(7)):
                assert 0 <= total[image] - due * number // 1 <= 1
            assert abs(epoch.total() - 7 * due) < 1
        assert set(total.values()) == {100 * due}

    def test_of_two_versions_count_each_by_its_own(self) -> None:
        mixture = mix([source("a", [row("1"), row("2", repeats=2)], 2), source("b", [row("2"), row("3")], 0.5)])
        assert sum(seen(mixture, 4), Counter()) == {"1": 8, "2": 18, "3": 2}
        assert mixture.images_an_epoch == 7

    def test_that_are_whole_give_every_epoch_the_same(self) -> None:
        assert mix([source("a", [row("1"), row("2")], 3)]).samples.sometimes == {}

    @pytest.mark.parametrize("weight", [0, -1, 0.001, 101, float("nan"), float("inf")])
    def test_out_of_bounds_are_refused(self, weight: float) -> None:
        with pytest.raises(ValidationError):
            Share(digest="a", weight=weight)


class TestSchedule:
    def test_finds_any_step_again_when_epochs_differ_in_length(self) -> None:
        samples = mix([source("a", [row(str(number)) for number in range(5)], 0.3)]).samples
        schedule = Schedule((Bucket(64, 64),) * len(samples.rows), 1, seed=1, sometimes=samples.sometimes)
        places = [(epoch, number) for epoch in range(20) for number in range(len(schedule.epoch(epoch)))]
        assert len({len(schedule.epoch(epoch)) for epoch in range(20)}) == 2
        assert [schedule.locate(step) for step in range(len(places))] == places

    def test_goes_over_epochs_that_have_nothing(self) -> None:
        samples = mix([source("a", [row("1")], 0.25)]).samples
        schedule = Schedule((Bucket(64, 64),), 4, seed=1, sometimes=samples.sometimes)
        assert [schedule.locate(step) for step in (0, 1)] == [(3, 0), (7, 0)]


class TestHeldOut:
    def test_in_one_version_is_not_trained_on_through_another(self) -> None:
        kept = row("1", split=Split.HELD_OUT)
        mixture = mix([source("a", [kept, row("2")]), source("b", [row("1", caption="other"), row("3")])])
        assert [pick.row.image for pick in mixture.train] == ["2", "3"]
        assert (mixture.held_out, mixture.kept_out) == ((kept,), 1)

    def test_in_two_versions_is_measured_once_for_each_caption(self) -> None:
        captions = {"a": "cat", "b": "cat", "c": "dog"}
        held = [
            source(name, [row("1", split=Split.HELD_OUT, caption=caption), row("2")])
            for name, caption in captions.items()
        ]
        assert [one.caption for one in mix(held).held_out] == ["cat", "dog"]


class TestDigest:
    def test_of_one_version_is_its_own_and_a_weight_makes_another(self) -> None:
        assert mixture_digest([Share(digest="a")]) == "a"
        assert mixture_digest([Share(digest="a", weight=2)]) != "a"

    def test_goes_by_content_and_weights_and_not_by_order(self) -> None:
        one, two = Share(digest="a", weight=2), Share(digest="b")
        assert mixture_digest([one, two]) == mixture_digest([two, one])
        assert mixture_digest([one, two]) != mixture_digest([one, Share(digest="b", weight=2)])
        first, second = source("a", [row("1")], 2), source("b", [row("1", caption="x")])
        assert mix([first, second]) == mix([second, first])


class TestConceptWeights:
    rows = (row("1", concept="cat"), row("2", concept="cat", repeats=2), row("3", concept="dog"), row("4"))

    def test_are_what_their_images_are_seen_times_repeats_and_the_versions_weight(self) -> None:
        mixture = mix([source("a", list(self.rows), 0.5)], {"cat": 2.5, "dog": 0.1})
        total: Counter[str] = Counter()
        for epoch in seen(mixture, 80):
            total += epoch
        assert total == {"1": 100, "2": 200, "3": 4, "4": 40}

    def test_of_concepts_that_nothing_has_are_refused_all_at_once_with_those_there_are(self) -> None:
        with pytest.raises(InvalidInput) as caught:
            mix([source("a", list(self.rows))], {"cats": 2, "dog": 1, "bird": 1})
        assert [error.message for error in caught.value.errors] == [
            f"no image is trained on under '{name}'; there are: cat, dog" for name in ("cats", "bird")
        ]


class TestPlan:
    def test_counts_what_an_epoch_sees_and_each_image_once(self) -> None:
        rows = [row("1"), row("2", original_width=32)]
        found = summarise_mixture(mix([source("a", rows, 1.5), source("b", [row("1")], 2)]))
        assert found.train_sizes == {"32x64": 1.5, "64x64": 3.5}
        assert (found.train_images, found.held_out_images, found.kept_out_images) == (2, 0, 0)

    def test_counts_steps_of_epochs_that_differ(self) -> None:
        assert [_steps(count, 4) for count in (4, 4.5, 5, 0.5)] == [1, 1.5, 2, 0.5]

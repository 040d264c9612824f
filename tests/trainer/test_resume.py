"""Going on: what may change, what is refused, what is no longer exact."""

from __future__ import annotations

import pytest

from contracts.events import Event, Warned
from contracts.failures import PatinaError
from contracts.train import parse_config
from tests.trainer.test_checkpoint import ENVIRONMENT, state_of
from trainer.checkpoint import RunState
from trainer.loop import Record
from trainer.report import Report
from trainer.resume import check_resumable, environment_changes, take_up


class TestCheckResumable:
    def check(
        self, processes: int = 1, digest: str = "b" * 64, saved: RunState | None = None, **changes: object
    ) -> list[str]:
        config = parse_config({}, {key.replace("__", "."): value for key, value in changes.items()})
        saved = saved or state_of(5)
        return check_resumable(saved, config, base_identity="a" * 64, dataset_digest=digest, processes=processes)

    def test_names_every_difference_that_would_change_the_result(self) -> None:
        with pytest.raises(PatinaError) as caught:
            self.check(seed=1, optimizer__learning_rate=0.5, digest="c" * 64)
        for words in ("seed was 0, is 1", "optimizer.learning_rate was 0.0001, is 0.5", "the data set was"):
            assert words in caught.value.message
        assert caught.value.code == "checkpoint_mismatch"

    def test_names_what_only_one_of_the_two_says_of_a_pattern_or_a_concept(self) -> None:
        saved = state_of(5, parse_config({"data": {"concept_weights": {"cat": 2.0}}}))
        with pytest.raises(PatinaError, match=r"data\.concept_weights\.dog was null, is 3\.0\."):
            self.check(saved=saved, data__concept_weights={"cat": 2.0, "dog": 3.0})
        with pytest.raises(PatinaError, match=r"cat was 2\.0, is null; data\.concept_weights\.dog was null, is 2\.0"):
            self.check(saved=saved, data__concept_weights={"dog": 2.0})

    def test_lets_previews_tracking_and_saving_change(self) -> None:
        assert self.check(preview__sampling_steps=3, tracking__enabled=False, checkpoint__keep=5) == []

    def test_lets_what_only_words_a_warning_change(self) -> None:
        assert self.check(data__max_upscaling=None) == []

    def test_lets_a_step_be_cut_otherwise_but_says_it_is_not_exact(self) -> None:
        assert len(self.check(batch_size=2, gradient_accumulation_steps=2)) == 2
        assert len(self.check(batch_size=2, processes=2)) == 1

    def test_refuses_a_step_of_another_size(self) -> None:
        with pytest.raises(PatinaError, match="pictures in one optimiser step were 4, are 8"):
            self.check(processes=2)


class TestTakeUp:
    SAVED = state_of(5).model_copy(update={"held_out": ((0, 0.5), (5, 0.4)), "loss_smooth": 0.25})

    def taken_up(self, **changes: object) -> tuple[Record, list[str]]:
        record, said = Record(), list[Event]()
        config = parse_config({}, {key.replace("__", "."): value for key, value in changes.items()})
        take_up(record, self.SAVED, config, Report(said.append))
        return record, [event.message for event in said if isinstance(event, Warned)]

    def test_goes_on_with_what_was_recorded(self) -> None:
        record, said = self.taken_up()
        assert (record.step, record.loss_smooth, record.held_out) == (5, 0.25, ((0, 0.5), (5, 0.4)))
        assert said == []

    def test_does_not_compare_losses_of_other_timesteps(self) -> None:
        record, (said,) = self.taken_up(held_out__timesteps=1)
        assert (record.step, record.held_out) == (5, ())
        assert "were measured at 4 timesteps and are at 1 from here on" in said


class TestEnvironmentChanges:
    def test_name_threads_and_versions(self) -> None:
        now = ENVIRONMENT.model_copy(update={"threads": 2, "versions": {"torch": "2"}})
        assert environment_changes(state_of(1), now) == ["threads was 1, is 2", "torch was 1, is 2"]
        assert environment_changes(state_of(1), ENVIRONMENT) == []

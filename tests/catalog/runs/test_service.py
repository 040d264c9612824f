"""Runs as their owners use them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from catalog import jobs
from catalog.bases import service as bases
from catalog.datasets import service as datasets
from catalog.db import Database
from catalog.jobs import Kind, Queue
from catalog.removing import remove_image, remove_run
from catalog.runs import progress
from catalog.runs import service as runs
from contracts.events import HeldOut, StepDone
from contracts.failures import FailureCode, InvalidInput, PatinaError
from contracts.removal import Choice
from contracts.run import RunReason, RunRequest, RunStatus
from contracts.rundir import Failed


def _request(dataset: str, **changes: Any) -> RunRequest:
    return RunRequest(**{"dataset": dataset, "base": "emoji", "recipe": "demo"} | changes)


def _several(*choices: dict[str, Any]) -> RunRequest:
    return RunRequest.model_validate({"datasets": choices, "base": "emoji", "recipe": "demo"})


def _create(database: Database, owner: str, request: RunRequest, recipes: Path) -> runs.Run:
    with database.session() as session:
        return runs.create(session, owner, request, recipes)


def _errors(caught: pytest.ExceptionInfo[InvalidInput]) -> dict[str, str]:
    return {error.pointer: error.message for error in caught.value.errors}


class TestCreate:
    def test_resolves_everything_and_queues_a_job(
        self, database: Database, make: Any, owner: str, recipes: Path, rung: list[str]
    ) -> None:
        base, dataset_id = make.base(), make.frozen(name="cats")
        rung.clear()
        run = _create(database, owner, _request("cats", overrides={"lora.rank": 8, "steps": 20}), recipes)
        assert (run.status, run.reason) == (RunStatus.QUEUED, RunReason.WAITING)
        assert (run.base_identity, run.dataset_id, run.dataset_version) == (base.identity, dataset_id, 1)
        config = runs.config_of(run)
        assert (config.lora.rank, config.steps, config.batch_size) == (8, 20, 2)
        assert run.config_digest == config.digest()
        assert run.plan["trainable_parameters"] == 800 * 8
        assert rung == ["train"]
        claim = make.claim(Queue.TRAIN)
        assert (claim.kind, claim.subject_id) == (Kind.TRAIN, run.id)

    def test_patterns_that_fit_no_layer_of_the_base_are_refused_each_by_its_name(
        self, database: Database, make: Any, owner: str, recipes: Path
    ) -> None:
        make.base()
        make.frozen(name="cats")
        patterns = {"lora.rank_pattern": {"*.attn1.*": 4, "*.atn1.*": 4}, "lora.strength_pattern": {"up_blokcs.*": 9}}
        with pytest.raises(InvalidInput) as refused:
            _create(database, owner, _request("cats", overrides=patterns), recipes)
        (error,) = refused.value.errors
        assert error.pointer == "/overrides/lora.strength_pattern"
        assert error.message == "up_blokcs.*: Input should be less than or equal to 4"
        patterns["lora.strength_pattern"] = {"up_blocks/[01]/*": 0.5}
        with pytest.raises(InvalidInput) as refused:
            _create(database, owner, _request("cats", overrides=patterns), recipes)
        assert [(error.pointer, error.message) for error in refused.value.errors] == [
            ("/overrides/lora.rank_pattern", "*.atn1.*: fits none of the 6 adapted layers"),
            ("/overrides/lora.strength_pattern", "up_blocks/[01]/*: fits none of the 6 adapted layers"),
        ]
        text = {"lora.text_encoder": {"rank": 4}, "lora.rank_pattern": {"text_model.layers.*": 4}}
        assert _create(database, owner, _request("cats", overrides=text), recipes).status == RunStatus.QUEUED
        full = {"method": "full", "lora.rank_pattern": {"*.atn1.*": 4}}
        assert _create(database, owner, _request("cats", overrides=full), recipes).status == RunStatus.QUEUED

    def test_names_runs_after_their_recipe(self, make: Any) -> None:
        dataset_id = make.frozen()
        assert [make.run(dataset=dataset_id).name for _ in range(2)] == ["demo-1", "demo-2"]

    def test_gives_no_name_that_a_run_has(self, database: Database, make: Any, owner: str) -> None:
        dataset_id = make.frozen()
        first, _ = (make.run(dataset=dataset_id) for _ in range(2))
        with database.session() as session:
            runs.cancel(session, owner, first.id)
            remove_run(session, owner, first.id)
        assert make.run(dataset=dataset_id).name == "demo-3"

    def test_takes_the_latest_version_unless_one_is_named(
        self, database: Database, make: Any, owner: str, recipes: Path
    ) -> None:
        make.base()
        dataset_id = make.frozen()
        make.ingest(dataset_id, {"new.png": "new"}, {})
        with database.session() as session:
            datasets.freeze(session, owner, dataset_id)
        seen = [
            _create(database, owner, _request(dataset_id, version=version), recipes).dataset_version
            for version in (None, 1)
        ]
        assert seen == [2, 1]

    def test_is_fed_by_several_versions_with_their_weights(
        self, database: Database, make: Any, owner: str, recipes: Path
    ) -> None:
        make.base()
        first, second = make.frozen(name="first"), make.frozen(name="second", images=5)
        chosen = ({"dataset": "first", "version": 1, "weight": 2}, {"dataset": second, "weight": 0.5})
        run = _create(database, owner, _several(*chosen), recipes)
        assert [(one["name"], one["version"], one["weight"]) for one in run.datasets] == [
            ("first", 1, 2), ("second", 1, 0.5),
        ]  # fmt: skip
        with database.reading() as session:
            fed = runs.fed_by(session, owner, run.id)
            contents = [datasets.version_contents(session, owner, version_id) for version_id, _ in fed]
        assert [(len(rows), weight) for rows, (_, weight) in zip(contents, fed, strict=True)] == [(3, 2), (5, 0.5)]
        turned = _create(database, owner, _several(*chosen[::-1]), recipes)
        alone = _create(database, owner, _request(first), recipes)
        assert run.dataset_digest == turned.dataset_digest not in (alone.dataset_digest, run.datasets[0]["digest"])
        assert alone.dataset_digest == alone.datasets[0]["digest"]

    def test_plans_what_an_epoch_of_several_versions_sees(
        self, database: Database, make: Any, owner: str, recipes: Path
    ) -> None:
        make.base()
        # Both hold out the one image they share, so that seven of ten different ones are trained on.
        for name, count in {"small": 4, "large": 8}.items():
            dataset_id = make.dataset(name=name, images=0)
            make.ingest(dataset_id, {f"{n}.png": str(n) for n in range(count)}, {})
            with database.session() as session:
                datasets.freeze(session, owner, dataset_id, 0.0 if name == "large" else 0.3)
        chosen = ({"dataset": "small", "weight": 2}, {"dataset": "large", "weight": 0.5})
        with database.reading() as session:
            planned = runs.plan(session, owner, _several(*chosen), recipes)
            kept = datasets.summary_of(datasets.read_version(session, owner, "small")).held_out_images
        assert kept > 0
        assert (planned.kept_out_images, planned.held_out_images, planned.images) == (kept, kept, 8 - kept)
        assert sum(planned.buckets.values()) == 2 * (4 - kept) + 0.5 * (8 - kept)

    def test_names_each_version_that_cannot_feed_it(
        self, database: Database, make: Any, owner: str, recipes: Path
    ) -> None:
        make.base()
        make.frozen(name="style")
        make.dataset(name="open")
        wanted = [{"dataset": "style"}, {"dataset": "gone"}, {"dataset": "style", "version": 1}, {"dataset": "open"}]
        with pytest.raises(InvalidInput) as caught:
            _create(database, owner, _several(*wanted), recipes)
        errors = _errors(caught)
        assert set(errors) == {"/datasets/1", "/datasets/2", "/datasets/3"}
        assert "the same content as /datasets/0" in errors["/datasets/2"]

    def test_reports_every_problem_at_once(self, database: Database, make: Any, owner: str, recipes: Path) -> None:
        request = _request(
            "gone", base="nothing", overrides={"lora.rank": 0, "stepz": 3, "optimizer.learning_rate": "fast"}
        )
        with pytest.raises(InvalidInput) as caught:
            _create(database, owner, request, recipes)
        errors = _errors(caught)
        assert set(errors) == {
            "/dataset",
            "/base",
            "/overrides/lora.rank",
            "/overrides/stepz",
            "/overrides/optimizer.learning_rate",
        }
        assert "did you mean steps?" in errors["/overrides/stepz"]
        with pytest.raises(AssertionError, match="nothing to claim"):
            make.claim(Queue.TRAIN)

    def test_a_base_that_another_version_described_is_told_with_the_rest_and_how_to_mend_it(
        self, database: Database, make: Any, owner: str, recipes: Path
    ) -> None:
        base = make.base()
        dataset = make.frozen()
        with database.session() as session:
            bases.read(session, owner, base.name).description = {"family": "sdxl"}
        with pytest.raises(PatinaError) as alone:
            _create(database, owner, _request(dataset), recipes)
        assert alone.value.code == FailureCode.CONFLICT
        with pytest.raises(InvalidInput) as caught:
            _create(database, owner, _request(make.dataset(name="open"), overrides={"stepz": 3}), recipes)
        errors = _errors(caught)
        assert set(errors) == {"/base", "/dataset", "/overrides/stepz"}
        assert "Add it again: `patina bases add bases/emoji --name emoji`." in errors["/base"]
        assert "Freeze it first: `patina datasets freeze open`." in errors["/dataset"]

    def test_an_error_of_the_recipe_itself_points_at_the_recipe(
        self, database: Database, make: Any, owner: str, recipes: Path
    ) -> None:
        make.base()
        (recipes / "odd.yaml").write_text("stepz: 3\n")
        with pytest.raises(InvalidInput) as caught:
            _create(database, owner, _request(make.frozen(), recipe="odd"), recipes)
        assert list(_errors(caught)) == ["/recipe"]
        assert "stepz" in _errors(caught)["/recipe"]

    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({"recipe": "gone"}, FailureCode.UNKNOWN_RECIPE),
            ({"base": "gone"}, FailureCode.UNKNOWN_BASE),
            ({"dataset": "gone"}, FailureCode.NOT_FOUND),
            ({"version": 9}, FailureCode.NOT_FOUND),
        ],
    )
    def test_a_single_problem_keeps_its_code(
        self, database: Database, make: Any, owner: str, recipes: Path, changes: dict[str, Any], code: FailureCode
    ) -> None:
        make.base()
        request = _request(**{"dataset": make.frozen()} | changes)
        with pytest.raises(PatinaError) as caught:
            _create(database, owner, request, recipes)
        assert caught.value.code == code

    def test_a_dataset_that_was_never_frozen_says_what_to_do(
        self, database: Database, make: Any, owner: str, recipes: Path
    ) -> None:
        make.base()
        with pytest.raises(PatinaError) as caught:
            _create(database, owner, _request(make.dataset()), recipes)
        assert "Freeze it first" in caught.value.hint


class TestPlan:
    def test_creates_nothing(self, database: Database, make: Any, owner: str, recipes: Path) -> None:
        make.base()
        dataset_id = make.frozen()
        with database.reading() as session:
            planned = runs.plan(session, owner, _request(dataset_id), recipes)
            assert runs.list_runs(session, owner).items == []
        assert planned.images + planned.held_out_images == 3
        assert planned.seconds_per_step is None

    def test_knows_the_pace_of_the_last_run_of_the_same_shape(
        self, database: Database, make: Any, owner: str, recipes: Path, completed: Any
    ) -> None:
        run, claim = make.training()
        with database.session() as session:
            progress.complete(session, claim, completed(step=10, train_seconds=5.0))
        with database.reading() as session:
            same = runs.plan(session, owner, _request(run.dataset_id), recipes)
            other = runs.plan(session, owner, _request(run.dataset_id, overrides={"batch_size": 3}), recipes)
        assert (same.seconds_per_step, other.seconds_per_step) == (0.5, None)


class TestCancel:
    def test_of_a_queued_run_is_at_once(self, database: Database, make: Any, owner: str) -> None:
        run = make.run()
        for _ in range(2):
            with database.session() as session:
                seen = runs.cancel(session, owner, run.id)
            assert (seen.status, seen.reason) == (RunStatus.CANCELLED, RunReason.CANCELLED)
        assert seen.finished_at is not None
        with pytest.raises(AssertionError, match="nothing to claim"):
            make.claim(Queue.TRAIN)

    def test_of_a_working_run_tells_its_worker(self, database: Database, make: Any, owner: str) -> None:
        run, claim = make.training()
        with database.session() as session:
            seen = runs.cancel(session, owner, run.id)
        assert (seen.status, seen.reason) == (RunStatus.PREPARING, RunReason.CANCELLING)
        with database.session() as session:
            heartbeat = runs.jobs.heartbeat(session, claim.job_id, claim.fence, 60)
        assert heartbeat is not None
        assert heartbeat.cancel_requested

    def test_of_a_finished_run_is_refused(self, database: Database, make: Any, owner: str, completed: Any) -> None:
        run, claim = make.training()
        with database.session() as session:
            progress.complete(session, claim, completed())
            with pytest.raises(PatinaError) as caught:
                runs.cancel(session, owner, run.id)
        assert caught.value.code == FailureCode.CONFLICT


class TestResume:
    FAILURE = Failed(step=3, code=FailureCode.DISK_FULL, message="It is full.", hint="Make room.", retryable=False)

    @pytest.fixture
    def failed(self, database: Database, make: Any) -> tuple[runs.Run, jobs.Claim]:
        run, claim = make.training()
        with database.session() as session:
            progress.fail(session, claim, self.FAILURE)
        return run, claim

    def test_queues_a_failed_run_again_as_if_nothing_had_been(
        self, database: Database, failed: tuple[runs.Run, jobs.Claim], make: Any, owner: str, rung: list[str]
    ) -> None:
        run, before = failed
        rung.clear()
        with database.session() as session:
            seen = runs.resume(session, owner, run.id)
        assert (seen.status, seen.reason) == (RunStatus.QUEUED, RunReason.WAITING)
        assert (seen.failure_code, seen.failure_message, seen.finished_at) == (None, None, None)
        assert rung == ["train"]
        claim = make.claim(Queue.TRAIN)
        assert (claim.subject_id, claim.attempt) == (run.id, before.attempt + 1)
        assert claim.fence > before.fence
        with database.session() as session:
            assert (
                progress.fail(session, claim, self.FAILURE.model_copy(update={"retryable": True})) == RunStatus.QUEUED
            )

    def test_lets_nothing_be_written_by_who_held_it_before(
        self, database: Database, failed: tuple[runs.Run, jobs.Claim], owner: str
    ) -> None:
        run, before = failed
        with database.session() as session:
            runs.resume(session, owner, run.id)
        with database.session() as session, pytest.raises(jobs.LeaseLost):
            progress.record_events(session, before, [], 1)

    def test_of_a_cancelled_run_is_not_cancelled_again(self, database: Database, make: Any, owner: str) -> None:
        run = make.run()
        with database.session() as session:
            runs.cancel(session, owner, run.id)
            runs.resume(session, owner, run.id)
        claim = make.claim(Queue.TRAIN)
        with database.session() as session:
            heartbeat = jobs.heartbeat(session, claim.job_id, claim.fence, 60)
        assert heartbeat is not None
        assert not heartbeat.cancel_requested

    def test_of_a_run_that_goes_on_or_has_succeeded_is_refused(
        self, database: Database, make: Any, owner: str, completed: Any
    ) -> None:
        run, claim = make.training()
        with database.session() as session, pytest.raises(PatinaError, match="The run is preparing") as caught:
            runs.resume(session, owner, run.id)
        assert caught.value.code == FailureCode.CONFLICT
        with database.session() as session:
            progress.complete(session, claim, completed())
        with database.session() as session, pytest.raises(PatinaError) as caught:
            runs.resume(session, owner, run.id)
        assert "init_from" in caught.value.hint

    def test_of_a_run_whose_pictures_were_removed_is_refused(
        self, database: Database, failed: tuple[runs.Run, jobs.Claim], owner: str
    ) -> None:
        run, _ = failed
        with database.session() as session:
            (entry, *_) = datasets.version_contents(session, owner, run.version_id)
            remove_image(session, owner, run.dataset_id, entry.row.image, Choice.REMOVE_VERSIONS)
        with database.session() as session, pytest.raises(PatinaError, match=r"Version 1 of '.*' has been removed"):
            runs.resume(session, owner, run.id)


class TestAnotherOwner:
    def test_sees_and_stops_nothing(self, database: Database, make: Any, owner: str) -> None:
        run = make.run()
        attempts: list[Callable[[Any], object]] = [
            lambda session: runs.read(session, "bob", run.id),
            lambda session: runs.cancel(session, "bob", run.id),
            lambda session: runs.resume(session, "bob", run.id),
            lambda session: runs.events(session, "bob", run.id),
            lambda session: runs.metrics(session, "bob", run.id),
            lambda session: runs.previews(session, "bob", run.id),
        ]
        for attempt in attempts:
            with database.session() as session, pytest.raises(PatinaError) as caught:
                attempt(session)
            assert caught.value.code == FailureCode.NOT_FOUND
        with database.reading() as session:
            assert runs.list_runs(session, "bob").items == []
            assert runs.read(session, owner, run.id).status == RunStatus.QUEUED

    def test_cannot_train_on_what_is_not_theirs(self, database: Database, make: Any, recipes: Path) -> None:
        make.base()
        with pytest.raises(PatinaError) as caught:
            _create(database, "bob", _request(make.frozen()), recipes)
        assert caught.value.code == FailureCode.NOT_FOUND


class TestListRuns:
    def test_of_one_status(self, database: Database, make: Any, owner: str) -> None:
        dataset_id = make.frozen()
        first, second = (make.run(dataset=dataset_id) for _ in range(2))
        with database.session() as session:
            runs.cancel(session, owner, first.id)
        with database.reading() as session:
            assert [run.id for run in runs.list_runs(session, owner).items] == [second.id, first.id]
            assert [run.id for run in runs.list_runs(session, owner, status="cancelled").items] == [first.id]


class TestMetrics:
    def test_a_step_done_again_counts_with_its_last_value(self, database: Database, make: Any, owner: str) -> None:
        run, claim = make.training()

        def step(number: int, loss: float) -> StepDone:
            return StepDone(
                at=1.0, step=number, loss=loss, loss_smooth=loss, learning_rate=1.0, grad_norm=1.0, images_per_s=1.0
            )

        said = [HeldOut(at=1.0, loss=0.9), step(1, 0.5), step(2, 0.4), step(2, 0.3), HeldOut(at=2.0, step=2, loss=0.8)]
        with database.session() as session:
            progress.record_events(session, claim, said, 100)
        with database.reading() as session:
            curves = runs.metrics(session, owner, run.id)
        assert [(done.step, done.loss) for done in curves.steps] == [(1, 0.5), (2, 0.3)]
        assert [(measured.step, measured.loss) for measured in curves.held_out] == [(0, 0.9), (2, 0.8)]

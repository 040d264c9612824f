"""Generations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from catalog import jobs
from catalog.bases import service as bases
from catalog.db import Database
from catalog.generations import service as generations
from catalog.generations.models import Generation
from catalog.generations.service import MadeImage
from catalog.jobs import Kind, LeaseLost, Queue
from catalog.runs import progress
from catalog.sweep import sweep
from catalog.workers import service as workers
from catalog.workers.service import Device
from contracts.events import Preview
from contracts.failures import FailureCode, InvalidInput, PatinaError
from contracts.generate import MAX_SEED, GenerationRequest, GenerationStatus, WeightsChoice

IMAGE = MadeImage(seed=7, width=64, height=64, sha256="1" * 64, blob_key="generations/1.png", bytes=10)


def _create(database: Database, owner: str, **changes: Any) -> Generation:
    with database.session() as session:
        return generations.create(session, owner, GenerationRequest(**{"prompt": "a cat"} | changes))


def _style(scale: float = 1.0, reference: str = "style") -> tuple[WeightsChoice, ...]:
    return (WeightsChoice(weights=reference, scale=scale),)


def _status(database: Database, owner: str, generation_id: str) -> str:
    with database.reading() as session:
        return generations.read(session, owner, generation_id).generation.status


class TestCreate:
    def test_fills_in_what_was_left_open(self, database: Database, make: Any, owner: str, rung: list[str]) -> None:
        base = make.base()
        rung.clear()
        first, second = (_create(database, owner) for _ in range(2))
        request = GenerationRequest.model_validate(first.request)
        assert (request.base, request.width, request.height) == ("emoji", 64, 64)
        assert (first.base_id, first.base_identity) == (base.id, base.identity)
        assert 0 <= first.request["seed"] <= MAX_SEED
        assert first.request["seed"] != second.request["seed"]
        assert rung == ["generate", "generate"]

    def test_keeps_what_was_given_also_seed_zero(self, database: Database, make: Any, owner: str) -> None:
        make.base()
        request = _create(database, owner, seed=0, width=128, height=32).request
        assert (request["seed"], request["width"], request["height"]) == (0, 128, 32)

    def test_resolves_weights_once_and_for_all(self, database: Database, make: Any, owner: str) -> None:
        weights = make.weights()
        made = _create(database, owner, weights=_style(0.5))
        make.weights()
        assert made.weights == [
            {"id": weights.id, "name": "style", "version": 1, "scale": 0.5, "sha256": weights.sha256}
        ]
        claim = make.claim(Queue.GENERATE)
        with database.session() as session:
            work = generations.begin(session, claim)
        assert (work.weights[0].version, work.weights[0].blob_key) == (1, weights.blob_key)

    def test_takes_the_base_the_weights_belong_to(self, database: Database, make: Any, owner: str) -> None:
        make.weights()
        make.base("other", identity="f" * 64)
        assert _create(database, owner, weights=_style()).base_name == "emoji"

    def test_refuses_weights_on_another_base_and_names_both(self, database: Database, make: Any, owner: str) -> None:
        make.weights()
        make.base("other", identity="f" * 64)
        with pytest.raises(PatinaError) as caught:
            _create(database, owner, base="other", weights=_style())
        assert caught.value.code == FailureCode.BASE_MISMATCH
        assert "a" * 64 in caught.value.message
        assert "f" * 64 in caught.value.message
        with pytest.raises(AssertionError, match="nothing to claim"):
            make.claim(Queue.GENERATE)

    def test_refuses_weights_that_were_trained_to_predict_different_things(
        self, database: Database, make: Any, owner: str
    ) -> None:
        make.weights()
        make.weights("dark", base="emoji", said={"prediction_type": "v_prediction", "zero_terminal_snr": True})
        with pytest.raises(InvalidInput) as caught:
            _create(database, owner, weights=_style() + _style(0.5, "dark"))
        assert caught.value.errors[0].pointer == "/weights"
        assert "'style' predicts the noise, from nearly pure noise; 'dark' predicts v" in caught.value.message
        assert _create(database, owner, weights=_style() + _style(0.0, "dark")).base_name == "emoji"

    def test_refuses_a_strength_for_a_full_fine_tune(self, database: Database, make: Any, owner: str) -> None:
        make.weights()
        make.weights("whole", base="emoji", said={"method": "full", "rank": None, "alpha": None, "targets": None})
        for scale in (0.5, 0.0):
            with pytest.raises(InvalidInput, match=r"'whole@1' is a full fine-tune") as caught:
                _create(database, owner, weights=_style(0.5) + _style(scale, "whole"))
            assert [error.pointer for error in caught.value.errors] == ["/weights/1/scale"]
            assert "Leave its scale out" in caught.value.hint
        made = _create(database, owner, weights=_style(0.5) + _style(1.0, "whole"))
        assert [entry["scale"] for entry in made.weights] == [0.5, 1.0]

    def test_needs_a_name_when_there_is_a_choice_of_bases_or_none(
        self, database: Database, make: Any, owner: str
    ) -> None:
        for name in (None, "emoji", "other"):
            if name is not None:
                make.base(name, identity=name[0] * 64)
            if name == "emoji":
                continue
            with pytest.raises(InvalidInput) as caught:
                _create(database, owner)
            assert caught.value.errors[0].pointer == "/base"

    @pytest.mark.parametrize(
        ("changes", "code"),
        [({"base": "gone"}, FailureCode.UNKNOWN_BASE), ({"weights": _style(1.0, "gone")}, FailureCode.NOT_FOUND)],
    )
    def test_refuses_what_is_not_there(
        self, database: Database, make: Any, owner: str, changes: dict[str, Any], code: FailureCode
    ) -> None:
        make.base()
        with pytest.raises(PatinaError) as caught:
            _create(database, owner, **changes)
        assert caught.value.code == code

    def test_refuses_a_base_that_is_still_being_added(self, database: Database, owner: str) -> None:
        with database.session() as session:
            bases.request_add(session, "emoji", "bases/emoji", None)
        with pytest.raises(PatinaError, match="not ready"):
            _create(database, owner, base="emoji")


class TestWork:
    def test_is_claimed_in_batches_and_completed_one_by_one(self, database: Database, make: Any, owner: str) -> None:
        make.base()
        made = [_create(database, owner, images=2) for _ in range(3)]
        with database.session() as session:
            claims = jobs.claim(session, Queue.GENERATE, "engine-1", 60, limit=2)
            works = [generations.begin(session, claim) for claim in claims]
        assert [work.generation_id for work in works] == [made[0].id, made[1].id]
        assert all(claim.kind == Kind.GENERATE for claim in claims)
        assert works[0].base_source == "bases/emoji"
        with database.session() as session:
            generations.complete(session, claims[0], [IMAGE, IMAGE], 1.5)
        with database.reading() as session:
            views = [generations.read(session, owner, row.id) for row in made]
        assert [view.generation.status for view in views] == ["succeeded", "running", "queued"]
        assert [image.position for image in views[0].images] == [0, 1]
        assert views[0].generation.seconds == 1.5
        assert views[0].generation.finished_at is not None

    def test_of_an_engine_that_came_late_is_not_kept(self, database: Database, make: Any, owner: str) -> None:
        make.base()
        made = _create(database, owner)
        late = make.claim(Queue.GENERATE)
        with database.session() as session:
            generations.begin(session, late)
        make.expire(late)
        with database.session() as session:
            sweep(session)
        claim = make.claim(Queue.GENERATE)
        writes: list[Callable[[Any], object]] = [
            lambda session: generations.begin(session, late),
            lambda session: generations.complete(session, late, [IMAGE], 1.0),
            lambda session: generations.fail(session, late, FailureCode.INTERNAL, "m", "h"),
            lambda session: generations.cancelled(session, late),
            lambda session: generations.give_back(session, late),
        ]
        for write in writes:
            with database.session() as session, pytest.raises(LeaseLost):
                write(session)
        assert _status(database, owner, made.id) == GenerationStatus.QUEUED
        with database.session() as session:
            generations.complete(session, claim, [IMAGE], 1.0)
        with database.reading() as session:
            assert len(generations.read(session, owner, made.id).images) == 1

    def test_that_failed_says_why(self, database: Database, make: Any, owner: str) -> None:
        make.base()
        made = _create(database, owner)
        claim = make.claim(Queue.GENERATE)
        with database.session() as session:
            generations.fail(session, claim, FailureCode.OUT_OF_MEMORY, "Too big.", "Smaller.", "r1")
        with database.reading() as session:
            seen = generations.read(session, owner, made.id).generation
        assert (seen.status, seen.failure_code, seen.failure_message) == ("failed", "out_of_memory", "Too big.")

    def test_given_back_is_done_by_the_next_engine(self, database: Database, make: Any, owner: str) -> None:
        make.base()
        made = _create(database, owner)
        claim = make.claim(Queue.GENERATE)
        with database.session() as session:
            generations.begin(session, claim)
            generations.give_back(session, claim)
        assert _status(database, owner, made.id) == GenerationStatus.QUEUED
        assert make.claim(Queue.GENERATE).fence == 2


class TestCancel:
    def test_of_a_queued_one_is_at_once_and_twice_is_once(self, database: Database, make: Any, owner: str) -> None:
        make.base()
        made = _create(database, owner)
        for _ in range(2):
            with database.session() as session:
                assert generations.cancel(session, owner, made.id).status == GenerationStatus.CANCELLED
        with pytest.raises(AssertionError, match="nothing to claim"):
            make.claim(Queue.GENERATE)

    def test_of_a_running_one_tells_the_engine(self, database: Database, make: Any, owner: str) -> None:
        make.base()
        made = _create(database, owner)
        claim = make.claim(Queue.GENERATE)
        with database.session() as session:
            generations.begin(session, claim)
            assert generations.cancel(session, owner, made.id).cancel_requested
        with database.session() as session:
            heartbeat = jobs.heartbeat(session, claim.job_id, claim.fence, 60)
            assert heartbeat is not None
            assert heartbeat.cancel_requested
            generations.cancelled(session, claim)
        assert _status(database, owner, made.id) == GenerationStatus.CANCELLED

    def test_of_a_finished_one_is_refused(self, database: Database, make: Any, owner: str) -> None:
        make.base()
        made = _create(database, owner)
        claim = make.claim(Queue.GENERATE)
        with database.session() as session:
            generations.complete(session, claim, [IMAGE], 1.0)
            with pytest.raises(PatinaError) as caught:
                generations.cancel(session, owner, made.id)
        assert caught.value.code == FailureCode.CONFLICT


class TestWaiting:
    def test_says_that_runs_hold_every_device(self, database: Database, make: Any, owner: str) -> None:
        run = make.run()
        made = _create(database, owner)
        seen = []
        for step in ("no device known", "free", "held", "free again"):
            with database.session() as session:
                if step == "free":
                    workers.register_host(session, "host", [Device("cpu")])
                if step == "held":
                    claim = workers.claim_with_device(session, Queue.TRAIN, "w", "host", 60)
                    assert claim is not None
                    assert claim.subject_id == run.id
                if step == "free again":
                    assert claim is not None
                    jobs.finish(session, claim.job_id, claim.fence)
            with database.reading() as session:
                seen.append(generations.read(session, owner, made.id).waiting_for)
        assert seen == [None, None, "device", None]


class TestFindImage:
    def test_finds_what_was_generated_previewed_or_uploaded_by_this_owner(
        self, database: Database, make: Any, owner: str, decoded: Any
    ) -> None:
        _, training = make.training()
        _create(database, owner)
        claim = make.claim(Queue.GENERATE)
        with database.session() as session:
            generations.complete(session, claim, [IMAGE], 1.0)
            stored = progress.StoredFile("previews/2.png", "2" * 64, 10)
            progress.record_preview(session, training, Preview(at=1.0, file="a", prompt="p", seed=1), stored)
        uploaded = decoded(f"{make.run().dataset_id}/0")
        expected = {"1" * 64: IMAGE.blob_key, "2" * 64: "previews/2.png", uploaded.identity: uploaded.blob_key}
        with database.reading() as session:
            assert {sha: generations.find_image(session, owner, sha) for sha in expected} == expected
            assert {generations.find_image(session, "bob", sha) for sha in expected} == {None}


class TestAnotherOwner:
    def test_sees_and_stops_nothing(self, database: Database, make: Any, owner: str) -> None:
        make.base()
        made = _create(database, owner)
        for attempt in (generations.read, generations.cancel):
            with database.session() as session, pytest.raises(PatinaError) as caught:
                attempt(session, "bob", made.id)
            assert caught.value.code == FailureCode.NOT_FOUND
        with database.reading() as session:
            assert generations.list_generations(session, "bob").items == []
            assert [row.id for row in generations.list_generations(session, owner).items] == [made.id]

    def test_cannot_use_weights_that_are_not_theirs(self, database: Database, make: Any) -> None:
        make.weights()
        with pytest.raises(PatinaError) as caught:
            _create(database, "bob", weights=_style())
        assert caught.value.code == FailureCode.NOT_FOUND

"""Removing: all that was asked for or nothing, and never unasked what something came of."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from catalog import jobs, storage
from catalog.blobs import BlobStore, image_key
from catalog.datasets import editing, ingest
from catalog.datasets import service as datasets
from catalog.datasets.ingest import DecodedImage
from catalog.datasets.models import DatasetImage, DatasetVersionRow
from catalog.db import Base, Database
from catalog.erasing import ERASED
from catalog.generations import service as generations
from catalog.jobs import Job, Queue
from catalog.registry import service as registry
from catalog.registry.models import Weights, WeightsAlias
from catalog.registry.starting import starting_point
from catalog.removing import remove_dataset, remove_image, remove_run, remove_version, remove_weights
from catalog.runs import progress
from catalog.runs import service as runs
from catalog.uploads import service as uploads
from contracts.dataset import Fate
from contracts.failures import FailureCode, PatinaError
from contracts.generate import GenerationRequest, WeightsChoice
from contracts.removal import Choice, HasOffspring, WeightsNamed
from contracts.run import RunRequest

OWNER = "ada"

TAKING_WEIGHTS: dict[str, Callable[[Session, Weights], object]] = {
    "weights": lambda session, _: remove_weights(session, OWNER, "ours", "1"),
    "run": lambda session, made: remove_run(session, OWNER, str(made.run_id), Choice.REMOVE_WEIGHTS),
    "version": lambda session, _: remove_version(
        session, OWNER, datasets.find_dataset(session, OWNER, "style").id, 1, Choice.REMOVE_RUNS_WEIGHTS
    ),
    "dataset": lambda session, _: remove_dataset(session, OWNER, "style", Choice.REMOVE_VERSIONS_RUNS_WEIGHTS),
}
"""Each way to remove the weights 'ours', which were trained on the dataset 'style'."""


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(str(tmp_path / "blobs"))


def rows_about(database: Database) -> dict[str, int]:
    """How many rows there are in tables that are not jobs."""
    tables = [table for table in Base.metadata.sorted_tables if table.name != Job.__tablename__]
    with database.reading() as session:
        counted = {table.name: session.scalar(select(func.count()).select_from(table)) or 0 for table in tables}
    return {name: count for name, count in counted.items() if count}


class TestRemove:
    def test_takes_every_row_and_the_collector_every_blob(
        self, database: Database, blobs: BlobStore, make: Any, tmp_path: Path
    ) -> None:
        dataset, key = make.dataset(name="style", images=0), image_key(OWNER, "a" * 64)
        blobs.put_bytes(key, b"pixels")
        with database.session() as session:
            uploads.offer(session, OWNER, dataset, "set.zip", "uploads/ada/x", 6, "1" * 64)
        claim = make.claim(Queue.LIGHT)
        with database.session() as session:
            (archive,) = ingest.pending_files(session, claim)
            ingest.record_members(session, claim, archive.id, [ingest.Member("a.png", 1, "uploads/ada/x.0")])
            (member,) = ingest.pending_files(session, claim)
            ingest.record_image(session, claim, member.id, DecodedImage("a" * 64, 8, 8, key))
            ingest.finish(session, claim)
        piece = uploads.store_piece(blobs, OWNER, 0, b"abc")
        with database.session() as session:
            editing.write_caption(session, OWNER, dataset, "a" * 64, "mine", None)
            announced = uploads.Announced(dataset, "b.png", 9, None, "")
            upload = uploads.begin(session, OWNER, announced, 3600).id
        uploads.add_pieces(database, OWNER, upload, [piece], 3600)
        with database.session() as session:
            remove_dataset(session, OWNER, "style")
        assert rows_about(database) == {}
        for path in (tmp_path / "blobs").rglob("*"):
            os.utime(path, (1, 1))
        storage.collect(database, blobs, 60)
        assert (blobs.exists(key), blobs.exists(piece.blob_key)) == (False, False)

    def test_stops_whoever_reads_it_and_does_nothing_to_others(self, database: Database, make: Any) -> None:
        kept, dataset = make.dataset(name="kept"), make.dataset(name="style", images=0)
        with database.session() as session:
            row = datasets.offer_upload(session, OWNER, dataset, "a.png", "uploads/ada/x", 6)
        claim = make.claim(Queue.LIGHT)
        with database.session() as session:
            remove_dataset(session, OWNER, dataset)
        with database.session() as session, pytest.raises(jobs.LeaseLost):
            ingest.reject(session, claim, row.id, "late")
        with database.reading() as session:
            assert datasets.read(session, OWNER, kept).images == 3

    def test_refuses_and_names_what_came_of_it(self, database: Database, make: Any) -> None:
        weights = make.weights(name="ours", dataset=make.frozen(name="style"))
        before = rows_about(database)
        with pytest.raises(HasOffspring) as refused, database.session() as session:
            remove_dataset(session, OWNER, "style")
        found = refused.value.offspring
        assert [(one.dataset, one.version) for one in found.versions] == [("style", 1)]
        assert ([one.id for one in found.runs], list(found.weights)) == (
            [weights.run_id],
            [WeightsNamed(name="ours", version=1)],
        )
        assert set(refused.value.choices) == {"keep=history", "remove=versions,runs,weights"}
        assert rows_about(database) == before

    def test_is_for_its_owner_alone(self, database: Database, make: Any) -> None:
        make.dataset(name="style")
        with pytest.raises(PatinaError) as refused, database.session() as session:
            remove_dataset(session, "eve", "style")
        assert refused.value.code is FailureCode.NOT_FOUND

    def test_keeping_history_keeps_what_runs_and_weights_came_from_and_frees_the_name(
        self, database: Database, make: Any, blobs: BlobStore
    ) -> None:
        weights = make.weights(name="ours", dataset=make.frozen(name="style"))
        make.ingest(_id(database, "style"), {"new.png": "new"}, {})
        with database.session() as session:
            unused = datasets.freeze(session, OWNER, "style").version.id
            remove_dataset(session, OWNER, "style", Choice.KEEP_HISTORY)
        with database.reading() as session:
            run = runs.read(session, OWNER, str(weights.run_id))
            assert run.datasets[0]["name"] == "style"
            assert len(datasets.version_contents(session, OWNER, run.version_id)) == 3
            assert datasets.version_contents(session, OWNER, unused) == []
            assert datasets.list_datasets(session, OWNER).items == []
            for call in (datasets.read, datasets.list_versions):
                with pytest.raises(PatinaError, match="no dataset"):
                    call(session, OWNER, run.dataset_id)
        make.frozen(name="style")
        with database.session() as session:
            assert [use.name for use in storage.usage(session, blobs, OWNER) if use.what == "dataset"] == [
                "style",
                "style (removed)",
            ]
            with pytest.raises(HasOffspring, match=r"'style \(removed\)' is not removed"):
                remove_dataset(session, OWNER, run.dataset_id)

    def test_of_history_that_serves_nobody_any_more_nothing_is_left(self, database: Database, make: Any) -> None:
        weights = make.weights(name="ours", dataset=make.frozen(name="style"))
        with database.session() as session:
            remove_dataset(session, OWNER, "style", Choice.KEEP_HISTORY)
        with database.session() as session:
            remove_run(session, OWNER, str(weights.run_id), Choice.KEEP_HISTORY)
        assert rows_about(database)["dataset_version_rows"] == 3
        with database.session() as session:
            remove_weights(session, OWNER, "ours", "latest")
        assert not {name for name in rows_about(database) if name.startswith("dataset")}

    def test_with_everything_that_came_of_it_leaves_what_came_of_others(self, database: Database, make: Any) -> None:
        base = make.base().name
        other = make.weights(name="other", base=base, dataset=make.frozen(name="other"))
        make.weights(name="ours", base=base, dataset=make.frozen(name="style"))
        with database.session() as session:
            registry.set_alias(session, OWNER, "ours", "mine", 1)
            remove_dataset(session, OWNER, "style", Choice.REMOVE_VERSIONS_RUNS_WEIGHTS)
        with database.reading() as session:
            assert [one.name for one in registry.list_weights(session, OWNER).items] == ["other"]
            assert [one.id for one in runs.list_runs(session, OWNER).items] == [other.run_id]
            assert [one.name for one in datasets.list_datasets(session, OWNER).items] == ["other"]
            assert session.scalar(select(func.count()).select_from(WeightsAlias)) == 0

    @pytest.mark.parametrize("choice", [Choice.REMOVE_VERSIONS_RUNS_WEIGHTS, None])
    def test_does_nothing_at_all_while_a_run_of_it_is_under_way(
        self, database: Database, make: Any, choice: Choice | None
    ) -> None:
        run = make.run(dataset=make.frozen(name="style"))
        before = rows_about(database)
        with pytest.raises(PatinaError, match=run.id if choice else "1 version, 1 run"), database.session() as session:
            remove_dataset(session, OWNER, "style", choice)
        assert rows_about(database) == before
        with database.session() as session:
            remove_dataset(session, OWNER, "style", Choice.KEEP_HISTORY)
        with database.reading() as session:
            ((version_id, _),) = runs.fed_by(session, OWNER, run.id)
            assert len(datasets.version_contents(session, OWNER, version_id)) == 3


class TestRemoveImage:
    def test_nothing_was_made_of_goes_for_good(self, database: Database, make: Any) -> None:
        dataset = make.dataset(name="style")
        image = identity_of(database, dataset, 0)
        with database.session() as session:
            remove_image(session, OWNER, dataset, image)
        with database.reading() as session:
            assert len(editing.list_images(session, OWNER, dataset).items) == 2
            assert editing.list_images(session, OWNER, dataset, removed=True).items == []
            rows = [row for row in datasets.ledger(session, OWNER, dataset) if row.fate == Fate.REJECTED]
            assert [(row.filename, row.reason, row.caption, row.image) for row in rows] == [
                ("0.png", ERASED, None, None), ("0.txt", ERASED, None, None),
            ]  # fmt: skip
        make.ingest(dataset, {"1-again.png": f"{dataset}/1"}, {})
        with database.reading() as session:
            assert [row.fate for row in datasets.ledger(session, OWNER, dataset)].count(Fate.REJECTED) == 2

    def test_takes_its_mask_and_leaves_words_that_serve_another_image(
        self, database: Database, make: Any, decoded: Any
    ) -> None:
        dataset = make.dataset(name="style", images=0)
        make.ingest(dataset, {"cat.png": "cat", "cat.jpg": "other"}, {"cat.txt": "a cat"})
        with database.session() as session:
            row = datasets.offer_upload(session, OWNER, dataset, "cat_mask.png", "uploads/x", 1)
        claim = make.claim(Queue.LIGHT)
        with database.session() as session:
            ingest.record_mask(session, claim, row.id, decoded("mask"))
            ingest.finish(session, claim)
        with database.session() as session:
            for image in editing.list_images(session, OWNER, dataset).items:
                assert (image.caption, image.mask) == ("a cat", decoded("mask").identity)
            remove_image(session, OWNER, dataset, decoded("cat").identity)
        with database.session() as session:
            (left,) = editing.list_images(session, OWNER, dataset).items
            assert (left.caption, left.mask) == ("a cat", decoded("mask").identity)
            remove_image(session, OWNER, dataset, decoded("other").identity)
            rows = {row.filename: row for row in datasets.ledger(session, OWNER, dataset)}
        assert set(rows) == {"cat.png", "cat.jpg", "cat.txt", "cat_mask.png"}
        assert {(row.fate, row.caption, row.blob_key) for row in rows.values()} == {(Fate.REJECTED, None, None)}

    def test_takes_the_alpha_channel_inside_its_file_also_where_another_mask_went_before(
        self, database: Database, make: Any, decoded: Any
    ) -> None:
        dataset, alpha = make.dataset(name="style", images=0), decoded("alpha")
        with database.session() as session:
            rows = [datasets.offer_upload(session, OWNER, dataset, f"cat{end}.png", "u/x", 1) for end in ("", "_mask")]
        claim = make.claim(Queue.LIGHT)
        with database.session() as session:
            cut_out = replace(decoded("cat"), alpha=alpha.identity, alpha_key=alpha.blob_key)
            ingest.record_image(session, claim, rows[0].id, cut_out)
            ingest.record_mask(session, claim, rows[1].id, decoded("mask"))
            ingest.finish(session, claim)
        with database.session() as session:
            before = {row.filename: row.blob_key for row in datasets.ledger(session, OWNER, dataset)}
            assert before["cat.png:alpha"] == alpha.blob_key
            remove_image(session, OWNER, dataset, cut_out.identity)
            after = datasets.ledger(session, OWNER, dataset)
        assert {row.filename for row in after} == {"cat.png", "cat.png:alpha", "cat_mask.png"}
        assert {(row.fate, row.image, row.blob_key) for row in after} == {(Fate.REJECTED, None, None)}

    def test_that_versions_hold_is_asked_about(self, database: Database, make: Any) -> None:
        style = make.frozen(name="style")
        make.ingest(make.dataset(name="other", images=0), {"x.png": f"{style}/0"}, {})
        image = identity_of(database, style, 0)
        with pytest.raises(HasOffspring) as refused, database.session() as session:
            remove_image(session, OWNER, "style", image)
        found = refused.value.offspring
        assert (found.datasets, [(one.dataset, one.version) for one in found.versions]) == (("other",), [("style", 1)])
        assert len(refused.value.choices) == 3

    def test_from_the_draft_alone_can_be_put_back_and_versions_keep_it(self, database: Database, make: Any) -> None:
        style = make.frozen(name="style")
        image = identity_of(database, style, 0)
        with database.session() as session:
            remove_image(session, OWNER, style, image, Choice.KEEP_HISTORY)
        with database.session() as session:
            version = datasets.read_version(session, OWNER, style)
            assert image in {entry.row.image for entry in datasets.version_contents(session, OWNER, version.id)}
            editing.restore_image(session, OWNER, style, image, None)
            assert len(editing.list_images(session, OWNER, style).items) == 3

    def test_everywhere_takes_it_from_every_dataset_and_its_bytes_from_the_store(
        self, database: Database, make: Any, blobs: BlobStore, tmp_path: Path
    ) -> None:
        weights = make.weights(name="ours", dataset=make.frozen(name="style"))
        style = _id(database, "style")
        other = make.dataset(name="other", images=0)
        make.ingest(other, {"x.png": f"{style}/0", "y.png": "y"}, {})
        image = identity_of(database, style, 0)
        key = make_blobs(database, blobs, image)
        with database.session() as session:
            digest = datasets.read_version(session, OWNER, style).digest
            remove_image(session, OWNER, "other", image, Choice.REMOVE_VERSIONS)
        with database.reading() as session:
            (version,) = datasets.list_versions(session, OWNER, style)
            assert (version.digest, version.withdrawn_at is not None) == (digest, True)
            assert datasets.version_contents(session, OWNER, version.id) == []
            with pytest.raises(PatinaError, match="was withdrawn"):
                datasets.read_version(session, OWNER, style, 1)
            assert [len(editing.list_images(session, OWNER, name).items) for name in (style, other)] == [2, 1]
            assert registry.read(session, OWNER, weights.id).datasets[0]["digest"] == digest
        for path in (tmp_path / "blobs").rglob("*"):
            os.utime(path, (1, 1))
        storage.collect(database, blobs, 60)
        assert not blobs.exists(key)

    def test_everywhere_with_what_came_of_it_is_refused_while_a_run_is_under_way(
        self, database: Database, make: Any
    ) -> None:
        run = make.run(dataset=make.frozen(name="style"))
        image = identity_of(database, run.dataset_id, 0)
        before = rows_about(database)
        for choice in (Choice.REMOVE_VERSIONS, Choice.REMOVE_VERSIONS_RUNS_WEIGHTS):
            with pytest.raises(PatinaError, match=run.id), database.session() as session:
                remove_image(session, OWNER, "style", image, choice)
        assert rows_about(database) == before
        with database.session() as session:
            runs.cancel(session, OWNER, run.id)
            remove_image(session, OWNER, "style", image, Choice.REMOVE_VERSIONS_RUNS_WEIGHTS)
        assert not rows_about(database).keys() & {"runs", "run_versions", "dataset_version_rows"}

    def test_content_that_comes_back_is_the_version_it_was(self, database: Database, make: Any) -> None:
        style = make.frozen(name="style", images=2)
        with database.session() as session:
            before = datasets.read_version(session, OWNER, style).id
            kept = [entry.row for entry in datasets.version_contents(session, OWNER, before)]
            remove_image(session, OWNER, style, kept[0].image, Choice.REMOVE_VERSIONS)
        make.ingest(style, {kept[0].source_name: f"{style}/{kept[0].source_name[0]}"}, {
            f"{kept[0].source_name[0]}.txt": kept[0].caption
        })  # fmt: skip
        with database.session() as session:
            again = datasets.freeze(session, OWNER, style, accept_warnings=True)
            assert (again.version.id, again.created) == (before, False)
            assert [entry.row for entry in datasets.version_contents(session, OWNER, before)] == kept


class TestRemoveVersion:
    def test_withdraws_it_and_no_run_may_use_it(self, database: Database, make: Any, recipes: Path) -> None:
        run = make.weights(name="ours", dataset=make.frozen(name="style"))
        with pytest.raises(HasOffspring), database.session() as session:
            remove_version(session, OWNER, "style", 1)
        with database.session() as session:
            remove_version(session, OWNER, "style", 1, Choice.KEEP_HISTORY)
        request = RunRequest(dataset="style", version=1, base=run.base_name, recipe="demo")
        with pytest.raises(PatinaError, match="was withdrawn"), database.session() as session:
            runs.create(session, OWNER, request, recipes)
        with database.session() as session:
            assert datasets.read(session, OWNER, "style").images == 3
            assert datasets.freeze(session, OWNER, "style").version.withdrawn_at is None


class TestRemoveRun:
    def test_keeps_its_weights_or_takes_them_with_it(self, database: Database, make: Any) -> None:
        base, style = make.base().name, make.frozen(name="style")
        kept, gone = (make.weights(name=name, base=base, dataset=style) for name in ("kept", "gone"))
        with pytest.raises(HasOffspring, match="1 weights"), database.session() as session:
            remove_run(session, OWNER, str(kept.run_id))
        with database.session() as session:
            remove_run(session, OWNER, str(kept.run_id), Choice.KEEP_HISTORY)
            remove_run(session, OWNER, str(gone.run_id), Choice.REMOVE_WEIGHTS)
        with database.reading() as session:
            (left,) = registry.list_weights(session, OWNER).items
            assert (left.name, left.run_id, left.datasets) == ("kept", None, kept.datasets)
        with pytest.raises(HasOffspring) as refused, database.session() as session:
            remove_dataset(session, OWNER, "style")
        assert refused.value.offspring.weights == (WeightsNamed(name="kept", version=1),)

    def test_that_is_under_way_is_refused(self, database: Database, make: Any) -> None:
        run = make.run()
        with pytest.raises(PatinaError, match="Still under way"), database.session() as session:
            remove_run(session, OWNER, run.id)

    def test_is_for_its_owner_alone(self, database: Database, make: Any) -> None:
        run = make.run()
        with pytest.raises(PatinaError) as refused, database.session() as session:
            remove_run(session, "eve", run.id)
        assert refused.value.code is FailureCode.NOT_FOUND


class TestRemoveWeights:
    def test_never_gives_their_number_to_others(self, database: Database, make: Any) -> None:
        base, style = make.base().name, make.frozen(name="style")
        make.weights(name="ours", base=base, dataset=style)
        make.weights(name="ours", base=base, dataset=style)
        with database.session() as session:
            registry.set_alias(session, OWNER, "ours", "mine", 2)
            remove_weights(session, OWNER, "ours", "mine")
            assert registry.resolve(session, OWNER, "ours").version == 1
            remove_weights(session, OWNER, "ours", "1")
        assert make.weights(name="ours", base=base, dataset=style).version == 3

    def test_waits_for_generations_that_were_asked_for(self, database: Database, make: Any) -> None:
        make.weights(name="ours")
        with database.session() as session:
            wanted = GenerationRequest(prompt="a cat", weights=(WeightsChoice(weights="ours"),))
            made = generations.create(session, OWNER, wanted).id
        with pytest.raises(PatinaError, match=made), database.session() as session:
            remove_weights(session, OWNER, "ours", "latest")
        with database.session() as session:
            generations.cancel(session, OWNER, made)
            remove_weights(session, OWNER, "ours", "latest")
            assert session.scalars(select(Weights)).all() == []

    @pytest.mark.parametrize("way", TAKING_WEIGHTS)
    def test_waits_for_runs_that_start_from_them(self, database: Database, make: Any, recipes: Path, way: str) -> None:
        base, other = make.base().name, make.frozen(name="other")
        made = make.weights(name="ours", base=base, dataset=make.frozen(name="style"))
        made_so = {"init_from": "ours", "lora.rank": 8, "lora.alpha": 8.0, "lora.targets": "attn"}
        request = RunRequest(dataset=other, base=base, recipe="demo", overrides=made_so)
        with database.session() as session:
            run = runs.create(session, OWNER, request, recipes, starting_point)
        claim = make.claim(Queue.TRAIN)
        for started in (False, True):
            if started:
                with database.session() as session:
                    progress.begin(session, claim, "cpu", keeps_directory=False)
                    progress.give_back(session, claim)
            with pytest.raises(PatinaError, match=run.id) as caught, database.session() as session:
                TAKING_WEIGHTS[way](session, made)
            assert caught.value.code is FailureCode.CONFLICT
        with database.session() as session:
            runs.cancel(session, OWNER, run.id)
            TAKING_WEIGHTS[way](session, made)
            assert session.scalars(select(Weights)).all() == []


def _id(database: Database, name: str) -> str:
    with database.reading() as session:
        return datasets.read(session, OWNER, name).id


def identity_of(database: Database, dataset: str, number: int) -> str:
    """The image a dataset was given as ``number``.png."""
    with database.reading() as session:
        (found,) = (
            one.image
            for one in editing.list_images(session, OWNER, dataset).items
            if one.source_name == f"{number}.png"
        )
    return found


def make_blobs(database: Database, blobs: BlobStore, image: str) -> str:
    """The bytes of an image, as if a worker had stored them; the key they are under."""
    key = image_key(OWNER, image)
    blobs.put_bytes(key, b"pixels")
    with database.session() as session:
        for table in (DatasetImage, DatasetVersionRow):
            session.execute(update(table).where(table.image == image).values(blob_key=key))
    return key

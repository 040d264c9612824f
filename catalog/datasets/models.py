"""Tables of datasets: the ledger of offered files, the images read from them, and frozen versions."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from catalog.db import Base, Listed, Row, db_now
from contracts.dataset import Fate, Split

REMOVED_MARK = "~"
"""Between the name of a removed dataset and its id; no name a person may give has it."""


class Dataset(Listed):
    """A growing collection of images; runs use its frozen versions."""

    __tablename__ = "datasets"
    __table_args__ = (UniqueConstraint("owner", "name"), Index("ix_datasets_listed", "owner", "created_at", "id"))

    name: Mapped[str]
    captions_revision: Mapped[int] = mapped_column(default=0)
    """Counts changes of its images and captions, so that nobody edits what they have not seen."""
    removed_at: Mapped[float | None]
    """When its owner removed it and kept what came of it: nobody finds it any more, its versions are still named."""

    @property
    def told_name(self) -> str:
        """What it is called, or was before it was removed."""
        name, mark, _ = self.name.partition(REMOVED_MARK)
        return f"{name} (removed)" if mark else name


class DatasetFile(Base):
    """One line of the ledger: a file that was offered, a member of an archive, or a line of metadata.jsonl.

    Rows are never removed. ``image`` links a picture to the image it shows, so that a second file with the same
    pixels is a duplicate, and a caption to the image it describes.
    """

    __tablename__ = "dataset_files"
    __table_args__ = (
        UniqueConstraint("parent_id", "child_index"),
        Index("ix_dataset_files_dataset", "dataset_id", "id"),
        Index("ix_dataset_files_fate", "dataset_id", "fate", "kind"),
        Index("ix_dataset_files_ingest", "owner", "dataset_id", "ingest", "fate", "bytes"),
    )

    id: Mapped[int] = mapped_column(Row, primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    parent_id: Mapped[int | None] = mapped_column(Row, ForeignKey("dataset_files.id"))
    """The archive or metadata file it was inside."""
    child_index: Mapped[int | None]
    filename: Mapped[str]
    kind: Mapped[str]
    blob_key: Mapped[str | None]
    bytes: Mapped[int] = mapped_column(Row)
    fate: Mapped[str] = mapped_column(default=Fate.PENDING)
    reason: Mapped[str | None]
    image: Mapped[str | None]
    width: Mapped[int | None]
    height: Mapped[int | None]
    caption: Mapped[str | None]
    """The text of a caption row; of an image row, the caption it got."""
    caption_source: Mapped[str | None]
    """Name of the file the caption came from."""
    target: Mapped[str | None]
    """Of a caption row: the image file it names, or that name without extension for a sidecar; of a mask row: the
    name of its image without extension."""
    concept: Mapped[str | None]
    """What the folder of an image row, or the metadata of a caption row, says the image shows."""
    repeats: Mapped[int | None]
    """How often that folder or metadata wants it in an epoch."""
    split: Mapped[str | None]
    """Of a caption row: the split its metadata puts the image in."""
    note: Mapped[str | None]
    """What was done to an image or taken from a metadata file, for whoever offered it."""
    ingest: Mapped[int | None]
    """Number of the reading (``DatasetIngest``) that took it, or took it last; None while it waits."""
    offered_at: Mapped[float] = mapped_column(default=db_now())


class DatasetIngest(Base):
    """How far the newest reading of a dataset's files is; how many met which fate is counted in the ledger."""

    __tablename__ = "dataset_ingests"

    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(default=1)
    """Counts the readings of the dataset."""
    seq: Mapped[int] = mapped_column(default=0)
    """Goes up with whatever the worker does, and never down: the id of what is told next."""
    phase: Mapped[str | None]
    file: Mapped[str | None]
    """The file that is being looked into."""
    file_done: Mapped[int | None]
    """How many files inside it have been taken out, and of how many."""
    file_total: Mapped[int | None]
    outcome: Mapped[str | None]
    began_at: Mapped[float] = mapped_column(default=db_now())
    ended_at: Mapped[float | None]


class DatasetFetch(Base):
    """A ledger row whose file is still to be fetched from the address that is its name; gone once that is settled."""

    __tablename__ = "dataset_fetches"
    __table_args__ = (Index("ix_dataset_fetches_due", "dataset_id", "not_before"),)

    file_id: Mapped[int] = mapped_column(
        Row, ForeignKey("dataset_files.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    attempts: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[float] = mapped_column(default=db_now())


class DatasetImage(Base):
    """One image of a dataset, by its identity, with the caption its files gave it and what people changed."""

    __tablename__ = "dataset_images"
    __table_args__ = (Index("ix_dataset_images_image", "owner", "image"),)

    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    image: Mapped[str] = mapped_column(primary_key=True)
    file_id: Mapped[int] = mapped_column(Row, ForeignKey("dataset_files.id"))
    blob_key: Mapped[str]
    width: Mapped[int]
    height: Mapped[int]
    source_name: Mapped[str]
    caption: Mapped[str | None]
    """What the uploaded files say."""
    caption_source: Mapped[str | None]
    concept: Mapped[str | None]
    repeats: Mapped[int] = mapped_column(default=1)
    split: Mapped[str | None]
    """The split the uploaded files put it in."""
    path_split: Mapped[str | None]
    """The split that the path of any of its picture files puts it in, where nothing says more."""
    mask: Mapped[str | None]
    """Identity of the mask offered beside it."""
    mask_key: Mapped[str | None]
    edited_caption: Mapped[str | None]
    """What a person says instead; later uploads do not touch it."""
    split_mark: Mapped[str | None]
    """The split a person chose; None leaves it to the files, and where they say nothing to the content hash."""
    removed_at: Mapped[float | None]
    """When it was taken out of the dataset; it can be put back."""
    likeness: Mapped[str | None]
    """Perceptual hash, in hexadecimal (contracts/likeness.py)."""
    near_image: Mapped[str | None]
    """The image of this dataset it looks most like, when it looks much like one."""

    @property
    def current_caption(self) -> str | None:
        """The caption a version would have: a person's word before the files'."""
        return self.caption if self.edited_caption is None else self.edited_caption

    @property
    def current_split(self) -> Split | None:
        """The split it is marked with: a person's word before what the files say, and that before where they lie."""
        marked = self.split_mark or self.split or self.path_split
        return None if marked is None else Split(marked)


class DatasetEdit(Base):
    """A change of captions by a person, which can be undone."""

    __tablename__ = "dataset_edits"
    __table_args__ = (Index("ix_dataset_edits_dataset", "dataset_id", "id"),)

    id: Mapped[int] = mapped_column(Row, primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    action: Mapped[str]
    made_at: Mapped[float] = mapped_column(default=db_now())
    undone_at: Mapped[float | None]


class DatasetEditChange(Base):
    """What an edit did to one image: its ``edited_caption`` before and after."""

    __tablename__ = "dataset_edit_changes"

    edit_id: Mapped[int] = mapped_column(Row, ForeignKey("dataset_edits.id"), primary_key=True)
    image: Mapped[str] = mapped_column(primary_key=True)
    before: Mapped[str | None]
    after: Mapped[str | None]


class DatasetVersion(Base):
    """A frozen state of a dataset: its rows never change; they go, all of them, when it is withdrawn."""

    __tablename__ = "dataset_versions"
    __table_args__ = (UniqueConstraint("dataset_id", "number"), UniqueConstraint("dataset_id", "digest"))

    id: Mapped[str] = mapped_column(primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    number: Mapped[int]
    digest: Mapped[str]
    held_out_share: Mapped[float]
    summary: Mapped[dict[str, Any]]
    created_at: Mapped[float] = mapped_column(default=db_now())
    frozen_at: Mapped[float] = mapped_column(default=db_now(), server_default="0")
    """When the dataset last had its content: the same content again is the same version, and the latest."""
    withdrawn_at: Mapped[float | None]
    """When its content was removed: its number and digest stay, and no run may use it (ADR 13)."""


class DatasetVersionRow(Base):
    """One image of a version."""

    __tablename__ = "dataset_version_rows"
    __table_args__ = (Index("ix_dataset_version_rows_image", "owner", "image"),)

    version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    image: Mapped[str]
    blob_key: Mapped[str]
    caption: Mapped[str]
    concept: Mapped[str | None]
    repeats: Mapped[int]
    split: Mapped[str]
    original_width: Mapped[int]
    original_height: Mapped[int]
    source_name: Mapped[str]
    mask: Mapped[str | None]
    mask_key: Mapped[str | None]

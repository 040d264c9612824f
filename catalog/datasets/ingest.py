"""What the light worker writes while it reads uploads. Knows nothing about pixels, zips or processes.

Every function is one step of an ``ingest`` job, whose subject is the dataset, and takes the job's claim: with a lost
lease it raises ``LeaseLost`` and nothing is written. Every step may be repeated: a row that has met its fate keeps
it, members of an archive are rows once, and an image is there once. One pass is:

    while files := pending_files(...): read each, then record_image | record_mask | record_caption |
        record_metadata | record_members (archives and tables) | reject
    finish(...)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from catalog import jobs
from catalog.datasets import captions, repository
from catalog.datasets.models import DatasetFile, DatasetImage
from catalog.datasets.room import Room
from catalog.datasets.settling import settle
from contracts.captions import MAX_CAPTION_CHARACTERS, clean_caption
from contracts.dataset import Fate
from contracts.layouts import MAX_REPEATS, FileKind, concept_folder, kind_of, masked_stem

MAX_CONCEPT_CHARACTERS = 200


@dataclass(frozen=True)
class Member:
    """A file found inside an archive or a table; ``blob_key`` is None when it is refused for ``reason``.

    A row of a table brings its caption and what else it says of its picture.
    """

    name: str
    bytes: int
    blob_key: str | None = None
    reason: str | None = None
    kind: FileKind | None = None
    """What it is, whatever its name; None goes by the name."""
    caption: str | None = None
    concept: str | None = None
    repeats: int | None = None


@dataclass(frozen=True)
class DecodedImage:
    """An image as the decoder left it: upright RGB, stored without metadata; ``note`` says what was done to it."""

    identity: str
    width: int
    height: int
    blob_key: str
    note: str | None = None
    likeness: str | None = None


@dataclass(frozen=True)
class MetadataLine:
    """A row of a metadata file: the image it names and what it says of it, or why it cannot be read."""

    number: int
    file_name: str
    text: str | None
    reason: str | None = None
    concept: str | None = None
    repeats: int | None = None


def pending_files(session: Session, claim: jobs.Claim, limit: int = 64) -> Sequence[DatasetFile]:
    """Files still to be read, oldest first; empty when there is none left.

    Raises:
        LeaseLost: another attempt has the job.
    """
    jobs.hold(session, claim)
    return repository.pending(session, claim.owner, claim.subject_id, limit)


def wait(session: Session, claim: jobs.Claim, file_id: int, reason: str) -> None:
    """The file cannot be read yet, and why, in words for whoever uploaded it.

    Raises:
        LeaseLost: another attempt has the job.
    """
    row = _open_row(session, claim, file_id)
    if row is not None:
        row.reason = reason
        session.flush()


def record_image(
    session: Session, claim: jobs.Claim, file_id: int, decoded: DecodedImage, room: Room | None = None
) -> None:
    """The file is an image: used, a duplicate of one the dataset has, or more than there is room for.

    Raises:
        LeaseLost: another attempt has the job.
    """
    row = _open_row(session, claim, file_id)
    if row is None:
        return
    first = repository.image(session, claim.owner, claim.subject_id, decoded.identity)
    if first is None and room is not None and room.refusal is not None:
        row.fate, row.reason = Fate.REJECTED, room.refusal
        session.flush()
        return
    _take_image(row, decoded)
    _take_concept(row)
    if first is not None:
        row.fate, row.reason = Fate.DUPLICATE, f"the same picture as {first.source_name}"
    else:
        row.fate = Fate.USED
        if room is not None:
            room.left -= 1
        session.add(
            DatasetImage(
                owner=claim.owner,
                dataset_id=claim.subject_id,
                image=decoded.identity,
                file_id=file_id,
                blob_key=decoded.blob_key,
                width=decoded.width,
                height=decoded.height,
                likeness=decoded.likeness,
                source_name=row.filename,
            )
        )
    session.flush()


def record_mask(session: Session, claim: jobs.Claim, file_id: int, decoded: DecodedImage) -> None:
    """The file is a mask; its image is found when the pass ends.

    Raises:
        LeaseLost: another attempt has the job.
    """
    row = _open_row(session, claim, file_id)
    if row is None:
        return
    _take_image(row, decoded)
    row.blob_key, row.target, row.fate = decoded.blob_key, masked_stem(row.filename), Fate.USED
    session.flush()


def record_caption(session: Session, claim: jobs.Claim, file_id: int, text: str) -> None:
    """The file is a caption sidecar; its image is found when the pass ends.

    Raises:
        LeaseLost: another attempt has the job.
    """
    row = _open_row(session, claim, file_id)
    if row is None:
        return
    row.target = captions.stem(row.filename)
    _take_text(row, text)
    session.flush()


def record_metadata(
    session: Session, claim: jobs.Claim, file_id: int, lines: Sequence[MetadataLine], note: str | None = None
) -> None:
    """The file is metadata: each of its rows becomes a caption row inside it; ``note`` says how it was read.

    Raises:
        LeaseLost: another attempt has the job.
    """
    row = _open_row(session, claim, file_id)
    if row is None:
        return
    for line in lines:
        child = _child(row, line.number, f"{row.filename}:{line.number}", len((line.text or "").encode()))
        child.kind = "caption"
        child.target = captions.beside(row.filename, line.file_name)
        child.fate = Fate.USED
        if line.text is None:
            child.fate, child.reason = Fate.REJECTED, line.reason or "the line has no text"
        else:
            _take_text(child, line.text)
            child.concept, child.repeats = _clean_concept(line.concept), _clean_repeats(line.repeats)
        session.add(child)
    row.fate, row.reason = Fate.USED, note
    session.flush()


def record_members(
    session: Session, claim: jobs.Claim, file_id: int, members: Sequence[Member], note: str | None = None
) -> None:
    """The file is an archive or a table: each member becomes a pending row, or a rejected one with its reason.

    Raises:
        LeaseLost: another attempt has the job.
    """
    row = _open_row(session, claim, file_id)
    if row is None:
        return
    for index, member in enumerate(members):
        child = _child(row, 2 * index, member.name, member.bytes)
        child.kind, child.blob_key = member.kind or kind_of(member.name), member.blob_key
        child.fate = Fate.PENDING if member.blob_key is not None else Fate.REJECTED
        child.reason = member.reason
        child.concept, child.repeats = _clean_concept(member.concept), _clean_repeats(member.repeats)
        session.add(child)
        if member.caption is not None:
            said = _child(row, 2 * index + 1, f"{member.name}:caption", len(member.caption.encode()))
            said.kind, said.target = FileKind.CAPTION, member.name
            said.concept, said.repeats = child.concept, child.repeats
            _take_text(said, member.caption)
            session.add(said)
    row.fate, row.reason = Fate.USED, note
    session.flush()


def reject(session: Session, claim: jobs.Claim, file_id: int, reason: str) -> None:
    """The file cannot be used, and why, in words for whoever uploaded it.

    Raises:
        LeaseLost: another attempt has the job.
    """
    row = _open_row(session, claim, file_id)
    if row is not None:
        row.fate, row.reason = Fate.REJECTED, reason
        session.flush()


def finish(session: Session, claim: jobs.Claim) -> None:
    """Give every image its caption and every caption its fate; ends the job.

    Raises:
        LeaseLost: another attempt has the job.
    """
    jobs.hold(session, claim)
    settle(session, claim.owner, claim.subject_id)
    jobs.finish(session, claim.job_id, claim.fence)


def _open_row(session: Session, claim: jobs.Claim, file_id: int) -> DatasetFile | None:
    jobs.hold(session, claim)
    row = repository.file(session, claim.owner, file_id)
    if row is None or row.fate != Fate.PENDING or row.dataset_id != claim.subject_id:
        return None
    row.reason = None  # what it may have waited for is over
    return row


def _child(parent: DatasetFile, index: int, name: str, size: int) -> DatasetFile:
    return DatasetFile(
        owner=parent.owner,
        dataset_id=parent.dataset_id,
        parent_id=parent.id,
        child_index=index,
        filename=name,
        bytes=size,
    )


def _take_text(row: DatasetFile, text: str) -> None:
    cleaned = clean_caption(text)
    if not cleaned:
        row.fate, row.reason = Fate.REJECTED, "the caption is empty"
    elif len(cleaned) > MAX_CAPTION_CHARACTERS:
        row.fate, row.reason = Fate.REJECTED, f"the caption is longer than {MAX_CAPTION_CHARACTERS} characters"
    else:
        row.caption, row.fate = cleaned, Fate.USED


def _take_image(row: DatasetFile, decoded: DecodedImage) -> None:
    row.image, row.width, row.height, row.note = decoded.identity, decoded.width, decoded.height, decoded.note


def _take_concept(row: DatasetFile) -> None:
    """What a kohya folder says of an image, unless something nearer has said it."""
    folder = concept_folder(row.filename)
    if folder is None or row.concept is not None:
        return
    row.concept, row.repeats = folder.words, row.repeats or folder.repeats
    told = f"{row.repeats}x an epoch as '{folder.words}', by its folder"
    row.note = f"{row.note}; {told}" if row.note else told


def _clean_concept(concept: str | None) -> str | None:
    return clean_caption(concept or "")[:MAX_CONCEPT_CHARACTERS] or None


def _clean_repeats(repeats: int | None) -> int | None:
    return repeats if repeats is not None and 1 <= repeats <= MAX_REPEATS else None

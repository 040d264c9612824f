"""What the light worker writes while it reads uploads. Knows nothing about pixels, zips or processes.

Every function is one step of an ``ingest`` job, whose subject is the dataset, and takes the job's claim: with a lost
lease it raises ``LeaseLost`` and nothing is written. Every step may be repeated: a row that has met its fate keeps
it, members of an archive are rows once, and an image is there once. One pass is:

    while files := pending_files(...): read each, then record_image | record_mask | record_caption |
        record_metadata | record_members (archives and tables) | reject
    finish(...)

A pass its owner cancels ends with ``stop(...)`` instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from catalog import jobs
from catalog.datasets import captions, progress, repository
from catalog.datasets.inside import ALPHA_INDEX, alpha_of, child_of
from catalog.datasets.models import DatasetFile, DatasetImage
from catalog.datasets.room import Room
from catalog.datasets.settling import settle
from catalog.datasets.wording import take_concept, take_text, words
from catalog.job_requests import FILLING, unfinished
from contracts.dataset import Fate, Split
from contracts.ingest import IngestStatus
from contracts.layouts import FileKind, held_out_by_path, kind_of, masked_stem


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
    split: Split | None = None


@dataclass(frozen=True)
class DecodedImage:
    """An image as the decoder left it: upright RGB, stored without metadata; ``note`` says what was done to it.

    What was transparent of it is a mask, stored like any other.
    """

    identity: str
    width: int
    height: int
    blob_key: str
    note: str | None = None
    likeness: str | None = None
    alpha: str | None = None
    """Identity of its alpha channel, where not all of it is opaque."""
    alpha_key: str | None = None


@dataclass(frozen=True)
class MetadataLine:
    """A row of a metadata file: the image it names and what it says of it, or why it cannot be read.

    Without words of its own, ``text`` is empty; None is a row that cannot be read.
    """

    number: int
    file_name: str
    text: str | None
    reason: str | None = None
    concept: str | None = None
    repeats: int | None = None
    split: Split | None = None


def pending_files(session: Session, claim: jobs.Claim, limit: int = 64) -> Sequence[DatasetFile]:
    """Files to be read next, oldest first; empty when there is none left.

    Raises:
        LeaseLost: another attempt has the job.
        CancelRequested: none is to be read: end with ``stop``.
    """
    progress.hold(session, claim)
    files = repository.pending(session, claim.owner, claim.subject_id, limit)
    progress.take(session, claim, files)
    return files


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
    if decoded.alpha is not None and decoded.alpha_key is not None:
        earlier = repository.child(session, row.owner, row.id, ALPHA_INDEX)
        session.add(alpha_of(row, decoded.alpha, decoded.alpha_key, earlier))
    take_concept(row)
    path_split = Split.HELD_OUT if held_out_by_path(row.filename) else None
    if path_split:
        row.note = "; ".join(filter(None, (row.note, "its path says held out")))
    if first is not None:
        first.path_split = path_split or first.path_split  # also under test/, it is there to measure on
        gone = "" if first.removed_at is None else ", which was taken out of the dataset; put that one back to use it"
        row.fate, row.reason = Fate.DUPLICATE, f"the same picture as {first.source_name}{gone}"
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
                path_split=path_split,
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
    take_text(row, text)
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
    children = []
    for line in lines:
        child = child_of(row, line.number, f"{row.filename}:{line.number}", len((line.text or "").encode()))
        child.kind = "caption"
        child.target = captions.beside(row.filename, line.file_name)
        if line.text is None:
            child.fate, child.reason = Fate.REJECTED, words(line.reason) or "the line has no text"
        else:
            take_text(child, line.text, line)
        children.append(child)
    repository.add_files(session, children)
    row.fate, row.reason = Fate.USED, words(note)
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
    children = []
    for index, member in enumerate(members):
        child = child_of(row, 2 * index, member.name, member.bytes)
        child.kind, child.blob_key = member.kind or kind_of(member.name), member.blob_key
        child.fate = Fate.PENDING if member.blob_key is not None else Fate.REJECTED
        child.reason = words(member.reason)
        children.append(child)
        if any(told is not None for told in (member.caption, member.concept, member.repeats, member.split)):
            text = member.caption or ""
            said = child_of(row, 2 * index + 1, f"{member.name}:caption", len(text.encode()))
            said.kind, said.target = FileKind.CAPTION, member.name
            take_text(said, text, member)
            children.append(said)
    repository.add_files(session, children)
    row.fate, row.reason = Fate.USED, words(note)
    session.flush()


def reject(session: Session, claim: jobs.Claim, file_id: int, reason: str) -> None:
    """The file cannot be used, and why, in words for whoever uploaded it.

    Raises:
        LeaseLost: another attempt has the job.
    """
    row = _open_row(session, claim, file_id)
    if row is not None:
        row.fate, row.reason = Fate.REJECTED, words(reason)
        session.flush()


def finish(session: Session, claim: jobs.Claim) -> None:
    """Give every image its caption and every caption its fate; ends the job.

    Raises:
        LeaseLost: another attempt has the job.
        CancelRequested: end with ``stop``.
    """
    progress.hold(session, claim)
    settle(session, claim.owner, claim.subject_id)
    jobs.finish(session, claim.job_id, claim.fence)
    if not unfinished(session, claim.owner, FILLING, [claim.subject_id]):
        progress.end(session, claim.owner, claim.subject_id, IngestStatus.DONE)


def stop(session: Session, claim: jobs.Claim) -> list[str]:
    """Give every image and caption its fate after a cancel, which has rejected what was unread; ends the job.

    Returns:
        Keys of the blobs of files that were not read, to be removed once this is committed.

    Raises:
        LeaseLost: another attempt has the job.
    """
    jobs.hold(session, claim)
    unread = progress.conclude(session, claim.owner, claim.subject_id, IngestStatus.CANCELLED)
    jobs.finish(session, claim.job_id, claim.fence, jobs.JobState.CANCELLED)
    return unread


def _open_row(session: Session, claim: jobs.Claim, file_id: int) -> DatasetFile | None:
    jobs.hold(session, claim)
    row = repository.file(session, claim.owner, file_id)
    if row is None or row.fate != Fate.PENDING or row.dataset_id != claim.subject_id:
        return None
    row.reason = None  # what it may have waited for is over
    return row


def _take_image(row: DatasetFile, decoded: DecodedImage) -> None:
    row.image, row.width, row.height, row.note = decoded.identity, decoded.width, decoded.height, decoded.note

"""What the light worker writes while it reads uploads. Knows nothing about pixels, zips or processes.

Every function is one step of an ``ingest`` job, whose subject is the dataset, and takes the job's claim: with a lost
lease it raises ``LeaseLost`` and nothing is written. Every step may be repeated: a row that has met its fate keeps
it, members of an archive are rows once, and an image is there once. One pass is:

    while files := pending_files(...): read each, then record_image | record_caption | record_metadata |
        record_members (archives) | reject
    finish(...)
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from catalog import jobs
from catalog.datasets import captions, repository
from catalog.datasets.models import DatasetFile, DatasetImage
from contracts.captions import MAX_CAPTION_CHARACTERS, clean_caption
from contracts.dataset import CAPTION_EXTENSIONS, IMAGE_EXTENSIONS, Fate

NO_CAPTION = "no caption: trained with the trigger word alone"


@dataclass(frozen=True)
class Member:
    """A file found inside an archive; ``blob_key`` is None when it is refused for ``reason``."""

    name: str
    bytes: int
    blob_key: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class DecodedImage:
    """An image as the decoder left it: upright RGB, stored without metadata."""

    identity: str
    width: int
    height: int
    blob_key: str


@dataclass(frozen=True)
class MetadataLine:
    """A line of metadata.jsonl: the image it names and its caption, or why it cannot be read."""

    number: int
    file_name: str
    text: str | None
    reason: str | None = None


def kind_of(filename: str) -> str:
    """What a file is taken for, by its name: image, caption, metadata, archive or other."""
    name = posixpath.basename(filename).lower()
    extension = posixpath.splitext(name)[1]
    if name == "metadata.jsonl":
        return "metadata"
    if extension in IMAGE_EXTENSIONS:
        return "image"
    if extension in CAPTION_EXTENSIONS:
        return "caption"
    return "archive" if extension == ".zip" else "other"


def pending_files(session: Session, claim: jobs.Claim, limit: int = 64) -> Sequence[DatasetFile]:
    """Files still to be read, oldest first; empty when there is none left.

    Raises:
        LeaseLost: another attempt has the job.
    """
    jobs.hold(session, claim)
    return repository.pending(session, claim.owner, claim.subject_id, limit)


def known_image(session: Session, claim: jobs.Claim, identity: str) -> str | None:
    """Blob key under which the owner already stores this image, in whichever dataset; None when nowhere."""
    found = repository.any_image(session, claim.owner, identity)
    return None if found is None else found.blob_key


def record_image(session: Session, claim: jobs.Claim, file_id: int, decoded: DecodedImage) -> None:
    """The file is an image: used, or a duplicate of one the dataset has.

    Raises:
        LeaseLost: another attempt has the job.
    """
    row = _open_row(session, claim, file_id)
    if row is None:
        return
    row.image, row.width, row.height = decoded.identity, decoded.width, decoded.height
    first = repository.image(session, claim.owner, claim.subject_id, decoded.identity)
    if first is not None:
        row.fate, row.reason = Fate.DUPLICATE, f"the same picture as {first.source_name}"
    else:
        row.fate = Fate.USED
        session.add(
            DatasetImage(
                owner=claim.owner,
                dataset_id=claim.subject_id,
                image=decoded.identity,
                file_id=file_id,
                blob_key=decoded.blob_key,
                width=decoded.width,
                height=decoded.height,
                source_name=row.filename,
            )
        )
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


def record_metadata(session: Session, claim: jobs.Claim, file_id: int, lines: Sequence[MetadataLine]) -> None:
    """The file is a metadata.jsonl: each line becomes a caption row inside it.

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
        session.add(child)
    row.fate = Fate.USED
    session.flush()


def record_members(session: Session, claim: jobs.Claim, file_id: int, members: Sequence[Member]) -> None:
    """The file is an archive: each member becomes a pending row, or a rejected one with its reason.

    Raises:
        LeaseLost: another attempt has the job.
    """
    row = _open_row(session, claim, file_id)
    if row is None:
        return
    for index, member in enumerate(members):
        child = _child(row, index, member.name, member.bytes)
        child.kind, child.blob_key = kind_of(member.name), member.blob_key
        child.fate = Fate.PENDING if member.blob_key is not None else Fate.REJECTED
        child.reason = member.reason
        session.add(child)
    row.fate = Fate.USED
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


def settle(session: Session, owner: str, dataset_id: str) -> None:
    """Pair captions and images anew from the ledger; doing it twice changes nothing."""
    repository.lock(session, owner, dataset_id)
    shown = repository.files_of_kind(session, owner, dataset_id, "image")
    written = repository.files_of_kind(session, owner, dataset_id, "caption")
    roots = _scopes(repository.files_of_kind(session, owner, dataset_id, "metadata"))
    pairing = captions.pair(
        [captions.ImageFile(row.id, row.parent_id or 0, row.filename, row.image) for row in shown if row.image],
        [_caption_file(row, roots) for row in written if row.target is not None and row.caption is not None],
    )
    for row in written:
        if row.id in pairing.fates:
            row.fate, row.reason, row.image = pairing.fates[row.id]
    for image in repository.images(session, owner, dataset_id):
        chosen = pairing.captions.get(image.image)
        image.caption = chosen.text if chosen else None
        image.caption_source = chosen.source if chosen else None
    for row in shown:
        if row.fate == Fate.USED and row.image:
            chosen = pairing.captions.get(row.image)
            row.caption, row.caption_source = (chosen.text, chosen.source) if chosen else (None, None)
            row.reason = None if chosen else NO_CAPTION
    session.flush()


def _open_row(session: Session, claim: jobs.Claim, file_id: int) -> DatasetFile | None:
    jobs.hold(session, claim)
    row = repository.file(session, claim.owner, file_id)
    return row if row is not None and row.fate == Fate.PENDING and row.dataset_id == claim.subject_id else None


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


def _scopes(metadata: Sequence[DatasetFile]) -> dict[int, int]:
    """Metadata row -> the archive it is in (0: uploaded loose): where the files it names are."""
    return {row.id: row.parent_id or 0 for row in metadata}


def _caption_file(row: DatasetFile, roots: dict[int, int]) -> captions.CaptionFile:
    exact = row.parent_id in roots
    scope = roots[row.parent_id] if exact and row.parent_id is not None else row.parent_id or 0
    return captions.CaptionFile(row.id, scope, row.filename, row.target or "", exact, row.caption or "")

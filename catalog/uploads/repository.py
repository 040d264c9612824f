"""SQL over uploads, their pieces and what was received. Knows nothing about blobs or the tus protocol."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import and_, delete, exists, func, insert, or_, select, update
from sqlalchemy.orm import Session, aliased

from catalog.datasets.captions import REPLACED
from catalog.datasets.models import DatasetFile
from catalog.datasets.progress import CANCELLED
from catalog.datasets.room import TOO_MANY
from catalog.db import db_now
from catalog.jobs import returned
from catalog.uploads.models import ReceivedFile, Upload, UploadPiece
from contracts.dataset import Fate
from contracts.layouts import FileKind


def find(session: Session, owner: str, upload_id: str, *, lock: bool = False) -> Upload | None:
    """One upload that has not expired, locked until the transaction ends if so wanted."""
    query = select(Upload).where(Upload.owner == owner, Upload.id == upload_id, Upload.expires_at > db_now())
    return session.scalar(query.with_for_update() if lock else query)


def unfinished(session: Session, owner: str, dataset_id: str) -> Sequence[Upload]:
    """Uploads to a dataset that have bytes to come, oldest first."""
    query = select(Upload).where(
        Upload.owner == owner,
        Upload.dataset_id == dataset_id,
        Upload.received_bytes < Upload.length_bytes,
        Upload.expires_at > db_now(),
    )
    return session.scalars(query.order_by(Upload.created_at, Upload.id)).all()


def pieces(session: Session, owner: str, upload_id: str) -> Sequence[UploadPiece]:
    """The pieces of an upload from its first byte on."""
    query = select(UploadPiece).where(UploadPiece.owner == owner, UploadPiece.upload_id == upload_id)
    return session.scalars(query.order_by(UploadPiece.start)).all()


def count_pieces(session: Session, owner: str, upload_id: str) -> int:
    """How many pieces an upload has."""
    query = select(func.count()).where(UploadPiece.owner == owner, UploadPiece.upload_id == upload_id)
    return session.scalar(query) or 0


def advance(session: Session, owner: str, upload_id: str, start: int, end: int, keep_s: float, *, whole: bool) -> bool:
    """Move the offset from ``start`` to ``end``, which is the length if ``whole`` and before it if not.

    False when the offset is not at ``start`` (any more), or there is no upload.
    """
    fits = Upload.length_bytes == end if whole else Upload.length_bytes > end
    moved = (
        update(Upload)
        .where(
            Upload.owner == owner,
            Upload.id == upload_id,
            Upload.received_bytes == start,
            fits,
            Upload.expires_at > db_now(),
        )
        .values(received_bytes=end, expires_at=db_now() + keep_s)
    )
    return bool(returned(session, moved.returning(Upload.id)))


def add_pieces(session: Session, rows: Iterable[UploadPiece]) -> None:
    """Note where bytes lie."""
    session.add_all(rows)
    session.flush()


def remove_pieces(session: Session, upload_ids: Sequence[str]) -> list[str]:
    """Forget the pieces of uploads, which the caller has found to be the owner's or expired; their blobs' keys."""
    gone = delete(UploadPiece).where(UploadPiece.upload_id.in_(upload_ids))
    return [key for (key,) in returned(session, gone.returning(UploadPiece.blob_key))]


def remove(session: Session, upload_ids: Sequence[str]) -> None:
    """Forget uploads whose pieces are gone."""
    session.execute(delete(Upload).where(Upload.id.in_(upload_ids)))


def expired(session: Session, limit: int) -> list[str]:
    """Uploads of any owner nobody has sent anything to for too long."""
    query = select(Upload.id).where(Upload.expires_at <= db_now()).order_by(Upload.expires_at).limit(limit)
    return list(session.scalars(query.with_for_update(skip_locked=True)))


def note_received(session: Session, row: DatasetFile, sha256: str) -> None:
    """Remember what an offered file was."""
    values = {
        "owner": row.owner,
        "file_id": row.id,
        "dataset_id": row.dataset_id,
        "filename": row.filename,
        "sha256": sha256,
    }
    session.execute(insert(ReceivedFile).values(**values))


def rejected_twin(session: Session, owner: str, dataset_id: str, filename: str, sha256: str) -> DatasetFile | None:
    """The newest row of a file of this name and content that came to nothing; not of one that came before another.

    What wins is what came last: a file that was changed and changed back has a row of its own.
    """
    newer = aliased(ReceivedFile)
    changed = exists().where(
        newer.owner == owner,
        newer.dataset_id == dataset_id,
        newer.filename == filename,
        newer.sha256 != sha256,
        newer.file_id > ReceivedFile.file_id,
    )
    same = (ReceivedFile.filename == filename) & (ReceivedFile.sha256 == sha256)
    query = (
        select(DatasetFile)
        .join(ReceivedFile, and_(DatasetFile.id == ReceivedFile.file_id, DatasetFile.owner == ReceivedFile.owner))
        .where(ReceivedFile.owner == owner, ReceivedFile.dataset_id == dataset_id, same)
        .where(DatasetFile.fate == Fate.REJECTED, DatasetFile.image.is_(None), ~changed)
    )
    return session.scalars(query.order_by(DatasetFile.id.desc()).limit(1).with_for_update(of=DatasetFile)).first()


def received(session: Session, owner: str, dataset_id: str, sha256s: Sequence[str]) -> set[tuple[str, str]]:
    """Name and content of what a dataset has of these; a file that could not be used may be offered again.

    So may one that lost to another of its name, when it was changed and is changed back.
    """
    read_once = or_(DatasetFile.image.is_not(None), DatasetFile.caption.is_not(None))
    inside = aliased(DatasetFile)
    # What holds an image there was no room for, or a file nobody looked into after a cancel, may be sent again.
    left_out = exists().where(
        inside.parent_id == DatasetFile.id, or_(inside.reason.startswith(TOO_MANY), inside.reason == CANCELLED)
    )
    within = aliased(DatasetFile)
    waiting = aliased(DatasetFile)
    lost = or_(
        exists().where(
            waiting.dataset_id == dataset_id,
            waiting.fate == Fate.PENDING,
            waiting.filename == ReceivedFile.filename,
        ),
        DatasetFile.fate == Fate.REJECTED,
        DatasetFile.reason.contains(REPLACED),
        exists().where(inside.parent_id == DatasetFile.id, inside.reason.contains(REPLACED)),
        exists().where(
            inside.parent_id == DatasetFile.id, within.parent_id == inside.id, within.reason.contains(REPLACED)
        ),
    )
    query = (
        select(
            ReceivedFile.filename,
            ReceivedFile.sha256,
            ReceivedFile.file_id,
            and_(DatasetFile.kind != FileKind.IMAGE, lost),
        )
        .join(DatasetFile, and_(DatasetFile.id == ReceivedFile.file_id, DatasetFile.owner == ReceivedFile.owner))
        .where(
            ReceivedFile.owner == owner,
            ReceivedFile.dataset_id == dataset_id,
            ReceivedFile.sha256.in_(sha256s),
            ~left_out,
            # A caption that has no image yet is rejected until the image comes: it is not to be sent again.
            or_(DatasetFile.fate != Fate.REJECTED, read_once),
        )
    )
    found = session.execute(query).all()
    newest = _newest(session, owner, dataset_id, {name for name, _, _, has_lost in found if has_lost})
    return {(name, sha256) for name, sha256, file_id, has_lost in found if not has_lost or newest[name] == file_id}


def _newest(session: Session, owner: str, dataset_id: str, names: Collection[str]) -> dict[str, int]:
    """The newest row of each of these names."""
    query = select(ReceivedFile.filename, func.max(ReceivedFile.file_id)).where(
        ReceivedFile.owner == owner, ReceivedFile.dataset_id == dataset_id, ReceivedFile.filename.in_(names)
    )
    rows = session.execute(query.group_by(ReceivedFile.filename)) if names else ()
    return {str(name): int(file_id) for name, file_id in rows}

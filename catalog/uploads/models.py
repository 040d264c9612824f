"""Tables of uploads: those still arriving, the pieces they arrived in, and what arrived for which dataset."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from catalog.db import Base, Listed, Row


class Upload(Listed):
    """A file that arrives in any number of requests; every API process sees how far it is."""

    __tablename__ = "uploads"
    __table_args__ = (
        Index("ix_uploads_listed", "owner", "created_at", "id"),
        Index("ix_uploads_expires", "expires_at"),
        Index("ix_uploads_dataset", "dataset_id"),
    )

    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    filename: Mapped[str]
    sha256: Mapped[str | None]
    """What the client says the whole file hashes to."""
    metadata_header: Mapped[str]
    """Upload-Metadata as it was sent, to be given back."""
    length_bytes: Mapped[int] = mapped_column(Row)
    received_bytes: Mapped[int] = mapped_column(Row, default=0)
    """The offset. It reaches the length in the transaction that offers the file, and never otherwise."""
    expires_at: Mapped[float]


class UploadPiece(Base):
    """Bytes of an upload from ``start`` on, as one blob; pieces lie end to end."""

    __tablename__ = "upload_pieces"

    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"), primary_key=True)
    start: Mapped[int] = mapped_column(Row, primary_key=True)
    bytes: Mapped[int] = mapped_column(Row)
    blob_key: Mapped[str]


class ReceivedFile(Base):
    """What an offered file was, byte for byte: so that its owner need not send it to the dataset again."""

    __tablename__ = "received_files"
    __table_args__ = (Index("ix_received_files_content", "owner", "dataset_id", "sha256"),)

    file_id: Mapped[int] = mapped_column(Row, ForeignKey("dataset_files.id"), primary_key=True, autoincrement=False)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    filename: Mapped[str]
    sha256: Mapped[str]

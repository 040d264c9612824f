"""The body of one tus request into an upload, piece by piece, in bounded memory.

What has come when a client hangs up counts, so that it goes on from there; with a checksum nothing counts before
all of it has been checked. Knows nothing about headers.
"""

from __future__ import annotations

import hashlib

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from api.deps import Parts
from api.space import refuse_full_disk, told_when_full
from api.tus import Checksum
from catalog.uploads import service
from catalog.uploads.models import Upload
from contracts.failures import FailureCode, PatinaError

PIECE_BYTES = 8 << 20
"""Gathered in memory before it is stored and counts: what a killed server loses at most."""


async def receive(request: Request, here: Parts, owner: str, upload: Upload, checksum: Checksum | None) -> int:
    """Add the request's body to the upload and return the new offset.

    Raises:
        PatinaError: TOO_LARGE, STORAGE_FULL, CHECKSUM_MISMATCH, or CONFLICT: another request was faster.
    """
    taker = _Taker(here, owner, upload, checksum)
    gathered = bytearray()
    try:
        try:
            async for chunk in request.stream():
                taker.refuse_too_much(len(gathered) + len(chunk))
                gathered += chunk
                if len(gathered) >= PIECE_BYTES:
                    await run_in_threadpool(taker.take, bytes(gathered))
                    gathered.clear()
        except ClientDisconnect:
            if checksum is not None:
                return upload.received_bytes
        if gathered:
            await run_in_threadpool(taker.take, bytes(gathered))
        await run_in_threadpool(taker.finish)
        return taker.offset
    finally:
        if taker.held:
            await run_in_threadpool(taker.drop)


class _Taker:
    """Stores pieces and has them count."""

    def __init__(self, here: Parts, owner: str, upload: Upload, checksum: Checksum | None) -> None:
        self.here = here
        self.owner = owner
        self.upload = upload
        self.checksum = checksum
        self.hasher: hashlib._Hash | None = checksum.hasher() if checksum else None
        self.offset = upload.received_bytes
        self.held: list[service.Piece] = []
        """Stored, not counting."""

    def refuse_too_much(self, coming_bytes: int) -> None:
        """Before bytes over the announced length are kept anywhere."""
        if self.offset + coming_bytes > self.upload.length_bytes:
            raise PatinaError(
                FailureCode.TOO_LARGE,
                f"The body goes beyond the announced {self.upload.length_bytes} bytes.",
                "Send what is left from the offset on, and no more.",
            )

    def take(self, data: bytes) -> None:
        """Store bytes; without a checksum they count at once."""
        refuse_full_disk(self.here, len(data))
        with told_when_full():
            piece = service.store_piece(self.here.blobs, self.owner, self.offset, data)
        self.held.append(piece)
        self.offset += piece.bytes
        if self.hasher is None:
            self._count()
        else:
            self.hasher.update(data)

    def finish(self) -> None:
        """All of the body is here."""
        if self.checksum is None or self.hasher is None:
            return
        if not self.checksum.fits(self.hasher):
            raise PatinaError(FailureCode.CHECKSUM_MISMATCH)
        if self.held:
            self._count()

    def drop(self) -> None:
        """What did not come to count."""
        service.drop_pieces(self.here.blobs, self.held)
        self.held = []

    def _count(self) -> None:
        # No longer held: when a commit ends in an error, it may have come through, and then they count.
        pieces, self.held = self.held, []
        try:
            self._hand_over(pieces)
        except PatinaError:
            self.held = pieces
            raise

    def _hand_over(self, pieces: list[service.Piece]) -> None:
        keep_s = self.here.settings.upload_expires_s
        if self.offset < self.upload.length_bytes:
            service.add_pieces(self.here.database, self.owner, self.upload.id, pieces, keep_s)
        else:
            refuse_full_disk(self.here, self.upload.length_bytes)
            with told_when_full():
                service.complete(self.here.database, self.here.blobs, self.owner, self.upload.id, pieces, keep_s)

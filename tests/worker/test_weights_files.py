"""Weights out of a store that is not on this machine."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NoReturn

import pytest

from catalog.blobs import BlobStore
from catalog.generations.service import ChosenWeights
from contracts.failures import FailureCode, PatinaError
from worker.weights_files import WeightsFiles

CONTENT = b"weights"
WANTED = ChosenWeights("wts_1", "style", 1, 1.0, hashlib.sha256(CONTENT).hexdigest(), "weights/style")


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(f"memory://{tmp_path}")


class TestPath:
    def test_is_a_checked_copy(self, blobs: BlobStore, tmp_path: Path) -> None:
        blobs.put_bytes(WANTED.blob_key, CONTENT)
        assert WeightsFiles(blobs, tmp_path).path(WANTED).read_bytes() == CONTENT

    def test_is_fetched_anew_where_the_copy_is_another_file(self, blobs: BlobStore, tmp_path: Path) -> None:
        blobs.put_bytes(WANTED.blob_key, b"damaged")
        with pytest.raises(PatinaError, match="is not the file that was registered"):
            WeightsFiles(blobs, tmp_path).path(WANTED)
        blobs.delete(WANTED.blob_key)
        blobs.put_bytes(WANTED.blob_key, CONTENT)
        assert WeightsFiles(blobs, tmp_path).path(WANTED).read_bytes() == CONTENT

    def test_is_refused_where_the_file_is_gone(self, blobs: BlobStore, tmp_path: Path) -> None:
        with pytest.raises(PatinaError, match="style@1") as caught:
            WeightsFiles(blobs, tmp_path).path(WANTED)
        assert caught.value.code is FailureCode.WEIGHTS_UNREADABLE

    def test_does_not_call_gone_what_a_store_that_is_away_may_have(
        self, blobs: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(*_: object) -> NoReturn:
            raise ConnectionError("no answer")

        monkeypatch.setattr(BlobStore, "open", away)
        with pytest.raises(ConnectionError):
            WeightsFiles(blobs, tmp_path).path(WANTED)

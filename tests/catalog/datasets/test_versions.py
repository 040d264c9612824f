"""What a version is made of."""

from __future__ import annotations

import hashlib

from catalog.datasets.versions import VersionImage, assemble
from contracts.dataset import Split, VersionRow, choose_held_out


def _images(count: int) -> list[str]:
    return [hashlib.sha256(str(index).encode()).hexdigest() for index in range(count)]


class TestAssemble:
    def test_puts_images_in_canonical_order_each_in_its_split(self) -> None:
        entries = [
            VersionImage(VersionRow(image=image, original_width=8, original_height=8, source_name="x"), f"k/{image}")
            for image in _images(40)
        ]
        contents = assemble(entries, 0.2)
        assert [entry.row.image for entry in contents] == sorted(_images(40))
        assert all(entry.blob_key == f"k/{entry.row.image}" for entry in contents)
        kept_out = {entry.row.image for entry in contents if entry.row.split is Split.HELD_OUT}
        assert kept_out == choose_held_out(_images(40), 0.2)
        assert kept_out

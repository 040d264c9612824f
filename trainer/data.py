"""The data set of a run: a frozen version's Parquet, or a folder of pictures with captions, as the same rows.

Rows are in canonical order, so both forms of one content train alike. Knows nothing about tensors or models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from contracts.dataset import (
    COLUMNS,
    DEFAULT_HELD_OUT_SHARE,
    IMAGE_EXTENSIONS,
    Split,
    VersionRow,
    choose_held_out,
    in_canonical_order,
    version_digest,
)
from contracts.failures import FailureCode, PatinaError
from trainer.images import DAMAGED, IdentityMemory
from trainer.picture_folder import METADATA, Found, in_folder

PARQUET = "data.parquet"
SHOWN = 10
"""Problems listed in one message."""


@dataclass(frozen=True)
class Dataset:
    """Rows in canonical order, and how to get the picture of each."""

    rows: tuple[VersionRow, ...]
    read: Callable[[str], bytes]
    """The picture file of an image identity."""
    read_mask: Callable[[str], bytes]
    """The mask file of a mask's identity."""
    digest: str


def read_dataset(folder: Path, memory: IdentityMemory) -> Dataset:
    """Read every row of ``folder``: ``data.parquet`` when there is one, else pictures with captions.

    Raises:
        PatinaError: DATASET_UNREADABLE naming every problem, or EMPTY_DATASET.
    """
    problems: list[str] = []
    parquet = folder / PARQUET
    found = _in_parquet(parquet) if parquet.is_file() else in_folder(folder, problems)
    rows: list[VersionRow] = []
    reads: dict[str, Callable[[], bytes]] = {}
    masks: dict[str, Callable[[], bytes]] = {}
    for picture in found:
        try:
            row = _row(picture, memory, problems)
        except DAMAGED as error:
            problems.append(f"{picture.name} {_why(error)}")
            continue
        rows.append(row)
        reads.setdefault(row.image, picture.read)
        if row.mask is not None and picture.read_mask is not None:
            masks.setdefault(row.mask, picture.read_mask)
    if problems:
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise PatinaError(
            FailureCode.DATASET_UNREADABLE, f"The data set cannot be read: {'; '.join(problems[:SHOWN])}{more}."
        )
    if all(picture.split is None for picture in found):
        held_out = choose_held_out((row.image for row in rows), DEFAULT_HELD_OUT_SHARE)
        rows = [row.model_copy(update={"split": Split.HELD_OUT}) if row.image in held_out else row for row in rows]
    if not any(row.split is Split.TRAIN for row in rows):
        raise PatinaError(
            FailureCode.EMPTY_DATASET,
            f"There is no picture to train on in {folder}.",
            f"It must hold {PARQUET}, or pictures ({', '.join(IMAGE_EXTENSIONS)}) with {METADATA} or caption files.",
        )
    return Dataset(
        rows=tuple(in_canonical_order(rows)),
        read=lambda image: reads[image](),
        read_mask=lambda mask: masks[mask](),
        digest=version_digest(rows),
    )


def _why(error: BaseException) -> str:
    """What the system says of a file has a number; what Pillow says of its bytes has none."""
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read ({error.strerror})"
    return "is damaged or no PNG, JPEG, WebP or AVIF picture"


def _row(picture: Found, memory: IdentityMemory, problems: list[str]) -> VersionRow:
    known = memory.identify(picture.read())
    mask = memory.identify(picture.read_mask(), mask=True) if picture.read_mask else None
    if mask and (mask.width, mask.height) != (known.width, known.height):
        sizes = f"{mask.width}x{mask.height}, not {known.width}x{known.height}"
        problems.append(f"the mask of {picture.name} is {sizes}")
    width, height = picture.original or (known.width, known.height)
    return VersionRow(
        image=known.image,
        mask=mask.image if mask else None,
        caption=picture.caption,
        concept=picture.concept,
        repeats=picture.repeats,
        split=picture.split or Split.TRAIN,
        original_width=width,
        original_height=height,
        source_name=picture.name,
    )


def _in_parquet(file: Path) -> list[Found]:
    try:
        return list(_rows_of(file))
    except (pa.ArrowException, ValueError, TypeError, OSError):
        raise PatinaError(FailureCode.DATASET_UNREADABLE, f"{file.name} is damaged or was made otherwise.") from None


def _rows_of(file: Path) -> Iterator[Found]:
    parquet = pq.ParquetFile(file, memory_map=True)
    missing = [column for column in COLUMNS if column not in parquet.schema_arrow.names]
    if missing:
        raise PatinaError(FailureCode.DATASET_UNREADABLE, f"{file.name} lacks the columns {', '.join(missing)}.")
    groups = _Groups(parquet)
    number = 0
    described = [column for column in COLUMNS if column not in ("image", "mask")]
    for group in range(parquet.num_row_groups):
        for offset, row in enumerate(parquet.read_row_group(group, columns=described).to_pylist()):
            masked = groups.bytes_of("mask", group, offset) is not None
            yield Found(
                read=_reader(groups, "image", group, offset),
                read_mask=_reader(groups, "mask", group, offset) if masked else None,
                name=row["source_name"] or f"row {number}",
                caption=row["caption"] or "",
                concept=row["concept"],
                repeats=row["repeats"],
                split=Split(row["split"]),
                original=(row["original_width"], row["original_height"]),
            )
            number += 1


class _Groups:
    """Image bytes of a Parquet file; keeps the row group read last, as rows are mostly read in order."""

    def __init__(self, parquet: pq.ParquetFile) -> None:
        self._parquet = parquet
        self._kept: tuple[int, Any] | None = None

    def bytes_of(self, column: str, group: int, offset: int) -> bytes | None:
        if self._kept is None or self._kept[0] != group:
            self._kept = (group, self._parquet.read_row_group(group, columns=["image", "mask"]))
        value = self._kept[1].column(column)[offset].as_py()
        return value["bytes"] if value else None


def _reader(groups: _Groups, column: str, group: int, offset: int) -> Callable[[], bytes]:
    return lambda: groups.bytes_of(column, group, offset) or b""

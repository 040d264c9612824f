"""A completed full fine-tune written out whole: a diffusers folder, one file in the original layout, or both.

They are made of the weights file that is published, so they hold its numbers in the type that is asked for. Each is
there whole or not at all. Knows nothing about training.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch

from contracts import events
from contracts.export import ExportSettings, Layout
from contracts.failures import PatinaError
from contracts.rundir import RunDir
from sdxl import files as base_files
from sdxl.exporting import Whole, export_folder, export_single_file, open_whole
from sdxl.files import COMPONENTS, BaseFiles
from trainer.files import discard, publish, temporary_beside
from trainer.report import Report
from trainer.room import is_full
from trainer.weights import DTYPES

BY_HAND = "python -m sdxl.formats export-full makes it of the weights file"


def write_exports(
    run_dir: RunDir, weights: Path, files: BaseFiles, settings: ExportSettings, identities: Path, report: Report
) -> tuple[str, ...]:
    """Write every layout that is asked for; what an earlier end of the run has left makes room for it.

    Returns where those are that were written, in the run directory.

    One that cannot be written is told in a warning and no failure: the weights are there, and it can be made of them.

    Args:
        weights: the file that is published, whose name they bear.
        files: of the base.
        identities: where identities of bases seen before are kept.
    """
    wanted = {export_path(run_dir, weights.stem, layout): layout for layout in settings.layouts}
    for there in [*run_dir.exports.glob("*")]:
        if there not in wanted:
            discard(there) if there.is_dir() else there.unlink()
    written = []
    for done, (path, layout) in enumerate(wanted.items()):
        report(events.Progress(at=time.time(), phase="exporting", done=done, total=len(wanted)))
        temporary = temporary_beside(path)
        try:
            _write(open_whole(files, weights, cache_dir=identities), layout, temporary, DTYPES[settings.precision])
            publish(temporary, path)
            written.append(str(path.relative_to(run_dir.root)))
        except (PatinaError, OSError) as error:
            reason = error.message if isinstance(error, PatinaError) else _why(error)
            report.warn(f"the {layout} export was not written: {reason} {BY_HAND}")
    if wanted:
        report(events.Progress(at=time.time(), phase="exporting", done=len(wanted), total=len(wanted)))
    return tuple(written)


def export_path(run_dir: RunDir, name: str, layout: Layout) -> Path:
    """Where an export of the weights called ``name`` is."""
    return run_dir.exports / (f"{name}.safetensors" if layout == "single-file" else name)


def export_bytes(files: BaseFiles, settings: ExportSettings) -> int:
    """What all of them take on the disk, counted in the base's files: its shape need not have been traced."""
    shapes = (shape for part in COMPONENTS for shape in base_files.shapes(files, part).values())
    return settings.bytes_of(sum(math.prod(shape) for shape in shapes))


def _why(error: OSError) -> str:
    return "The disk is full." if is_full(error) else f"The folder cannot be written ({error.strerror})."


def _write(whole: Whole, layout: Layout, path: Path, dtype: torch.dtype) -> None:
    if layout == "single-file":
        export_single_file(whole, path, dtype)
    else:
        export_folder(whole, path, dtype)

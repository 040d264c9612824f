"""What removed runs and withdrawn versions left in this machine's run directories: cleared away.

The database says what was removed, by name; a directory it has never heard of is left alone. Knows nothing about blobs.
"""

from __future__ import annotations

import shutil

import structlog

from catalog.runs import service as runs
from contracts.rundir import RunDir
from worker.station import Station

log = structlog.get_logger(__name__)


def clear_removed(station: Station) -> bool:
    """Remove the directories of removed runs, and the pictures of runs on withdrawn versions; False as well."""
    folder = station.settings.runs_dir
    there = (
        [path.name for path in folder.iterdir() if path.is_dir() and not path.is_symlink()] if folder.is_dir() else []
    )
    with station.database.reading() as session:
        removed, withdrawn = runs.left_by_removal(session, there)
    for run_id in removed:
        shutil.rmtree(folder / run_id, ignore_errors=True)
    pictures = [RunDir(folder / run_id).dataset for run_id in withdrawn]
    pictures = [path for path in pictures if path.exists()]
    for path in pictures:
        shutil.rmtree(path, ignore_errors=True)
    if removed or pictures:
        log.info("runs.cleared", runs=sorted(removed), pictures_of=[path.parent.name for path in pictures])
    return False

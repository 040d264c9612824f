"""What every guard reads: the repository's own files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("api", "broker", "catalog", "contracts", "inference", "patina", "sdxl", "trainer", "worker")


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def committed(root: Path) -> list[Path]:
    """Files git knows or would add: what a reader of the repository gets."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=root,
        capture_output=True,
        check=True,
    )
    files = [root / name for name in listed.stdout.decode().split("\0") if name]
    found = [path for path in files if path.is_file()]
    assert found
    return found


@pytest.fixture(scope="session")
def sources(root: Path) -> list[Path]:
    """Every Python file of the packages, in any depth."""
    found = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    assert len(found) > 50
    return found

"""The layers are checked by import-linter; these see to it that nothing escapes the check."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate")
CONTROL_PLANE = ("api", "broker", "catalog", "contracts", "patina")
LIGHT_MODULES = (
    "sdxl.tokens",
    "worker.light",
    "worker.train",
    "worker.launcher",
    "worker.decode",
    "worker.decode_child",
)
NOT_AT_API_START = ("pyarrow", "PIL", "datasets", "s3fs")


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text())


class TestLinter:
    def test_its_root_packages_are_the_packages_on_disk(self, root: Path, project: dict[str, Any]) -> None:
        on_disk = sorted(path.parent.name for path in root.glob("*/__init__.py"))
        assert on_disk
        assert sorted(project["tool"]["importlinter"]["root_packages"]) == on_disk

    def test_types_are_checked_and_files_installed_for_the_same_packages(self, project: dict[str, Any]) -> None:
        listed = sorted(project["tool"]["importlinter"]["root_packages"])
        assert sorted(project["tool"]["mypy"]["packages"]) == listed
        found = project["tool"]["setuptools"]["packages"]["find"]["include"]
        assert sorted(name.removesuffix("*") for name in found) == listed


class TestWhatIsLoaded:
    def test_the_control_plane_starts_without_torch(self, root: Path) -> None:
        modules = [name for package in CONTROL_PLANE for name in _modules(root, package)]
        assert len(modules) > 30
        assert _loaded(root, [*modules, *LIGHT_MODULES], HEAVY) == []

    def test_the_api_starts_without_what_reads_images_and_tables(self, root: Path) -> None:
        assert _loaded(root, ["api.app"], (*NOT_AT_API_START, *HEAVY)) == []

    def test_the_command_starts_without_databases_and_brokers(self, root: Path) -> None:
        assert _loaded(root, ["patina.cli"], ("sqlalchemy", "redis", "celery", "fastapi", *HEAVY)) == []

    def test_the_trainer_and_the_engine_start_without_bitsandbytes_which_their_libraries_would_load(
        self, root: Path
    ) -> None:
        modules = ["trainer.attempt", "trainer.planning", "inference.engine", "sdxl.formats"]
        assert _loaded(root, modules, ("diffusers", "bitsandbytes")) == ["diffusers"]

    def test_one_module_alone_loads_diffusers_and_transformers(self, root: Path) -> None:
        loading = re.compile(r"^\s*(from|import) (diffusers|transformers)\b", re.MULTILINE)
        packages = ("sdxl", "trainer", "inference", "worker")
        files = [file for package in packages for file in (root / package).rglob("*.py")]
        found = [file.relative_to(root).as_posix() for file in files if loading.search(file.read_text())]
        assert found == ["sdxl/stock.py"]


def _modules(root: Path, package: str) -> list[str]:
    found = []
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        # Alembic runs its own scripts; a __main__ runs when imported.
        if "migrations" not in parts and parts[-1] != "__main__":
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def _loaded(root: Path, modules: list[str], unwanted: tuple[str, ...]) -> list[str]:
    """Which of ``unwanted`` are in a fresh process after it has imported ``modules``."""
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"print(*[name for name in {unwanted!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, env={**os.environ}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()

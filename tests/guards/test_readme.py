"""The README's tree is the architecture page: it names every package and every top folder that is there."""

from __future__ import annotations

from pathlib import Path

import pytest


class TestTree:
    def test_it_lists_every_package(self, root: Path) -> None:
        readme = root / "README.md"
        if not readme.exists():
            pytest.skip("there is no README yet")
        text = readme.read_text()
        folders = sorted(path.parent.name for path in root.glob("*/__init__.py"))
        folders += [
            name for name in ("bases", "configs", "datasets", "benchmarks", "docs", "tests") if (root / name).is_dir()
        ]
        assert folders
        assert [name for name in folders if f"{name}/" not in text] == []

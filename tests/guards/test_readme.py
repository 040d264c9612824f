"""The README's tree is the architecture page: it names every top folder and every module, one phrase each."""

from __future__ import annotations

from pathlib import Path

FOLDERS = ("bases", "configs", "datasets", "benchmarks", "docs", "tests")
UNNAMED = ("tests", "migrations")


class TestTree:
    def test_it_lists_every_package(self, root: Path) -> None:
        text = (root / "README.md").read_text()
        folders = sorted(path.parent.name for path in root.glob("*/__init__.py"))
        assert folders
        assert [name for name in (*folders, *FOLDERS) if f"\n{name}/" not in text] == []

    def test_it_has_a_phrase_for_every_module(self, root: Path) -> None:
        tree = (root / "README.md").read_text().partition("## The tree")[2]
        packages = [path.parent for path in root.glob("*/__init__.py")] + [root / "benchmarks", root / "bases"]
        modules = [
            path.relative_to(package).as_posix()
            for package in packages
            for path in package.rglob("*.py")
            if path.name != "__init__.py" and not set(path.relative_to(root).parts) & set(UNNAMED)
        ]
        assert len(modules) > 50
        assert [name for name in modules if f"  {name} " not in tree] == []

"""Rules about files: how long they are, what an __init__ holds, what must never be written into them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

MOST_LINES = 300
TEXT_BYTES_LIMIT = 2_000_000

MACHINE_PATHS = re.compile(r"(?<![\w.}])/(?:home|Users|work|root|mnt|private)/[A-Za-z0-9._-]+")
"""Absolute paths of somebody's machine."""
REGISTRY_HOSTS = re.compile(
    r"(?i)\b(?:[\w-]+\.)*(?:artifactory|nexus|jfrog|devpi|pypi-proxy|npm-proxy)[\w.-]*\.[a-z]{2,}\b"
)
"""Private package mirrors, which end up in lock files and install logs."""
INDEX_OPTIONS = re.compile(
    r"(?:--(?:extra-)?index-url|--registry|_authToken|index-url\s*=)[ =]+[\"']?https?://(?P<host>[^/\"'\s]+)"
)
PUBLIC_HOSTS = {"pypi.org", "download.pytorch.org", "registry.npmjs.org"}


class TestLength:
    def test_no_source_file_is_longer_than_a_reader_can_hold(self, sources: list[Path]) -> None:
        lengths = {path: len(path.read_text().splitlines()) for path in sources}
        assert {str(path): length for path, length in lengths.items() if length > MOST_LINES} == {}


class TestPackages:
    def test_every_init_holds_a_docstring_and_nothing_else(self, sources: list[Path]) -> None:
        inits = [path for path in sources if path.name == "__init__.py"]
        assert len(inits) > 8
        for path in inits:
            body = ast.parse(path.read_text()).body
            assert len(body) == 1, f"{path} does more than say what it is"
            assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"

    def test_every_folder_with_sources_is_a_package(self, sources: list[Path]) -> None:
        folders = {path.parent for path in sources} - {p.parent for p in sources if "migrations" in p.parts}
        assert folders
        assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []

    def test_every_module_says_what_it_does(self, sources: list[Path]) -> None:
        assert [str(path) for path in sources if not ast.get_docstring(ast.parse(path.read_text()))] == []

    def test_data_folders_hold_no_package_that_would_shadow_a_library(self, root: Path) -> None:
        assert list((root / "datasets").rglob("__init__.py")) == []


class TestWords:
    def test_no_file_names_a_machine_or_a_private_registry(self, root: Path, committed: list[Path]) -> None:
        said = []
        for path in committed:
            text = _text(path)
            if text is None or path == Path(__file__):
                continue
            said += [f"{path.relative_to(root)}: {m.group()}" for m in MACHINE_PATHS.finditer(text)]
            said += [f"{path.relative_to(root)}: {m.group()}" for m in REGISTRY_HOSTS.finditer(text)]
            said += [
                f"{path.relative_to(root)}: {m.group()}"
                for m in INDEX_OPTIONS.finditer(text)
                if m["host"] not in PUBLIC_HOSTS
            ]
        assert said == []

    def test_the_patterns_do_find_what_they_are_for(self) -> None:
        assert MACHINE_PATHS.search("open('/home/someone/base.safetensors')")
        assert REGISTRY_HOSTS.search("https://artifactory.example.com/api/pypi")
        assert INDEX_OPTIONS.search("pip install --index-url https://mirror.example.com/simple x")
        assert not MACHINE_PATHS.search("https://example.com/home/someone")


def _text(path: Path) -> str | None:
    if path.stat().st_size > TEXT_BYTES_LIMIT:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None

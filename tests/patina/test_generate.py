"""`patina generate`: where the pictures are put, and what is refused before anything is generated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from patina.cli import main
from patina.client import Client


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What was asked of a server that generates at once."""
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.method)
        if request.method == "GET":
            return httpx.Response(200, content=request.url.path.encode())
        count = json.loads(request.content)["images"]
        images = [{"sha256": str(index) * 64} for index in range(count)]
        done = {"id": "gen_7", "status": "succeeded", "failure": None, "images": images}
        return httpx.Response(200, json=done)

    transport = httpx.MockTransport(answer)
    monkeypatch.setattr("patina.commands.generate.connect", lambda: Client("http://localhost", transport=transport))
    monkeypatch.chdir(tmp_path)
    return seen


def generate(capfd: pytest.CaptureFixture[str], output: str, images: int = 1) -> Any:
    main(["generate", "a cat", "-o", output, "--images", str(images), "--json"])
    return json.loads(capfd.readouterr().out)


class TestOutput:
    @pytest.mark.parametrize(
        ("output", "images", "files"),
        [
            ("new/cat.png", 1, ["new/cat.png"]),
            ("cat.png", 2, ["cat-0.png", "cat-1.png"]),
            (".", 1, ["gen_7.png"]),
            ("there", 1, ["there/gen_7.png"]),
            ("there", 2, ["there/gen_7-0.png", "there/gen_7-1.png"]),
        ],
    )
    def test_is_a_file_or_a_folder_to_put_it_in(
        self, capfd: pytest.CaptureFixture[str], output: str, images: int, files: list[str]
    ) -> None:
        Path("there").mkdir()
        assert generate(capfd, output, images)["files"] == files
        assert [file.read_text()[-1] for file in map(Path, files)] == [str(index) for index in range(images)]
        assert sorted(path for path in Path().rglob("*") if path.is_file()) == sorted(map(Path, files))

    @pytest.mark.parametrize(
        ("output", "images", "why"),
        [
            ("file/cat.png", 1, "file/cat.png cannot be written: "),
            ("x" * 300, 1, "cannot be written: File name too long"),
            ("cat.png", 2, "cat-1.png is a folder"),
        ],
    )
    def test_that_cannot_be_written_is_refused_before_the_server_is_asked(
        self, capfd: pytest.CaptureFixture[str], asked: list[str], output: str, images: int, why: str
    ) -> None:
        Path("file").touch()
        Path("cat-1.png").mkdir()
        (error,) = generate(capfd, output, images)["errors"]
        assert error["pointer"] == "/output"
        assert why in error["message"]
        assert asked == []

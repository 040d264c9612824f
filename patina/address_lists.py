"""Lists of addresses to fetch pictures from, as people keep them: text, CSV or JSONL; and sending them to a server.

Knows nothing about how pictures are fetched, which the server does.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from contracts.failures import FieldError, InvalidInput
from contracts.layouts import TEXT_COLUMNS, TOO_MANY_CELLS
from contracts.urls import why_not_fetched
from patina.client import Client, Json

URL_COLUMN = "url"
COMMENT = "#"
MOST_AT_ONCE = 500
MOST_BYTES_AT_ONCE = 500_000
"""Below the server's own limits of a request."""
SHOWN_PROBLEMS = 50


def read(path: Path) -> list[Json]:
    """The addresses of a file and their captions: one a line, or the `url` column of CSV or JSONL and one of text.

    Raises:
        InvalidInput: the file cannot be read, or lines of it cannot be taken; every one is named.
    """
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidInput([], f"{path} is not UTF-8 text.", "Save it as UTF-8.") from None
    except OSError as error:
        raise InvalidInput([], f"{path} cannot be read: {error.strerror}.", "Name a file with addresses.") from None
    readers = {".csv": _csv, ".jsonl": _jsonl}
    found, problems = [], []
    for number, wanted in readers.get(path.suffix.lower(), _text)(text):
        problem = wanted if isinstance(wanted, str) else why_not_fetched(wanted["url"])
        if isinstance(wanted, str) or problem is not None:
            problems.append(FieldError(pointer=f"/line/{number}", message=str(problem)))
        else:
            found.append(wanted)
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        message = f"{len(problems)} lines of {path.name} cannot be taken."
        hint = "Correct them and send the list again."
        raise InvalidInput(problems[:SHOWN_PROBLEMS], message, f"{hint} {more} are not shown." if more > 0 else hint)
    if not found:
        raise InvalidInput([], f"There is no address in {path.name}.", "Write one a line, or as `url` of CSV or JSONL.")
    return found


def send(client: Client, dataset_id: str, wanted: Sequence[Json]) -> dict[str, int]:
    """Offer addresses to a dataset, in as many requests as it takes; how many are new, again and known."""
    told: Counter[str] = Counter(new=0, again=0, known=0)
    for part in _parts(wanted):
        answer = client.request("POST", f"/api/v1/datasets/{dataset_id}/urls", json={"urls": part}).json()
        told.update({name: answer[name] for name in told})
    return dict(told)


def _text(text: str) -> Iterator[tuple[int, Json | str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.strip().startswith(COMMENT):
            yield number, {"url": line.strip()}


def _csv(text: str) -> Iterator[tuple[int, Json | str]]:
    lines = csv.DictReader(io.StringIO(text, newline=""))
    if URL_COLUMN not in (lines.fieldnames or ()):
        yield 1, f"there is no column `{URL_COLUMN}`"
        return
    while True:
        try:
            row = next(lines, None)
        except csv.Error as error:
            yield lines.line_num, f"cannot be read as CSV: {error}"
            return
        if row is None:
            return
        yield lines.line_num, TOO_MANY_CELLS if any(row.pop(None, ())) else _wanted(row)


def _jsonl(text: str) -> Iterator[tuple[int, Json | str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        yield number, _wanted(row) if isinstance(row, dict) else "is not a JSON object"


def _wanted(row: dict[str, Any]) -> Json | str:
    url = row.get(URL_COLUMN)
    if not isinstance(url, str) or not url.strip():
        return f"has no `{URL_COLUMN}`"
    said = next((row[name] for name in TEXT_COLUMNS if isinstance(row.get(name), str)), "")
    return {"url": url.strip(), **({"caption": said} if said.strip() else {})}


def _parts(wanted: Sequence[Json]) -> Iterator[list[Json]]:
    part: list[Json] = []
    part_bytes = 0
    for one in wanted:
        size_bytes = len(json.dumps(one))
        if part and (len(part) == MOST_AT_ONCE or part_bytes + size_bytes > MOST_BYTES_AT_ONCE):
            yield part
            part, part_bytes = [], 0
        part.append(one)
        part_bytes += size_bytes
    if part:
        yield part

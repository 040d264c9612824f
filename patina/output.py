"""What the command writes: one JSON document, a table, or one red panel. Knows nothing about servers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from contracts.failures import InvalidInput, PatinaError
from patina.problems import as_json, to_problem

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]

PIPED_COLUMNS = 160
"""Where there is no terminal to measure, lines are long enough that ids stay in one piece."""

console = Console(width=None if sys.stdout.isatty() else PIPED_COLUMNS)
notes = Console(stderr=True)
"""For words beside the answer, so that standard output stays the answer alone."""

STATUS_COLOURS = {
    "succeeded": "green",
    "ready": "green",
    "used": "green",
    "failed": "red",
    "rejected": "red",
    "cancelled": "yellow",
    "duplicate": "yellow",
}


def give(value: Any, as_document: bool, picture: Callable[[], RenderableType | None]) -> None:
    """Print the answer: as JSON, or as the picture of it."""
    if as_document:
        write_document(value)
        return
    drawn = picture()
    if drawn is not None:
        console.print(drawn)


def write_document(value: Any) -> None:
    """One JSON document on standard output, without colours or folding."""
    sys.stdout.write(as_json(value) + "\n")
    sys.stdout.flush()


def show_failure(error: PatinaError, as_document: bool) -> None:
    """One red panel on standard error, or the problem as the one document on standard output."""
    if as_document:
        write_document(to_problem(error))
        return
    parts: list[RenderableType] = [Text(error.message, style="bold")]
    if isinstance(error, InvalidInput) and error.errors:
        listed = Table.grid(padding=(0, 2))
        for field in error.errors:
            listed.add_row(Text(field.pointer or "/", style="yellow"), Text(field.message))
        parts.append(listed)
    parts.append(Text(error.hint, style="dim"))
    notes.print(Panel(Group(*parts), title=f"[red]{error.code}[/]", title_align="left", border_style="red"))


def rows(columns: Sequence[str], lines: Iterable[Sequence[Any]], empty: str) -> RenderableType:
    """A table, or a sentence when there is nothing to list. Cells are plain text, never markup."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for line in lines:
        table.add_row(*(cell(value) for value in line))
    return table if table.row_count else Text(empty, style="dim")


def facts(pairs: Iterable[tuple[str, Any]]) -> RenderableType:
    """Names and values under each other; what is None is left out."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        if value is not None:
            table.add_row(Text(name, style="dim"), value if isinstance(value, (Text, Table)) else cell(value))
    return table


def cell(value: Any) -> Text:
    """A value as text, status words in their colour."""
    if value is None:
        return Text("-", style="dim")
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return Text(text, style=STATUS_COLOURS.get(text, ""))


def short(digest: str | None) -> str | None:
    """The first characters of a hash, enough to tell two apart by eye."""
    return digest[:12] if digest else None


def clipped(text: str | None, characters: int = 120) -> str | None:
    """The beginning of a text, so that one long caption does not fill a table; JSON has all of it."""
    return text if text is None or len(text) <= characters else f"{text[: characters - 1]}…"


def size(count_bytes: float) -> str:
    """Bytes in the unit a person would use."""
    for unit in ("B", "kB", "MB", "GB"):
        if count_bytes < 1000:
            return f"{count_bytes:.0f} {unit}" if unit == "B" else f"{count_bytes:.1f} {unit}"
        count_bytes /= 1000
    return f"{count_bytes:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds as 12 s, 3 min 20 s or 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest_s = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest_s} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"

"""Asks before something is removed that other things came of, and has the server do what was answered.

The meanings are contracts/removal.py's, as the server sends them; what is to be said is this command line's own.
Knows nothing about which commands there are.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Group

from contracts.failures import FieldError, InvalidInput, PatinaError
from contracts.removal import HasOffspring, Offspring
from patina.client import Client
from patina.output import facts, give, notes, rows, short

Yes = Annotated[bool, typer.Option("--yes", help="Without being asked; what came of it needs a choice, too.")]
KeepHistory = Annotated[bool, typer.Option("--keep-history", help="What came of it stays.")]
Remove = Annotated[
    str | None,
    typer.Option("--remove", metavar="KINDS", help="What came of it goes with it, such as versions,runs,weights."),
]

_QUERY = re.compile(r"\b(keep=history|remove=([a-z,]+))")


@dataclass(frozen=True)
class Said:
    """What the command line says already."""

    keep_history: bool
    remove: str | None
    yes: bool
    as_json: bool


def remove(client: Client, path: str, what: str, said: Said, headers: Mapping[str, str] | None = None) -> None:
    """Remove what lies at ``path``, called ``what``; the person is asked what was not said.

    Raises:
        PatinaError: HAS_OFFSPRING: there is a choice to make, and nobody was to be asked.
        InvalidInput: what was said cannot be chosen here, or nobody is there to be asked.
    """
    try:
        _remove(client, path, what, said, headers)
    except (HasOffspring, InvalidInput) as refused:
        raise _in_options(refused) from None


def confirm(question: str) -> None:
    """Go on only when a person says yes.

    Raises:
        InvalidInput: nobody is there to be asked.
        typer.Abort: the answer is no.
    """
    if not _says_yes(question, "Add --yes."):
        raise typer.Abort


def _remove(client: Client, path: str, what: str, said: Said, headers: Mapping[str, str] | None) -> None:
    chosen = {"keep": "history"} if said.keep_history else {}
    chosen |= {} if said.remove is None else {"remove": said.remove}
    sent = dict(headers or {})
    look = client.request("DELETE", path, params={"dry_run": "true", **chosen}, headers=sent).json()
    if look["choices"]:
        notes.print(_came_of_it(what, Offspring.model_validate(look["offspring"])))
    if not said.yes:
        chosen = _asked(what, look["choices"], chosen)
    client.request("DELETE", path, params=chosen, headers=sent)
    told = {"removed": what, **chosen}
    give(told, said.as_json, lambda: facts([("removed", what)]))


def _asked(what: str, choices: Mapping[str, str], chosen: Mapping[str, str]) -> dict[str, str]:
    """The choice that was given and is meant, or the first that is wanted."""
    given = "&".join(f"{name}={value}" for name, value in chosen.items())
    if not choices or given:
        meaning = f": {choices.get(given, given)}" if choices else ""
        confirm(f"Remove {what}{meaning}?")
        return dict(chosen)
    options = " or ".join(_options(query) for query in choices)
    for query, meaning in choices.items():
        if _says_yes(f"{_options(query)}: {meaning}. Do this?", f"Add --yes, and {options}."):
            name, _, value = query.partition("=")
            return {name: value}
    raise typer.Abort


def _says_yes(question: str, unasked: str) -> bool:
    """Whether a person does; ``unasked`` tells how to do without one."""
    notes.print(f"{question} [y/N]: ", end="", markup=False, emoji=False, highlight=False, soft_wrap=True)
    answer = sys.stdin.readline() if sys.stdin else ""
    if not answer:
        notes.print()
        raise InvalidInput([], f"Nobody is there to answer: {question}", unasked)
    return answer.strip().lower() in ("y", "yes")


def _in_options(refused: HasOffspring | InvalidInput) -> PatinaError:
    """What the server refused, with the options of this command for the parameters of a query."""
    if isinstance(refused, HasOffspring):
        choices = {_options(query): meaning for query, meaning in refused.choices.items()}
        return HasOffspring(refused.offspring, choices, refused.message, _options(refused.hint))
    fields = [
        FieldError(pointer=field.pointer.replace("/query/", "/"), message=_options(field.message))
        for field in refused.errors
    ]
    return InvalidInput(fields, refused.message, _options(refused.hint))


def _options(words: str) -> str:
    return _QUERY.sub(lambda found: f"--remove {found[2]}" if found[2] else "--keep-history", words)


def _came_of_it(what: str, offspring: Offspring) -> Group:
    lines: list[tuple[Any, ...]] = [("dataset", name, "holds it") for name in offspring.datasets]
    lines += [("version", f"{one.dataset}@{one.version}", short(one.digest)) for one in offspring.versions]
    lines += [("run", one.id, f"{one.name}, {one.status}") for one in offspring.runs]
    lines += [("weights", f"{one.name}@{one.version}", "") for one in offspring.weights]
    return Group(f"came of {what}:", rows(("what", "name", ""), lines, "nothing"))

"""Everything that is wrong with settings, at once, each at its field and in words: values, names and broken rules.

Knows nothing about which settings there are; rules between them are their models' own, raised as ``Contradictions``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from difflib import get_close_matches
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from contracts.failures import NAME_PATTERN, NAME_WORDS, FieldError, keys_in, pointer_to
from contracts.written import validated

Model = TypeVar("Model", bound=BaseModel)

TYPE_WORDS = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
}
"""What a value must be, for pydantic's errors of type."""
NO_SUCH_SETTING = "there is no such setting"
MOST_GUESSES = 3


class Contradiction(NamedTuple):
    """A broken rule between settings, at the one that is to change."""

    pointer: str
    message: str
    beside: tuple[str, ...] = ()
    """The other settings it follows from: where one of them is wrong itself, nothing can be said yet."""


class Contradictions(ValueError):
    """What a validator over several fields raises: every rule that is broken.

    Pointers are relative to the model whose validator raises it.
    """

    def __init__(self, broken: Sequence[Contradiction]) -> None:
        self.broken = tuple(broken)
        super().__init__("; ".join(f"{one.pointer.strip('/').replace('/', '.')} {one.message}" for one in broken))


def checked(model: type[Model], values: Mapping[str, Any]) -> tuple[Model | None, list[FieldError]]:
    """The values as ``model``, or every mistake in them.

    Rules between settings are asked only where all of a model's fields are right. So what is wrong is left out and the
    rest is asked again, until nothing new is found; a rule that follows from what was left out says nothing.
    """
    left, unsure, found = deepcopy(dict(values)), set[str](), list[FieldError]()
    while True:
        try:
            settings = validated(model, left)
        except ValidationError as error:
            broken = [one for each in error.errors() for one in _contradictions(each, model)]
        else:
            return (None if found else settings), found
        found += [FieldError(pointer=one.pointer, message=one.message) for one in broken if not _follows(one, unsure)]
        doubted = {pointer for one in broken for pointer in (one.pointer, *one.beside)}
        if not sum(_leave_out(left, pointer) for pointer in doubted):
            return None, found
        unsure |= doubted


def field_errors(error: ValidationError, prefix: str = "") -> list[FieldError]:
    """Every error of one pydantic validation as pointer and words."""
    broken = (one for each in error.errors() for one in _contradictions(each, None))
    return [FieldError(pointer=prefix + one.pointer, message=one.message) for one in broken]


def unknown(name: str, there: Iterable[str]) -> str:
    """What to say of a name that no setting has, among those there are."""
    return _no_such(name, get_close_matches(name, list(there), n=1))


def _contradictions(error: Any, model: type[BaseModel] | None) -> list[Contradiction]:
    """A pydantic error as rules that are broken: a wrong field breaks one that follows from itself alone."""
    where = pointer_to(error["loc"])
    raised = error.get("ctx", {}).get("error")
    if isinstance(raised, Contradictions):
        return [
            Contradiction(where + one.pointer, one.message, tuple(where + other for other in one.beside))
            for one in raised.broken
        ]
    if error["type"] == "extra_forbidden":
        guesses = [] if model is None else _guesses(model, [str(part) for part in error["loc"]])
        # What was meant by it is not known to be what it is by default.
        meant = tuple("/" + guess.replace(".", "/") for guess in guesses)
        return [Contradiction(where, _no_such(str(error["loc"][-1]), guesses), meant)]
    # What lacks a setting it needs is wrong as a whole.
    whole = (where.rpartition("/")[0],) if error["type"] == "missing" and len(error["loc"]) > 1 else ()
    return [Contradiction(where, _words(error), whole)]


def _follows(one: Contradiction, unsure: set[str]) -> bool:
    """Whether it is about, or follows from, what is known to be wrong."""
    return any(_within(a, b) or _within(b, a) for a in (one.pointer, *one.beside) for b in unsure)


def _within(inner: str, outer: str) -> bool:
    return inner == outer or inner.startswith(outer + "/")


def _leave_out(values: dict[str, Any], pointer: str) -> bool:
    """Take away what is at a pointer, of a list all; False when it is not there."""
    owner, key, node = values, "", values
    for part in keys_in(pointer):
        if not isinstance(node, dict):
            break
        if part not in node:
            return False
        owner, key, node = node, part, node[part]
    del owner[key]
    return True


def _guesses(model: type[BaseModel], path: list[str]) -> list[str]:
    """Settings that an unknown one may have been meant for, by dotted name: called the same, or nearly."""
    *parents, name = path
    section: type[BaseModel] | None = model
    for parent in parents:
        field = section.model_fields.get(parent) if section else None
        section = _section_in(field.annotation) if field else None
    everywhere = list(_dotted(model))
    same = [name] if name in everywhere else [one for one in everywhere if one.endswith(f".{name}")]
    if same:
        return [one for one in same if one.count(".") == min(other.count(".") for other in same)][:MOST_GUESSES]
    beside = get_close_matches(name, list(section.model_fields) if section else [], n=1)
    return [".".join([*parents, *beside])] if beside else get_close_matches(name, everywhere, n=1, cutoff=0.8)


def _dotted(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield name
        if section := _section_in(field.annotation):
            yield from (f"{name}.{inside}" for inside in _dotted(section))


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The model among the types a field may have."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    parts = get_args(annotation)[:1] if get_origin(annotation) is Annotated else get_args(annotation)
    return next((found for part in parts if (found := _section_in(part))), None)


def _no_such(name: str, guesses: Sequence[str]) -> str:
    if not guesses:
        return f"{NO_SUCH_SETTING}; check the spelling"
    if list(guesses) == [name]:
        section, _, last = name.rpartition(".")
        where = f"is a setting of the section {section}" if section else "stands outside of any section"
        return f"{NO_SUCH_SETTING} here; {last} {where}"
    return f"{NO_SUCH_SETTING}; did you mean {' or '.join(guesses)}?"


def _words(error: Any) -> str:
    if error["type"] == "string_pattern_mismatch" and error["ctx"]["pattern"] == NAME_PATTERN:
        return f"'{error['input']}' is no name: {NAME_WORDS}"
    if error["type"] in TYPE_WORDS and isinstance(error["input"], str | int | float):
        return f"must be {TYPE_WORDS[error['type']]}, not {json.dumps(error['input'], ensure_ascii=False)[:100]}"
    if error["type"] == "model_type":
        return "must hold settings by name"
    return str(error["msg"]).removeprefix("Value error, ")

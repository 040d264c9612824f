"""`NAME[@VERSION][=WEIGHT]` of the command line as the versions that feed a run. Knows nothing about servers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from contracts.failures import FieldError, InvalidInput
from contracts.mistakes import field_errors
from contracts.run import DatasetChoice

FORM = re.compile(r"(?P<dataset>[^@=]+)(@(?P<version>latest|[1-9]\d*))?(=(?P<weight>[^=]+))?")
HINT = "Write NAME, NAME@3, NAME@latest or NAME@3=0.5, where 0.5 is the weight."


def parse(words: Sequence[str], version: int | None) -> dict[str, Any]:
    """The part of a run request that says its data; ``version`` is of the only one there is.

    Raises:
        InvalidInput: with everything that is wrong.
    """
    errors: list[FieldError] = []
    found: list[DatasetChoice] = []
    for number, word in enumerate(words):
        said = FORM.fullmatch(word)
        if said is None:
            errors.append(FieldError(pointer=f"/datasets/{number}", message=f"{word!r} is not NAME@VERSION=WEIGHT"))
            continue
        values = {name: value for name, value in said.groupdict().items() if value not in (None, "latest")}
        try:
            # Numbers come as text here and here alone.
            found.append(DatasetChoice.model_validate(values, strict=False))
        except ValidationError as error:
            errors += field_errors(error, f"/datasets/{number}")
    if version is not None and (len(words) > 1 or any("@" in word for word in words)):
        errors.append(FieldError(pointer="/version", message="is for one dataset; else write NAME@VERSION"))
    if errors:
        raise InvalidInput(errors, "The datasets cannot be read.", HINT)
    if len(found) == 1 and found[0].weight == 1:
        named = found[0].model_copy(update={"version": version}) if version is not None else found[0]
        return named.model_dump(exclude={"weight"}, exclude_none=True)
    listed = [one.model_copy(update={"version": version}) if version is not None else one for one in found]
    return {"datasets": [one.model_dump(exclude_none=True) for one in listed]}

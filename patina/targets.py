"""Files the command was asked to write: where one cannot be, that is said of it by name. Knows nothing of contents."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contracts.failures import InvalidInput


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """For as long as ``target`` is written.

    Raises:
        InvalidInput: the system refused it.
    """
    try:
        yield
    except OSError as error:
        message = f"{target} cannot be written: {error.strerror}."
        raise InvalidInput([], message, "Name a file in a folder that is there and that you may write to.") from None

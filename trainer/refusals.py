"""What keeps a run from starting, asked of each input by itself and said together. Knows nothing about the inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from contracts.failures import InvalidInput, PatinaError


class Refusals:
    """Refusals so far; what is asked after one must not follow from what was refused."""

    def __init__(self) -> None:
        self._found: list[PatinaError] = []

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Keep a refusal of what is inside for ``say``."""
        try:
            yield
        except PatinaError as error:
            self._found.append(error)

    def say(self) -> None:
        """End the run if anything was refused.

        Raises:
            PatinaError: the only one; or one with all their words, and the code of the first.
        """
        if not self._found:
            return
        first = self._found[0]
        said = dict.fromkeys(str(one.args[0]) if isinstance(one, InvalidInput) else one.message for one in self._found)
        if len(said) == 1:
            raise first
        raise PatinaError(first.code, " ".join(said), " ".join(dict.fromkeys(one.hint for one in self._found)))

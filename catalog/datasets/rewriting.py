"""Changes of captions' text: pure functions from one caption to another. Knows nothing about images or queries.

Patterns run on RE2, whose time grows with the length of the text whatever the pattern is (docs/adr).
"""

from __future__ import annotations

from collections.abc import Callable

import re2

from contracts.captions import MAX_CAPTION_CHARACTERS, clean_caption, with_trigger
from contracts.failures import FieldError, InvalidInput

MAX_UNTIDY_CHARACTERS = 2 * MAX_CAPTION_CHARACTERS
"""Of a caption with the white space that is not kept."""

Rewriting = Callable[[str], str]


def replacing(find: str, replace: str, *, regex: bool) -> Rewriting:
    """Every ``find`` becomes ``replace``; in a pattern's replacement ``\\1`` is its first group.

    Raises:
        InvalidInput: the pattern cannot be read.
    """
    if not regex:
        return lambda caption: caption.replace(find, replace)
    options = re2.Options()
    options.log_errors = False
    try:
        pattern = re2.compile(find, options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else error.args[0]
        raise InvalidInput([FieldError(pointer="/find", message=f"is not a pattern: {reason}")]) from None

    def rewritten(caption: str) -> str:
        try:
            return str(pattern.sub(replace, caption))
        except (re2.error, IndexError, ValueError):
            message = f"cannot be filled in: the pattern has {pattern.groups} groups"
            raise InvalidInput([FieldError(pointer="/replace", message=message)]) from None

    return rewritten


def prefixing(text: str) -> Rewriting:
    """``text`` in front of every caption."""
    return lambda caption: text + caption


def suffixing(text: str) -> Rewriting:
    """``text`` behind every caption."""
    return lambda caption: caption + text


def naming(trigger_word: str) -> Rewriting:
    """The trigger word in front of every caption that does not contain it."""
    return lambda caption: with_trigger(caption, trigger_word)


def tidied(text: str, pointer: str) -> str:
    """A caption in the form in which captions are kept.

    Raises:
        InvalidInput: it is too long.
    """
    # A pattern may make a hundredfold of each caption, and cleaning that takes its time for every image.
    cleaned = clean_caption(text) if len(text) <= MAX_UNTIDY_CHARACTERS else text
    if len(cleaned) > MAX_CAPTION_CHARACTERS:
        message = f"makes a caption longer than {MAX_CAPTION_CHARACTERS} characters"
        raise InvalidInput([FieldError(pointer=pointer, message=message)])
    return cleaned

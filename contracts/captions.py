"""What becomes of a caption before it is encoded: pure text, the same for plan, ledger and trainer.

A caption passes through here in this order: alternatives are chosen, tags are left out and shuffled, prefix and suffix
are put around it, and the trigger word in front. Every choice follows from a key alone. Knows nothing about tokens.
"""

from __future__ import annotations

import itertools
import math
import random
import re
import unicodedata
from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from contracts.config import Frozen
from contracts.mistakes import Contradiction, Contradictions

MAX_CAPTION_CHARACTERS = 10_000
MOST_VARIANTS = 32
"""Of one caption that are worth encoding beforehand; with more it is encoded when it is used."""

SPECIAL_TOKEN = re.compile(r"<\|\s*(startoftext|endoftext)\s*\|>", re.IGNORECASE)
"""What CLIP's tokenizers take for the beginning or the end of a text, wherever it stands."""
ALTERNATIVES = re.compile(r"\{([^{}|]*(?:\|[^{}|]*)+)\}")
"""{a|b|c} with nothing of the kind inside."""
TAGS_APART = ", "

Wording = Annotated[str, Field(min_length=1, max_length=1000)]


class CaptionSettings(Frozen):
    """How much of captions is read, and how they are varied from sample to sample."""

    max_tokens: Literal[75, 150, 225] = 75
    """How much of a caption is read, in chunks of the 75 tokens CLIP takes at once; longer ones are named."""

    shuffle: bool = False
    """Put the comma-separated tags of a caption in another order each time."""

    keep_tokens: Annotated[int, Field(ge=0, le=255)] = 0
    """Tags at the beginning that are neither shuffled nor left out."""

    tag_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the tags after keep_tokens left out each time."""

    alternatives: bool = False
    """Read {a|b|c} in captions as one of the three, another each time."""

    prefix: Wording | None = None
    """Put in front of every caption, after the trigger word; a comma follows."""

    suffix: Wording | None = None
    """Put at the end of every caption, after a comma."""

    @property
    def vary(self) -> bool:
        """Whether a caption can be worded in more than one way."""
        return self.shuffle or self.tag_dropout > 0 or self.alternatives

    @model_validator(mode="after")
    def _keep_tokens_keeps_from_something(self) -> Self:
        if self.keep_tokens and not (self.shuffle or self.tag_dropout):
            message = "has no effect without shuffle or tag_dropout"
            raise Contradictions([Contradiction("/keep_tokens", message, ("/shuffle", "/tag_dropout"))])
        return self


def clean_caption(text: str) -> str:
    """NFC, control characters out, white space collapsed; CLIP's special tokens become words like others."""
    text = unicodedata.normalize("NFC", text)
    visible = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text)
    return SPECIAL_TOKEN.sub(r"< |\1| >", " ".join(visible.split()))


def with_trigger(caption: str, trigger_word: str | None) -> str:
    """The caption with the trigger word in front, unless it already has it: as a word of its own, in any case."""
    if trigger_word is None or re.search(rf"(?<!\w){re.escape(trigger_word)}(?!\w)", caption, re.IGNORECASE):
        return caption
    return f"{trigger_word}, {caption}" if caption else trigger_word


def worded(caption: str, trigger_word: str | None, settings: CaptionSettings, key: str) -> str:
    """What the encoders see of a row's caption under ``key``: the same text for the same key, anywhere."""
    text = clean_caption(caption)
    if settings.alternatives:
        text = _chosen(text, random.Random(f"{key}/alternatives"))
    if settings.shuffle or settings.tag_dropout:
        kept, free = _tags(text, settings.keep_tokens)
        dropping = random.Random(f"{key}/tags")
        free = [tag for tag in free if dropping.random() >= settings.tag_dropout]
        if settings.shuffle:
            random.Random(f"{key}/order").shuffle(free)
        text = TAGS_APART.join([*kept, *free])
    return _framed(text, trigger_word, settings)


def fixed_wording(caption: str, trigger_word: str | None, settings: CaptionSettings) -> str:
    """A caption as it is measured: the first of its alternatives, every tag, in the order they were written."""
    text = clean_caption(caption)
    if settings.alternatives:
        text = _chosen(text, None)
    if settings.shuffle or settings.tag_dropout:
        kept, free = _tags(text, settings.keep_tokens)
        text = TAGS_APART.join([*kept, *free])
    return _framed(text, trigger_word, settings)


def every_wording(caption: str, trigger_word: str | None, settings: CaptionSettings) -> frozenset[str] | None:
    """All that ``worded`` can make of a caption; None when those are too many to encode beforehand."""
    texts = _expanded(clean_caption(caption)) if settings.alternatives else {clean_caption(caption)}
    if texts is None:
        return None
    found: set[str] = set()
    for text in texts:
        if settings.shuffle or settings.tag_dropout:
            kept, free = _tags(text, settings.keep_tokens)
            if len(found) + _arrangements(len(free), settings) > MOST_VARIANTS:
                return None
            found |= {TAGS_APART.join([*kept, *some]) for some in _arranged(free, settings)}
        else:
            found.add(text)
    return frozenset(_framed(text, trigger_word, settings) for text in found)


def _framed(text: str, trigger_word: str | None, settings: CaptionSettings) -> str:
    return with_trigger(TAGS_APART.join(filter(None, (settings.prefix, text, settings.suffix))), trigger_word)


def _tags(text: str, keep: int) -> tuple[list[str], list[str]]:
    tags = [tag for tag in (part.strip() for part in text.split(",")) if tag]
    return tags[:keep], tags[keep:]


def _chosen(text: str, drawn: random.Random | None) -> str:
    """One of each {a|b|c}, inner ones before outer ones; the first when nothing is drawn."""
    while found := ALTERNATIVES.search(text):
        choices = found[1].split("|")
        text = text[: found.start()] + (drawn.choice(choices) if drawn else choices[0]) + text[found.end() :]
    return clean_caption(text)


def _expanded(text: str) -> set[str] | None:
    texts = {text}
    while any(ALTERNATIVES.search(one) for one in texts):
        following: set[str] = set()
        for one in texts:
            if found := ALTERNATIVES.search(one):
                following |= {one[: found.start()] + choice + one[found.end() :] for choice in found[1].split("|")}
            else:
                following.add(one)
        if len(following) > MOST_VARIANTS:
            return None
        texts = following
    return {clean_caption(one) for one in texts}


def _arrangements(tags: int, settings: CaptionSettings) -> int:
    """How many texts can come of so many free tags."""
    if not settings.tag_dropout:
        return math.factorial(tags) if tags <= MOST_VARIANTS else MOST_VARIANTS + 1
    if tags > MOST_VARIANTS:
        return MOST_VARIANTS + 1
    return sum(math.perm(tags, left) if settings.shuffle else math.comb(tags, left) for left in range(tags + 1))


def _arranged(tags: list[str], settings: CaptionSettings) -> Iterator[tuple[str, ...]]:
    arrange = itertools.permutations if settings.shuffle else itertools.combinations
    for left in range(len(tags) + 1) if settings.tag_dropout else (len(tags),):
        yield from arrange(tags, left)

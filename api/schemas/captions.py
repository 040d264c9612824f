"""What the API takes and answers about the images of a dataset and their captions."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.schemas.common import Answer
from catalog.datasets import rewriting
from catalog.datasets.editing import EDIT, CaptionChange, Edited
from catalog.datasets.models import DatasetImage
from catalog.datasets.rewriting import Rewriting
from contracts.captions import MAX_CAPTION_CHARACTERS
from contracts.dataset import Split

SHOWN_CHANGES = 200
MAX_EDIT_CHARACTERS = 500

Words = Annotated[str, Field(min_length=1, max_length=MAX_EDIT_CHARACTERS)]


class ImageIn(BaseModel):
    """What to change about one image; what is left out stays."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    caption: Annotated[str, Field(max_length=MAX_CAPTION_CHARACTERS)] | None = None
    """A caption of your own; null takes it back, and the uploaded files' caption holds again."""
    removed: bool = False
    """Takes the image out of the dataset, or puts it back."""
    split: Split | None = None
    """Keeps it in this split in every version from now on; null leaves it to its files, or to its content hash."""

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("name what to change: caption, removed or split")
        return self


class _Rewrite(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class ReplaceIn(_Rewrite):
    """Find and replace in every caption."""

    action: Literal["replace"]
    find: Words
    replace: Annotated[str, Field(max_length=MAX_EDIT_CHARACTERS)]
    regex: bool = False
    """Takes ``find`` for an RE2 pattern; ``\\1`` in ``replace`` is its first group."""


class PrefixIn(_Rewrite):
    """A text in front of every caption, as it is: end it with a space or comma."""

    action: Literal["prefix"]
    text: Words


class SuffixIn(_Rewrite):
    """A text behind every caption, as it is."""

    action: Literal["suffix"]
    text: Words


class TriggerIn(_Rewrite):
    """The trigger word in front of every caption that does not contain it."""

    action: Literal["add_trigger_word"]
    trigger_word: Words


RewriteIn = Annotated[ReplaceIn | PrefixIn | SuffixIn | TriggerIn, Field(discriminator="action")]


class ImageOut(Answer):
    """One image of a dataset with the caption a version would have."""

    image: str
    """Identity: hash of its pixels."""
    name: str
    """The file it came from."""
    width: int
    height: int
    caption: str | None
    source: str | None
    """The file the caption came from, or ``edit``."""
    removed: bool
    split: Split | None
    """The split somebody, its metadata or its path chose for it; null leaves it to its content hash."""


class ImagesOut(Answer):
    """Images by identity. The answer's ``ETag`` is for ``If-Match`` of whoever changes one."""

    items: list[ImageOut]
    next_cursor: str | None


class ChangeOut(Answer):
    """One image's caption before and after."""

    image: str
    name: str
    before: str | None
    after: str | None


class EditedOut(Answer):
    """What an edit changed, or would change with ``dry_run``."""

    dry_run: bool
    changed: int
    unchanged: int
    changes: list[ChangeOut]
    """The first of them."""


def rewriting_of(body: RewriteIn) -> Rewriting:
    """The function a request describes.

    Raises:
        InvalidInput: its pattern cannot be read.
    """
    if isinstance(body, ReplaceIn):
        return rewriting.replacing(body.find, body.replace, regex=body.regex)
    if isinstance(body, PrefixIn):
        return rewriting.prefixing(body.text)
    if isinstance(body, SuffixIn):
        return rewriting.suffixing(body.text)
    return rewriting.naming(body.trigger_word)


def image_out(image: DatasetImage) -> ImageOut:
    """An image as the API shows it."""
    return ImageOut(
        image=image.image,
        name=image.source_name,
        width=image.width,
        height=image.height,
        caption=image.current_caption,
        source=image.caption_source if image.edited_caption is None else EDIT,
        removed=image.removed_at is not None,
        split=image.current_split,
    )


def edited_out(edited: Edited, *, dry_run: bool = False) -> EditedOut:
    """An edit as the API shows it."""
    return EditedOut(
        dry_run=dry_run,
        changed=len(edited.changes),
        unchanged=edited.images - len(edited.changes),
        changes=[_change_out(change) for change in edited.changes[:SHOWN_CHANGES]],
    )


def _change_out(change: CaptionChange) -> ChangeOut:
    return ChangeOut(image=change.image, name=change.name, before=change.before, after=change.after)

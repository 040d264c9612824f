"""SQL over generations and their images."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from catalog.generations.models import Generation, GenerationImage


def owned(owner: str) -> Select[Generation]:
    """An owner's generations."""
    return select(Generation).where(Generation.owner == owner)


def by_id(session: Session, owner: str, generation_id: str) -> Generation | None:
    """One generation, as the database has it now."""
    query = owned(owner).where(Generation.id == generation_id)
    return session.scalar(query.execution_options(populate_existing=True))


def images(session: Session, owner: str, generation_id: str) -> Sequence[GenerationImage]:
    """The pictures of a generation in order."""
    query = select(GenerationImage).where(
        GenerationImage.owner == owner, GenerationImage.generation_id == generation_id
    )
    return session.scalars(query.order_by(GenerationImage.position)).all()


def image_by_hash(session: Session, owner: str, sha256: str) -> GenerationImage | None:
    """A picture of any of the owner's generations by the hash of its file."""
    query = select(GenerationImage).where(GenerationImage.owner == owner, GenerationImage.sha256 == sha256)
    return session.scalars(query.limit(1)).first()

"""How many images a dataset may still take while its uploads are read. Knows no settings."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from catalog.datasets import repository

TOO_MANY = "the dataset has as many images as it may"
"""How the reason of each image begins that there was no room for."""


@dataclass
class Room:
    """What is left of a limit; counted once for a job, of which a dataset has one at a time, and then kept up."""

    most: int
    left: int

    @property
    def refusal(self) -> str | None:
        """Why no image more is taken; None while one is."""
        if self.left > 0:
            return None
        return (
            f"{TOO_MANY} ({self.most}); use another dataset, or raise PATINA_MAX_DATASET_IMAGES on the server and"
            " send it again"
        )


def count_room(session: Session, owner: str, dataset_id: str, most: int) -> Room:
    """How many images there is room for; those that were taken out can be put back and keep their place."""
    return Room(most, most - repository.count_images(session, owner, dataset_id))

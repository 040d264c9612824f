"""What of a run's data is its subject, and what are class pictures beside it (DreamBooth's prior preservation).

Pure arithmetic, the same for plan and trainer.
"""

from __future__ import annotations

from dataclasses import replace

from contracts.captions import every_wording
from contracts.dataset import DatasetSummary
from contracts.failures import FieldError, InvalidInput
from contracts.mixing import Mixture, summarise_mixture
from contracts.objective import PriorSettings
from contracts.train import TrainConfig


def set_apart(mixture: Mixture, settings: PriorSettings | None) -> tuple[Mixture, Mixture]:
    """The subject's pictures and the class's, by concept; class pictures are not measured.

    Raises:
        InvalidInput: no picture has the concept, or all have.
    """
    if settings is None or settings.concept is None:
        return mixture, replace(mixture, train=(), held_out=())
    concept = settings.concept
    ours = tuple(pick for pick in mixture.train if pick.row.concept == concept)
    rest = tuple(pick for pick in mixture.train if pick.row.concept != concept)
    if not ours or not rest:
        named = sorted({pick.row.concept for pick in mixture.train if pick.row.concept})
        there = f"its concepts are {', '.join(named)}" if named else "it has none"
        message = f"no picture of the data set has the concept '{concept}'; {there}"
        if ours:
            message = f"every picture of the data set has the concept '{concept}'; none is left of the subject"
        raise InvalidInput(
            [FieldError(pointer="/prior/concept", message=message)],
            "The recipe does not fit the data.",
            "Name a concept of some pictures, not of all, or set prior.concept to null.",
        )
    held_out = tuple(row for row in mixture.held_out if row.concept != concept)
    return replace(mixture, train=rest, held_out=held_out), replace(mixture, train=ours, held_out=())


def summarise_run(subject: Mixture, classes: Mixture, config: TrainConfig, *, use_cache: bool = True) -> DatasetSummary:
    """What planning needs to know of both.

    Args:
        use_cache: False where pictures and captions are encoded at each use, whatever could be cached.
    """
    words, trigger_word = config.data.captions, config.trigger_word
    varied = {pick.row.caption for pick in subject.train} if words.vary and not config.trains_text else set()
    too_many = any(every_wording(caption, trigger_word, words) is None for caption in varied)
    facts = {
        "class_images": len({pick.row.image for pick in classes.train}),
        "live_latents": not use_cache,
        "live_captions": too_many or not (use_cache or config.trains_text),
    }
    return summarise_mixture(subject).model_copy(update=facts)

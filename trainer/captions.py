"""Which text a sample is trained with: a function of (seed, step, sample index) and the caption, nothing else.

Caches and live encoders ask here alike, so they cannot disagree. Knows nothing about encoders or tensors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from contracts.captions import CaptionSettings, clean_caption, every_wording, fixed_wording, with_trigger, worded
from contracts.train import TrainConfig
from trainer.draws import choose


@dataclass(frozen=True)
class Captions:
    """The words of one run.

    Args:
        dropout: share of samples without a caption.
        timesteps: those that are trained on, which the choices are drawn beside.
    """

    settings: CaptionSettings
    trigger_word: str | None
    dropout: float
    seed: int
    timesteps: range

    def __call__(self, caption: str, step: int, index: int) -> str | None:
        """What sample ``index`` sees of its row's caption in this step; None for no caption at all."""
        if choose(self.seed, step, index, timesteps=self.timesteps).caption_number < self.dropout:
            return None
        return worded(caption, self.trigger_word, self.settings, f"caption/{self.seed}/{step}/{index}")

    def of_classes(self) -> Captions:
        """The words of class pictures: their captions as they are, but for dropout."""
        return replace(self, trigger_word=None, settings=CaptionSettings(max_tokens=self.settings.max_tokens))

    def fixed(self, caption: str) -> str:
        """A caption without any choice in it: what is measured."""
        return fixed_wording(caption, self.trigger_word, self.settings)

    def prompt(self, text: str) -> str:
        """What a preview is made from: the trigger word is put in front, nothing else is changed."""
        return with_trigger(clean_caption(text), self.trigger_word)

    def possible(self, caption: str) -> frozenset[str]:
        """What a caption can become, or, where that is too much, one of it with every tag."""
        return every_wording(caption, self.trigger_word, self.settings) or frozenset({self.fixed(caption)})

    def every(self, captions: Iterable[str]) -> frozenset[str] | None:
        """All texts that samples of these captions can see; None when one caption has too many of them."""
        found: set[str] = set()
        for caption in set(captions):
            texts = every_wording(caption, self.trigger_word, self.settings)
            if texts is None:
                return None
            found |= texts
        return frozenset(found)


def make_captions(config: TrainConfig, timesteps: range) -> Captions:
    """The words of a run."""
    return Captions(
        settings=config.data.captions,
        trigger_word=config.trigger_word,
        dropout=config.data.caption_dropout,
        seed=config.seed,
        timesteps=timesteps,
    )

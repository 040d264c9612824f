"""The factor that keeps fp16 gradients from vanishing, and what it becomes after each step.

The loss is multiplied by it before the backward pass and the gradient divided after; a gradient that overflowed is
thrown away and the factor halved. Powers of two, so that both are exact. Micikevicius et al. 2018 (arXiv:1710.03740);
the numbers are those of torch.amp.GradScaler. Knows nothing about tensors.
"""

from __future__ import annotations

from typing import NamedTuple

GROWTH_STEPS = 2000
"""Steps without an overflow after which the factor is doubled."""


class LossScale(NamedTuple):
    """The factor now, and the steps since it changed."""

    factor: float = 2.0**16
    clean_steps: int = 0

    def after(self, *, overflowed: bool) -> LossScale:
        """What the next step uses."""
        if overflowed:
            return LossScale(self.factor / 2, 0)
        if self.clean_steps + 1 == GROWTH_STEPS:
            return LossScale(self.factor * 2, 0)
        return LossScale(self.factor, self.clean_steps + 1)

    @property
    def exhausted(self) -> bool:
        """Whether an overflow is no matter of the factor any more: the gradients themselves are too large."""
        return self.factor <= 1


NO_SCALE = LossScale(1.0)
"""Of precisions whose gradients do not vanish."""

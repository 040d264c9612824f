"""Which style a 64 px picture is drawn in, and which emoji it shows: the demo's two measures.

Style is a logistic regression over colour and gradient histograms, fitted by bases/emoji-xl/recipe on VAE
round trips of real pictures that are in neither demo set. Content is the nearest of the real held-out
pictures. Knows nothing about how pictures are made.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
COLOUR_LEVELS = 8
FLAT_GRADIENT = 12
"""Below this change from pixel to pixel (of 255) a place counts as flat."""
GRADIENT_EDGES = np.concatenate([[0.0], np.geomspace(1.5, 200, 14), [1e4]])
JOINT_GRADIENT_EDGES = np.array([0, 3, 6, 12, 24, 48, 1e4])
JOINT_LUMA_EDGES = np.linspace(0, 256, 7)
CONVERGED = 1e-7
"""Below this change of any weight, weights are written alike."""
SHADING_EDGES = np.array([-1e4, -40, -20, -10, -5, -2, 2, 5, 10, 20, 40, 1e4])


@dataclass(frozen=True)
class StyleJudge:
    """Calls a picture Twemoji when ``weights . standardised features + bias`` is positive."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    weights: NDArray[np.float64]
    bias: float

    @classmethod
    def load(cls, path: Path) -> StyleJudge:
        stored = json.loads(path.read_text())
        mean, scale, weights = (np.array(stored[name], dtype=np.float64) for name in ("mean", "scale", "weights"))
        return cls(mean, scale, weights, float(stored["bias"]))

    def save(self, path: Path) -> None:
        stored = {name: np.round(getattr(self, name), 6).tolist() for name in ("mean", "scale", "weights")}
        path.write_text(json.dumps({**stored, "bias": round(self.bias, 6)}) + "\n")

    def calls_twemoji(self, pixels: Pixels) -> NDArray[np.bool_]:
        """[N, 64, 64, 3] -> [N], True where the picture looks like Twemoji rather than Noto."""
        return self.calls_features_twemoji(style_features(pixels))

    def calls_features_twemoji(self, features: Floats) -> NDArray[np.bool_]:
        """[N, F] of ``style_features`` -> [N]."""
        standardised = (features - self.mean) / self.scale
        return standardised @ self.weights + self.bias > 0


def style_features(pixels: Pixels) -> Floats:
    """[N, 64, 64, 3] -> [N, F]: square roots of colour and gradient histograms of the drawn part.

    Taken at half size, so that a VAE's fine errors count little. The square root (Hellinger) keeps one large
    area from drowning the rest; white background is left out so that a picture's size says nothing.
    """
    halved = pixels.astype(np.float64).reshape(len(pixels), 32, 2, 32, 2, 3).mean(axis=(2, 4))
    return np.stack([_features(picture) for picture in halved])


def fit(
    features: Floats, is_twemoji: Mask, counts: Floats | None = None, ridge: float = 30.0, iterations: int = 15
) -> StyleJudge:
    """Ridge logistic regression over ``style_features`` [N, F] by Newton's method; deterministic.

    ``counts`` [N] says how often each picture counts, once if it is left out.
    """
    mean, scale = features.mean(axis=0), features.std(axis=0) + 0.02
    design = np.hstack([(features - mean) / scale, np.ones((len(features), 1))])
    target = is_twemoji.astype(np.float64)
    counts = np.ones(len(features)) if counts is None else counts
    penalty = np.full(design.shape[1], ridge)
    penalty[-1] = 0.0
    weights = np.zeros(design.shape[1])
    for _ in range(iterations):
        chance = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (counts * (chance - target)) + penalty * weights
        curvature = (design * (counts * chance * (1 - chance))[:, None]).T @ design + np.diag(penalty)
        change = np.linalg.solve(curvature, gradient)
        weights -= change
        if np.abs(change).max() < CONVERGED:
            break
    return StyleJudge(mean, scale, weights[:-1], float(weights[-1]))


def content_matches(made: Pixels, real: list[Pixels], names: list[str]) -> NDArray[np.bool_]:
    """For each made picture of ``names``: whether its nearest real one, in any style, is the same emoji.

    Args:
        made: [N, 64, 64, 3], row for row ``names``.
        real: one [N, 64, 64, 3] array a style, row for row ``names``.
    """
    pool = np.concatenate(real).reshape(len(names) * len(real), -1).astype(np.float64)
    pool_names = np.array(names * len(real))
    flat = made.reshape(len(made), -1).astype(np.float64)
    distances = (flat**2).sum(1)[:, None] - 2 * flat @ pool.T + (pool**2).sum(1)[None]
    nearest = pool_names[distances.argmin(axis=1)]
    return np.array([name == right for name, right in zip(nearest, names, strict=True)], dtype=np.bool_)


def _features(picture: Floats) -> Floats:
    drawn = _drawn(picture)
    inside = drawn[:-1, :-1].ravel()
    area = max(int(inside.sum()), 1)
    colours = picture[:-1, :-1].reshape(-1, 3)
    gradient = _gradient(picture).ravel()
    bend = _bend(picture)[drawn[1:-1, 1:-1]]
    luma = colours.mean(axis=1)
    joint = np.histogram2d(gradient[inside], luma[inside], [JOINT_GRADIENT_EDGES, JOINT_LUMA_EDGES])[0]
    histograms = [
        _colour_histogram(colours, inside),
        _colour_histogram(colours, inside & (gradient < FLAT_GRADIENT)),
        np.histogram(gradient[inside], GRADIENT_EDGES)[0],
        np.histogram(bend, GRADIENT_EDGES)[0],
        joint.ravel(),
    ]
    roots: Floats = np.sqrt(np.concatenate([np.concatenate(histograms) / area, _shading(picture)]))
    return roots


def _drawn(picture: Floats) -> Mask:
    """Where a picture is not the white it lies on."""
    return np.asarray(picture.min(axis=2) < 240, dtype=np.bool_)


def _shading(picture: Floats) -> Floats:
    """Shares of the luma's signed changes down and to the right at half of this size again, [121].

    Light from above makes them lean one way, and averaging over 4 px leaves little of a VAE's errors in them.
    """
    small = picture.reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
    drawn, luma = _drawn(small), small.mean(axis=2)
    inside = drawn[:-1, :-1] & drawn[1:, :-1] & drawn[:-1, 1:]
    down, right = luma[1:, :-1] - luma[:-1, :-1], luma[:-1, 1:] - luma[:-1, :-1]
    counts = np.histogram2d(down[inside], right[inside], [SHADING_EDGES, SHADING_EDGES])[0]
    shares: Floats = counts.ravel() / max(int(inside.sum()), 1)
    return shares


def _gradient(picture: Floats) -> Floats:
    """Largest change of any channel to the right or lower neighbour, [31, 31]."""
    down = np.abs(np.diff(picture, axis=0))[:, :-1].max(axis=2)
    right = np.abs(np.diff(picture, axis=1))[:-1].max(axis=2)
    largest: Floats = np.maximum(down, right)
    return largest


def _bend(picture: Floats) -> Floats:
    """Largest discrete Laplacian of any channel, [30, 30]: large on edges, small on smooth shading."""
    around = picture[2:, 1:-1] + picture[:-2, 1:-1] + picture[1:-1, 2:] + picture[1:-1, :-2]
    bend: Floats = np.abs(around - 4 * picture[1:-1, 1:-1]).max(axis=2)
    return bend


def _colour_histogram(colours: Floats, counted: Mask) -> Floats:
    """RGB histogram of [P, 3] with every pixel shared among its eight nearest cells."""
    position = colours / 255 * (COLOUR_LEVELS - 1)
    low = np.clip(np.floor(position).astype(np.int64), 0, COLOUR_LEVELS - 2)
    part = position - low
    histogram = np.zeros(COLOUR_LEVELS**3)
    for corner in np.ndindex(2, 2, 2):
        share = np.where(np.array(corner) == 1, part, 1 - part).prod(axis=1) * counted
        cell = ((low[:, 0] + corner[0]) * COLOUR_LEVELS + low[:, 1] + corner[1]) * COLOUR_LEVELS + low[:, 2] + corner[2]
        histogram += np.bincount(cell, share, minlength=COLOUR_LEVELS**3)
    return histogram

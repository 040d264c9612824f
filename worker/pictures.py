"""Generated pictures as files: PNG that says how it was made, stored by its own hash.

Knows nothing about engines or jobs.
"""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

from numpy import uint8
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from catalog.blobs import BlobStore, image_key
from catalog.generations.service import MadeImage, Work


def store_pictures(blobs: BlobStore, work: Work, pictures: list[NDArray[uint8]]) -> list[MadeImage]:
    """Store the pictures of one generation; a picture that is there already is the same file."""
    made = []
    for position, picture in enumerate(pictures):
        seed = seed_of(work, position)
        data = as_png(picture, description(work, seed))
        sha256 = hashlib.sha256(data).hexdigest()
        key = image_key(work.claim.owner, sha256)
        blobs.put_once(key, data)
        height, width = picture.shape[:2]
        made.append(MadeImage(seed=seed, width=width, height=height, sha256=sha256, blob_key=key, bytes=len(data)))
    return made


def seed_of(work: Work, position: int) -> int:
    """Picture k takes the request's seed + k."""
    return (work.request.seed or 0) + position


def description(work: Work, seed: int) -> dict[str, Any]:
    """Everything needed to make the picture again."""
    request = work.request
    return {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "seed": seed,
        "steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "base": request.base,
        "base_identity": work.base_identity,
        "weights": [{"name": w.name, "version": w.version, "scale": w.scale, "sha256": w.sha256} for w in work.weights],
    }


def as_png(picture: NDArray[uint8], words: dict[str, Any]) -> bytes:
    """The picture as PNG, with its description as text."""
    info = PngInfo()
    info.add_itxt("Software", "Patina")
    info.add_itxt("prompt", str(words["prompt"]))
    info.add_itxt("seed", str(words["seed"]))
    info.add_itxt("patina", json.dumps(words, sort_keys=True, ensure_ascii=False))
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG", pnginfo=info)
    return stream.getvalue()

"""Pictures: decoded as uploads are, cut to their bucket, and remembered by content."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

import trainer.images
from contracts.buckets import Bucket, place
from contracts.dataset import VersionRow
from trainer.feed import Views
from trainer.images import IdentityMemory, decode, to_tensor
from worker.decode_child import decode as decode_upload


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def oriented(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, "JPEG", exif=exif)


GRADIENT = Image.linear_gradient("L").resize((40, 24))
FILES = {
    "transparent": encoded(Image.merge("RGBA", [GRADIENT, GRADIENT, GRADIENT, GRADIENT.rotate(180)])),
    "palette": encoded(GRADIENT.convert("P")),
    "grey": encoded(GRADIENT),
    "sixteen_bit": encoded(GRADIENT.convert("I").point(lambda v: v * 257).convert("I;16")),
    "turned": oriented(GRADIENT.convert("RGB")),
}


class TestDecode:
    @pytest.mark.parametrize("name", FILES)
    def test_gives_the_pixels_an_upload_of_the_file_gives(self, name: str) -> None:
        image = decode_upload(FILES[name]).image
        assert decode(FILES[name]).tobytes() == image.tobytes()

    def test_takes_a_cameras_jpeg_with_a_small_copy_behind_it(self) -> None:
        shot = Image.effect_noise((64, 48), 80).convert("RGB")
        both = encoded(shot, "MPO", save_all=True, append_images=[shot.resize((32, 24))])
        assert decode(both).tobytes() == decode(encoded(shot, "JPEG")).tobytes()


class TestToTensor:
    def test_fills_the_bucket_and_mirrors(self) -> None:
        placement = place(40, 24, [Bucket(16, 16)])
        plain = to_tensor(GRADIENT.convert("RGB"), placement, flipped=False)
        assert plain.shape == (3, 16, 16)
        assert -1 <= plain.min() < plain.max() <= 1
        assert torch.equal(to_tensor(GRADIENT.convert("RGB"), placement, flipped=True), plain.flip(-1))

    def test_a_mirrored_window_is_the_mirror_of_the_plain_one_and_has_its_own_left_edge(self) -> None:
        picture = GRADIENT.resize((41, 24)).rotate(90).resize((41, 24)).convert("RGB")
        row = VersionRow(image="x", original_width=41, original_height=24, source_name="x")
        views = Views((Bucket(24, 24),))
        plain, flipped = views.of(row).placement, views.of(row, flipped=True).placement
        assert (plain.crop_left, flipped.crop_left) == (8, 9)
        assert torch.equal(to_tensor(picture, flipped, flipped=True), to_tensor(picture, plain, flipped=False).flip(-1))


class TestIdentityMemory:
    def test_decodes_a_file_once_over_runs_and_survives_a_torn_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "memory.jsonl"
        known = IdentityMemory(file).identify(FILES["grey"])
        with file.open("a") as torn:
            torn.write('{"file": "ab')
        IdentityMemory(file).identify(FILES["palette"])
        monkeypatch.setattr(trainer.images, "decode", lambda data: pytest.fail("decoded again"))
        again = IdentityMemory(file)
        assert again.identify(FILES["grey"]) == known
        assert again.identify(FILES["palette"]).width == 40

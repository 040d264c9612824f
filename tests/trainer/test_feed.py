"""How pictures get into a batch: the window that is cut, what the UNet is told of it, which are blurred."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from contracts import events
from contracts.buckets import Bucket
from contracts.dataset import VersionRow
from tests.trainer.tiny import events_of, make_recipe, same, train, weights_of
from trainer.draws import crop_offsets
from trainer.feed import Views, sizes_of
from trainer.images import to_tensor
from trainer.upscaling import upscaling_warning

VIEWS = Views((Bucket(64, 64),))


def row(width: int, height: int, name: str = "a.png") -> VersionRow:
    return VersionRow(image=name, original_width=width, original_height=height, source_name=name)


class TestTimeIds:
    def test_are_the_original_size_the_windows_corner_and_the_buckets_size_each_height_first(self) -> None:
        tall = row(100, 300)
        assert sizes_of(tall, VIEWS.of(tall)).tolist() == [300, 100, 64, 0, 64, 64]
        wide = row(256, 128)
        assert sizes_of(wide, VIEWS.of(wide, offsets=(0.5, 0.9))).tolist() == [128, 256, 0, 32, 64, 64]


class TestRandomCrop:
    def test_lies_anywhere_inside_the_picture_and_depends_on_the_key_alone(self) -> None:
        lefts = [VIEWS.of(row(80, 64), offsets=crop_offsets(1, step, 0)).placement.crop_left for step in range(400)]
        assert set(lefts) == set(range(17))
        assert lefts[7] == VIEWS.of(row(80, 64), offsets=crop_offsets(1, 7, 0)).placement.crop_left
        assert VIEWS.of(row(80, 64), offsets=(0.999999, 0.999999)).placement.crop_left == 16

    def test_mirrored_it_is_the_mirrored_window(self) -> None:
        pixels = torch.randint(0, 256, (64, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        image = Image.frombytes("RGB", (80, 64), pixels.numpy().tobytes())
        plain, mirrored = (VIEWS.of(row(80, 64), flipped=flipped, offsets=(0.3, 0)) for flipped in (False, True))
        cut = to_tensor(image, plain.placement, flipped=False)
        assert torch.equal(to_tensor(image, mirrored.placement, flipped=True), cut.flip(-1))

    def test_turns_the_latent_cache_off_and_no_other_and_says_so(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        quiet = {"preview__prompts": [], "held_out__every_steps": None, "data__resolution_px": 48}
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, steps=2, data__crop="random", **quiet)
        assert train(recipe, tmp_path / "one", tmp_path / "cache") == 0
        assert train(recipe, tmp_path / "two", cache_dir, "--no-cache") == 0
        assert same(weights_of(tmp_path / "one"), weights_of(tmp_path / "two"))
        said = events_of(tmp_path / "one")
        assert [e.message for e in said if isinstance(e, events.Warned) and "latents are not cached" in e.message]
        assert {path.name for path in (tmp_path / "cache").iterdir()} >= {"texts"}
        assert not (tmp_path / "cache" / "latents").exists()


class TestUpscaling:
    def test_beyond_what_is_wanted_is_told_by_name_the_worst_first(self) -> None:
        rows = [row(64, 64, "fits"), row(50, 50, "nearly"), *(row(n, n, f"{n}.png") for n in (8, 16, 32))]
        assert upscaling_warning(rows, VIEWS.table, 1.5) == (
            "3 pictures are enlarged more than 1.5 times to fill their bucket: "
            "8.png (8 times), 16.png (4 times), 32.png (2 times)"
        )
        assert upscaling_warning(rows, VIEWS.table, 8) is None
        assert upscaling_warning(rows, VIEWS.table, None) is None
        assert "and 5 more" in (upscaling_warning([row(9, 9, str(n)) for n in range(10)], VIEWS.table, 1) or "")

"""Masks: cut as their picture is cut, averaged over what a latent stands for, and neutral to their size."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from contracts.buckets import Bucket, Placement
from contracts.failures import InvalidInput, PatinaError
from trainer.data import read_dataset
from trainer.feed import Views
from trainer.images import IdentityMemory, to_tensor
from trainer.loss import mask_weight, squared_error
from trainer.masks import check_masks, make_masks, to_latent_size
from trainer.pixels import alpha_of

WHOLE = Placement(Bucket(16, 16), 16, 16, 0, 0, 1.0)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def white(box: tuple[int, int, int, int], size: tuple[int, int] = (16, 16)) -> Image.Image:
    image = Image.new("L", size)
    ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=255)
    return image


class TestToLatentSize:
    def test_averages_the_pixels_of_each_latent(self) -> None:
        cut = to_latent_size(white((0, 0, 12, 8)), WHOLE, 8, flipped=False)
        assert cut.tolist() == [[[1.0, 0.5], [0.0, 0.0]]]

    @pytest.mark.parametrize("flipped", [False, True])
    def test_lies_over_the_picture_it_was_cut_with(self, flipped: bool) -> None:
        """A picture that is white where its mask is, is so after every resize, mirroring and crop."""
        placement = Placement(Bucket(16, 24), 40, 24, 6, 0, 0.5)
        mask = white((16, 0, 48, 48), (80, 48))
        pixels = to_tensor(mask.convert("RGB"), placement, flipped=flipped)
        seen = torch.nn.functional.avg_pool2d(pixels[:1] / 2 + 0.5, 8)
        torch.testing.assert_close(to_latent_size(mask, placement, 8, flipped=flipped), seen, atol=0.1, rtol=0)


class TestTheLoss:
    def test_does_not_depend_on_how_much_a_mask_covers(self) -> None:
        wrong, right = torch.full((3, 4, 2, 2), 3.0), torch.zeros(3, 4, 2, 2)
        masks = torch.tensor([[[[1.0, 1], [1, 1]]], [[[0.0, 0], [0, 1]]], [[[0.0, 0], [0.25, 0]]]])
        assert squared_error(wrong, right, mask_weight(masks, 0.0)).tolist() == [9.0, 9.0, 9.0]
        assert squared_error(wrong, right, mask_weight(masks, 0.1)).tolist() == pytest.approx([9.0, 9.0, 9.0])

    def test_looks_only_where_the_mask_is_white_and_elsewhere_as_much_as_asked(self) -> None:
        wrong = torch.zeros(1, 4, 2, 2)
        wrong[..., 0, 0] = 2
        mask = torch.tensor([[[[0.0, 1], [1, 1]]]])
        assert squared_error(wrong, torch.zeros_like(wrong), mask_weight(mask, 0.0)).item() == 0
        # Σ w e / Σ w = 0.5 · 4 / 3.5
        assert squared_error(wrong, torch.zeros_like(wrong), mask_weight(mask, 0.5)).item() == pytest.approx(4 / 7)


class TestAlphaOf:
    def test_is_the_alpha_channel_and_none_where_all_is_opaque(self) -> None:
        picture = Image.new("RGBA", (4, 4), (9, 9, 9, 255))
        assert alpha_of(picture) is None
        assert alpha_of(picture.convert("RGB")) is None
        picture.putpixel((0, 0), (0, 0, 0, 7))
        found = alpha_of(Image.open(io.BytesIO(png(picture))))
        assert found is not None
        assert found.getextrema() == (7, 255)


class TestADataSetWithMasks:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "pictures"
        folder.mkdir()
        for number, name in enumerate("abc"):
            Image.new("RGB", (16, 16), (number, 0, 0)).save(folder / f"{name}.png")
        white((0, 0, 8, 16)).save(folder / "a_mask.png")
        cut_out = Image.new("RGBA", (16, 16), (1, 2, 3, 255))
        cut_out.putalpha(white((8, 0, 16, 16)))
        cut_out.save(folder / "b.png")
        return folder

    def test_takes_the_mask_beside_a_picture_else_its_alpha_else_all_of_it(self, folder: Path, tmp_path: Path) -> None:
        found = read_dataset(folder, IdentityMemory(tmp_path / "memory.jsonl"))
        rows = {row.source_name: row for row in found.rows}
        assert set(rows) == {"a.png", "b.png", "c.png"}
        views = Views((Bucket(16, 16),))
        masks = make_masks(found.read, found.read_mask, 8)
        left, right = [[[1.0, 0.0], [1.0, 0.0]]], [[[0.0, 1.0], [0.0, 1.0]]]
        assert masks(rows["a.png"], views.of(rows["a.png"])).tolist() == left
        assert masks(rows["a.png"], views.of(rows["a.png"], flipped=True)).tolist() == right
        assert masks(rows["b.png"], views.of(rows["b.png"])).tolist() == right
        assert masks(rows["c.png"], views.of(rows["c.png"])).min() == 1
        used = [(row, [views.of(row)]) for row in found.rows]
        assert check_masks(used, masks, 0.0, lambda done, total: None) == 1
        with pytest.raises(InvalidInput, match="no picture has a mask"):
            check_masks([(rows["c.png"], [views.of(rows["c.png"])])], masks, 0.0, lambda done, total: None)

    def test_masks_out_what_is_transparent_of_a_mask(self, folder: Path, tmp_path: Path) -> None:
        for name, drawn in (("a", white((0, 0, 8, 16))), ("c", white((8, 0, 16, 16)))):
            on_nothing = Image.new("RGBA", (16, 16), "white")
            on_nothing.putalpha(drawn)
            on_nothing.save(folder / f"{name}_mask.png")
        found = read_dataset(folder, IdentityMemory(tmp_path / "memory.jsonl"))
        rows = {row.source_name: row for row in found.rows}
        views, masks = Views((Bucket(16, 16),)), make_masks(found.read, found.read_mask, 8)
        assert masks(rows["a.png"], views.of(rows["a.png"])).tolist() == [[[1.0, 0.0], [1.0, 0.0]]]
        assert masks(rows["c.png"], views.of(rows["c.png"])).tolist() == [[[0.0, 1.0], [0.0, 1.0]]]

    def test_refuses_a_mask_that_leaves_nothing(self, folder: Path, tmp_path: Path) -> None:
        Image.new("L", (16, 16)).save(folder / "a_mask.png")
        found = read_dataset(folder, IdentityMemory(tmp_path / "memory.jsonl"))
        views, masks = Views((Bucket(16, 16),)), make_masks(found.read, found.read_mask, 8)
        used = [(row, [views.of(row)]) for row in found.rows]
        with pytest.raises(PatinaError, match=r"leave nothing .*a\.png"):
            check_masks(used, masks, 0.0, lambda done, total: None)
        check_masks(used, masks, 0.1, lambda done, total: None)

    def test_names_masks_of_another_size_and_masks_of_nothing(self, folder: Path, tmp_path: Path) -> None:
        white((0, 0, 1, 1), (8, 16)).save(folder / "b_mask.png")
        white((0, 0, 1, 1)).save(folder / "gas_mask.png")
        with pytest.raises(PatinaError) as caught:
            read_dataset(folder, IdentityMemory(tmp_path / "memory.jsonl"))
        assert "the mask of b.png is 8x16, not 16x16" in caught.value.message
        assert "gas_mask.png is taken for the mask of a picture that is not there" in caught.value.message

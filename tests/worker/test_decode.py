"""The decoding child, as a real process, against pictures that are not what they say."""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import zlib
from collections.abc import Iterator

import pytest
from PIL import Image, ImageCms, PngImagePlugin

from contracts.dataset import image_identity
from worker.decode import Decoded, Decoder, Refused


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def taken(answer: Decoded | Refused) -> Decoded:
    assert isinstance(answer, Decoded), answer
    return answer


def refused(answer: Decoded | Refused) -> str:
    assert isinstance(answer, Refused), answer
    return answer.reason


def pixels(answer: Decoded) -> Image.Image:
    image = Image.open(io.BytesIO(answer.png))
    image.load()
    return image


def png_header_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds one row of zeros."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


class TestIdentity:
    def test_is_that_of_the_pixels_not_of_the_file(self, decoder: Decoder) -> None:
        image = Image.effect_noise((32, 20), 80).convert("RGB")
        as_png, as_webp = (
            taken(decoder.decode(encoded(image, k, **o))) for k, o in (("PNG", {}), ("WEBP", {"lossless": True}))
        )
        assert as_png.identity == as_webp.identity == image_identity(32, 20, image.tobytes())

    def test_the_stored_png_has_the_same_identity(self, decoder: Decoder) -> None:
        first = taken(decoder.decode(encoded(Image.effect_noise((40, 24), 50).convert("RGB"), "JPEG")))
        assert taken(decoder.decode(first.png)).identity == first.identity

    def test_one_changed_pixel_changes_it(self, decoder: Decoder) -> None:
        image = Image.new("RGB", (32, 32), "red")
        before = taken(decoder.decode(encoded(image)))
        image.putpixel((3, 3), (254, 0, 0))
        assert taken(decoder.decode(encoded(image))).identity != before.identity


class TestColour:
    def test_alpha_is_flattened_on_white(self, decoder: Decoder) -> None:
        image = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
        image.paste((255, 0, 0, 128), (0, 0, 16, 32))
        stored = pixels(taken(decoder.decode(encoded(image))))
        assert stored.getpixel((31, 0)) == (255, 255, 255)
        assert stored.getpixel((0, 0)) == (255, 127, 127)

    @pytest.mark.parametrize("max_px", [None, 32 * 24])
    def test_alpha_comes_beside_as_a_mask_upright_and_as_large_as_the_picture(
        self, decoder: Decoder, max_px: int | None
    ) -> None:
        image = Image.new("RGBA", (96, 64), (255, 0, 0, 0))
        image.paste((255, 0, 0, 200), (0, 0, 48, 64))
        turned = Image.Exif()
        turned[0x0112] = 3  # turned by half: what is left comes right
        answer = taken(decoder.decode(encoded(image, exif=turned), max_px))
        assert answer.alpha_png is not None
        mask = Image.open(io.BytesIO(answer.alpha_png))
        assert (mask.mode, mask.size) == ("RGB", (answer.width, answer.height))
        assert answer.alpha == image_identity(*mask.size, mask.tobytes())
        assert mask.getpixel((mask.width - 1, 0)) == (200, 200, 200)
        assert mask.getpixel((0, 0)) == (0, 0, 0)
        assert taken(decoder.decode(answer.alpha_png)).identity == answer.alpha

    def test_a_mask_is_laid_on_black_and_told_so(self, decoder: Decoder) -> None:
        drawn = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
        drawn.paste((255, 255, 255, 255), (0, 0, 16, 32))
        data = encoded(drawn)
        answer = taken(decoder.decode(data, mask=True))
        assert (pixels(answer).getpixel((0, 0)), pixels(answer).getpixel((31, 0))) == ((255, 255, 255), (0, 0, 0))
        assert answer.note == "transparency laid on black: masked out"
        assert pixels(taken(decoder.decode(data))).getpixel((31, 0)) == (255, 255, 255)

    def test_palette_transparency_is_flattened_on_white(self, decoder: Decoder) -> None:
        image = Image.new("P", (32, 32), 1)
        image.putpalette([255, 0, 0, 0, 0, 255])
        stored = pixels(taken(decoder.decode(encoded(image, transparency=1))))
        assert stored.getpixel((0, 0)) == (255, 255, 255)

    def test_sixteen_bit_grey_is_scaled_not_clipped(self, decoder: Decoder) -> None:
        stored = pixels(taken(decoder.decode(encoded(Image.new("I;16", (32, 32), 128 * 257)))))
        assert stored.getpixel((0, 0)) == (128, 128, 128)

    def test_an_embedded_profile_is_converted_to_srgb(self, decoder: Decoder) -> None:
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        # A profile whose red and green primaries are exchanged: what it calls red looks green.
        swapped = srgb.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
        red = Image.new("RGB", (32, 32), (255, 0, 0))
        assert pixels(taken(decoder.decode(encoded(red, icc_profile=srgb)))).getpixel((0, 0)) == (255, 0, 0)
        r, g, b = pixels(taken(decoder.decode(encoded(red, icc_profile=swapped)))).getpixel((0, 0))
        assert g > 240
        assert max(r, b) < 40

    def test_a_broken_profile_is_ignored(self, decoder: Decoder) -> None:
        data = encoded(Image.new("RGB", (32, 32), "green"), icc_profile=b"not a profile" * 20)
        assert taken(decoder.decode(data)).width == 32

    def test_cmyk_jpeg_becomes_rgb(self, decoder: Decoder) -> None:
        assert pixels(taken(decoder.decode(encoded(Image.new("CMYK", (32, 32)), "JPEG")))).mode == "RGB"

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
    def test_every_mode_a_png_can_have_becomes_rgb(self, decoder: Decoder, mode: str) -> None:
        assert pixels(taken(decoder.decode(encoded(Image.new(mode, (32, 32)))))).mode == "RGB"

    def test_transparency_is_told_only_when_there_is_some(self, decoder: Decoder) -> None:
        opaque = taken(decoder.decode(encoded(Image.new("RGBA", (32, 32), (9, 9, 9, 255)))))
        assert (opaque.note, opaque.alpha, opaque.alpha_png) == (None, None, None)
        clear = taken(decoder.decode(encoded(Image.new("RGBA", (32, 32), (9, 9, 9, 254)))))
        assert clear.note == "transparency laid on white and kept as a mask"

    def test_avif_is_a_picture(self, decoder: Decoder) -> None:
        answer = taken(decoder.decode(encoded(Image.new("RGB", (40, 24), (200, 40, 40)), "AVIF", quality=90)))
        r, g, b = pixels(answer).getpixel((5, 5))
        assert (answer.width, answer.height) == (40, 24)
        assert abs(r - 200) + abs(g - 40) + abs(b - 40) < 20


class TestDownscaling:
    def test_a_picture_of_more_pixels_is_downscaled_and_says_so(self, decoder: Decoder) -> None:
        answer = taken(decoder.decode(encoded(Image.new("RGB", (300, 200), "red")), max_px=15_000))
        assert (answer.width, answer.height) == (150, 100)
        assert answer.note == "downscaled from 300x200 to 150x100"
        assert pixels(answer).size == (150, 100)

    def test_one_that_fits_is_left_as_it_is(self, decoder: Decoder) -> None:
        image = Image.effect_noise((100, 150), 80).convert("RGB")
        answer = taken(decoder.decode(encoded(image), max_px=15_000))
        assert answer.identity == image_identity(100, 150, image.tobytes())
        assert answer.note is None

    def test_offering_the_stored_picture_again_changes_nothing(self, decoder: Decoder) -> None:
        first = taken(decoder.decode(encoded(Image.effect_noise((333, 77), 80).convert("RGB")), max_px=9_000))
        again = taken(decoder.decode(first.png, max_px=9_000))
        assert again.identity == first.identity
        assert first.width * first.height <= 9_000

    def test_a_turned_picture_tells_the_size_it_is_seen_in(self, decoder: Decoder) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        answer = taken(decoder.decode(encoded(Image.new("RGB", (400, 200)), "JPEG", exif=exif), max_px=20_000))
        assert answer.note == "downscaled from 200x400 to 100x200"


class TestOrientation:
    def test_exif_orientation_is_applied(self, decoder: Decoder) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        answer = taken(decoder.decode(encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif)))
        assert (answer.width, answer.height) == (20, 40)


class TestPrivacy:
    def test_nothing_but_pixels_survives(self, decoder: Decoder) -> None:
        exif = Image.Exif()
        exif[0x010E] = "my home"
        notes = PngImagePlugin.PngInfo()
        notes.add_text("Comment", "my home")
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        data = encoded(Image.new("RGB", (32, 32)), exif=exif, pnginfo=notes, icc_profile=profile)
        stored = taken(decoder.decode(data))
        assert b"my home" in data
        assert b"my home" not in stored.png
        assert not pixels(stored).info


class TestRefusals:
    @pytest.mark.parametrize("data", [b"", b"hello", b"GIF89a" + bytes(50), b"%PDF-1.7"])
    def test_other_formats(self, decoder: Decoder, data: bytes) -> None:
        assert "PNG, JPEG, WebP or AVIF" in refused(decoder.decode(data))

    def test_gif_although_pillow_could_read_it(self, decoder: Decoder) -> None:
        assert "PNG, JPEG, WebP or AVIF" in refused(decoder.decode(encoded(Image.new("P", (32, 32)), "GIF")))

    def test_a_truncated_file(self, decoder: Decoder) -> None:
        assert "damaged" in refused(decoder.decode(encoded(Image.effect_noise((64, 64), 90), "JPEG")[:500]))

    @pytest.mark.parametrize("kind", ["WEBP", "PNG", "AVIF"])
    def test_animations(self, decoder: Decoder, kind: str) -> None:
        frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
        assert "animated" in refused(decoder.decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:])))

    def test_but_not_a_cameras_jpeg_with_a_small_copy_behind_it(self, decoder: Decoder) -> None:
        shot = Image.effect_noise((64, 48), 80).convert("RGB")
        both = encoded(shot, "MPO", save_all=True, append_images=[shot.resize((32, 24))])
        assert taken(decoder.decode(both)).identity == taken(decoder.decode(encoded(shot, "JPEG"))).identity

    def test_sizes_are_refused_from_the_header_before_anything_is_unpacked(self, decoder: Decoder) -> None:
        assert "40 million" in refused(decoder.decode(png_header_of(8000, 8000)))
        assert "40 million" in refused(decoder.decode(png_header_of(30_000, 30_000)))
        assert "8192" in refused(decoder.decode(png_header_of(20_000, 100)))
        assert "smaller" in refused(decoder.decode(encoded(Image.new("RGB", (4, 100)))))

    def test_the_next_picture_is_safe_after_a_refusal(self, decoder: Decoder) -> None:
        refused(decoder.decode(b"nonsense"))
        taken(decoder.decode(encoded(Image.new("RGB", (32, 32)))))


def child(script: str) -> tuple[str, ...]:
    """A child that misbehaves in a given way instead of decoding."""
    return (sys.executable, "-c", script)


PNG = b"\x89PNG\r\n\x1a\n"


def saying(answer: object, *pictures: bytes) -> str:
    """A child that says this of whatever it is sent."""
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return (
        "import socket, struct\n"
        "channel = socket.socket(fileno=0)\n"
        f"for part in ({(text.encode(), *pictures)!r}): channel.sendall(struct.pack('>Q', len(part)) + part)\n"
        "while channel.recv(65536): pass"
    )


class TestChild:
    def test_one_that_hangs_is_ended_and_the_file_refused(self) -> None:
        with Decoder(timeout_s=0.5, command=child("import sys; sys.stdin.read()")) as decoder:
            assert "too long" in refused(decoder.decode(b"anything"))

    def test_one_that_drips_its_answer_is_ended_as_well(self) -> None:
        script = (
            "import socket, select\n"
            "channel = socket.socket(fileno=0)\n"
            "channel.sendall(b'\\0' * 7 + b'\\xff')\n"
            "while True: select.select([], [], [], 0.05); channel.sendall(b'{')"
        )
        with Decoder(timeout_s=0.5, command=child(script)) as decoder:
            assert "too long" in refused(decoder.decode(b"anything"))

    def test_one_that_dies_is_replaced(self) -> None:
        with Decoder() as decoder:
            first = encoded(Image.new("RGB", (32, 32)))
            taken(decoder.decode(first))
            assert decoder._child is not None
            dead = decoder._child.pid
            decoder._child.kill()
            decoder._child.wait()
            taken(decoder.decode(first))
            assert decoder._child.pid != dead

    def test_one_that_dies_while_it_decodes_costs_that_file_only(self) -> None:
        with Decoder(command=child("raise SystemExit(9)")) as decoder:
            assert "more time or memory" in refused(decoder.decode(b"anything"))

    def test_one_that_speaks_nonsense_is_ended_and_the_file_refused(self) -> None:
        script = "import socket; socket.socket(fileno=0).sendall(b'\\0' * 7 + b'\\2' + b'{}')"
        with Decoder(command=child(script)) as decoder:
            assert "more time or memory" in refused(decoder.decode(b"anything"))

    @pytest.mark.parametrize(
        "change",
        [
            *({"identity": value} for value in ("../../x", "A" * 64, ["0" * 64], None)),
            *({"width": value} for value in ("9", 0, -1, 1.5, 10**30, True)),
            *(
                {"likeness": "0"},
                {"alpha": "../x"},
                {"alpha": False},
                {"more": 1},
                {"refused": ["why"]},
                {"refused": "x" * 1000},
            ),
        ],
    )
    def test_one_that_is_taken_over_costs_that_file_and_itself_only(self, change: dict[str, object]) -> None:
        said = {"identity": "0" * 64, "alpha": None, "likeness": "0" * 32}
        said |= dict.fromkeys(("width", "height", "offered_width", "offered_height"), 9)
        masked = said | {"alpha": "0" * 64}
        for answer, *pictures in (
            (said, b"no picture"),
            (said | change, PNG),
            (masked, PNG, b"no mask"),
            ({"refused": 1}, PNG),
            ("[" * 10_000, PNG),
        ):
            with Decoder(command=child(saying(answer, *pictures))) as decoder:
                assert "more time or memory" in refused(decoder.decode(b"anything"))
                assert decoder._child is None, "the next file gets another child"

    def test_one_that_says_what_it_may_is_believed(self) -> None:
        said = {"identity": "0" * 64, "alpha": None, "likeness": "0" * 32}
        said |= dict.fromkeys(("width", "height", "offered_width", "offered_height"), 9)
        with Decoder(command=child(saying(said, PNG))) as decoder:
            assert taken(decoder.decode(b"anything")).identity == "0" * 64

    def test_memory_is_limited(self) -> None:
        script = "from worker.sandbox import limit_process; limit_process(2 * 1024**3); bytearray(3 * 1024**3)"
        with Decoder(command=child(script)) as decoder:
            assert "more time or memory" in refused(decoder.decode(b"anything"))

    def test_it_sees_no_secret(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATINA_DATABASE_URL", "postgresql://user:secret@host/db")
        with Decoder() as decoder:
            taken(decoder.decode(encoded(Image.new("RGB", (32, 32)))))
            assert decoder._child is not None
            with open(f"/proc/{decoder._child.pid}/environ", "rb") as environment:
                assert b"secret" not in environment.read()

    def test_close_ends_it(self) -> None:
        decoder = Decoder()
        taken(decoder.decode(encoded(Image.new("RGB", (32, 32)))))
        assert decoder._child is not None
        pid = decoder._child.pid
        decoder.close()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

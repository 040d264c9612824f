"""Any picture to upright sRGB on white: the one way pictures become pixels, for uploads and for the trainer alone.

Pillow alone: the child that opens uploads has it without torch. Knows nothing about files, limits or identities.
"""

from __future__ import annotations

import io

from PIL import ExifTags, Image, ImageCms

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF")
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation; any other is upright."""


def upright_on_white(image: Image.Image) -> Image.Image:
    """A loaded picture as RGB in sRGB: turned as its EXIF says, colours converted, transparency over white.

    A profile that cannot be applied is ignored, as browsers do.
    """
    profile = image.info.get("icc_profile")
    return _on(_to_srgb(_upright(image), profile), "white")


def mask_on_black(image: Image.Image) -> Image.Image:
    """A loaded mask as a picture is, but what is transparent of it is black, as what it leaves out."""
    profile = image.info.get("icc_profile")
    return _on(_to_srgb(_upright(image), profile), "black")


def alpha_of(image: Image.Image) -> Image.Image | None:
    """A picture's alpha channel, upright; None when it has none or when all of it is opaque."""
    if image.mode not in ("RGBA", "LA", "PA", "RGBa", "La") and "transparency" not in image.info:
        return None
    alpha = _upright(image).convert("RGBA").getchannel("A")
    return None if alpha.getextrema() == (255, 255) else alpha


def is_animated(image: Image.Image) -> bool:
    """Whether a picture moves; cameras keep a small copy behind a JPEG (MPO, CIPA DC-007), which is no second frame."""
    return image.format != "MPO" and getattr(image, "n_frames", 1) > 1


def _upright(image: Image.Image) -> Image.Image:
    """The pixels turned. ImageOps.exif_transpose also writes the EXIF anew, which one mistyped tag of it prevents."""
    image.load()
    turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling.
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    alpha = None
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    elif image.mode not in ("RGB", "CMYK", "L"):
        image = image.convert("RGB")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            converted = None  # a profile that cannot be applied is ignored, as browsers do
        image = converted if converted is not None else image
    image = image.convert("RGB")
    if alpha is not None:
        image.putalpha(alpha)
    return image


def _on(image: Image.Image, colour: str) -> Image.Image:
    if image.mode != "RGBA":
        return image
    ground = Image.new("RGB", image.size, colour)
    ground.paste(image.convert("RGB"), mask=image.getchannel("A"))
    return ground

"""Files that are not what they say, made in memory: what a public upload form is sent sooner or later.

Each entry says the fate its ledger row must have and a word of its reason.
"""

from __future__ import annotations

import codecs
import io
import json
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.worker.conftest import picture


class Hostile(NamedTuple):
    """A file to upload, and what must become of it."""

    name: str
    data: bytes
    fate: str
    word: str = ""


def corpus() -> Iterator[Hostile]:
    """Everything, each file under a name of its own."""
    yield from _archives()
    yield from _pictures()
    yield from _texts()
    yield from _tables()


def members() -> dict[str, tuple[str, str]]:
    """What must become of files inside the archives: name -> fate and a word of its reason."""
    return {
        "deep/bomb.png": ("rejected", "suspiciously tightly"),
        "deep/good.png": ("used", ""),
        "wide/79.png": ("rejected", "suspiciously tightly"),
        "nested/inner.zip": ("rejected", "unpack it first"),
        "etc/slip.png": ("used", ""),
        "absolute.png": ("used", ""),
        "c:/windows.png": ("used", ""),
        "link.png": ("rejected", "a link or device"),
        "secret.png": ("rejected", "without a password"),
        "liar.png": ("rejected", ""),
        "slow.png": ("rejected", "not taken"),
        "b/überall.png": ("used", ""),
        "case/A.png": ("used", ""),
        "case/a.png": ("used", ""),
        "overlap/first.png": ("rejected", "lies upon"),
        "overlap/good.png": ("used", ""),
    }


def _archives() -> Iterator[Hostile]:
    deep = _zip({"deep/bomb.png": bytes(40 * 1024**2), "deep/good.png": picture(100)})
    yield Hostile("deep.zip", deep, "used")
    yield Hostile("wide.zip", _zip({f"wide/{n}.png": bytes(1024**2) for n in range(80)}), "used")
    inner = _zip({"a.png": picture(101)})
    yield Hostile("nested.zip", _zip({"nested/inner.zip": inner}), "used")
    slip = {"../../etc/slip.png": picture(102), "/absolute.png": picture(103), "c:\\windows.png": picture(104)}
    yield Hostile("slip.zip", _zip(slip), "used")
    yield Hostile("link.zip", _symlink(), "used")
    yield Hostile("secret.zip", _encrypted(), "used")
    liar = _zip({"liar.png": bytes(3 * 1024**2)})
    yield Hostile("liar.zip", liar.replace((3 * 1024**2).to_bytes(4, "little"), (9).to_bytes(4, "little")), "used")
    yield Hostile("slow.zip", _zip({"slow.png": picture(105)}, zipfile.ZIP_LZMA), "used")
    yield Hostile("names.zip", _odd_names(), "used")
    yield Hostile("overlap.zip", _overlapping(), "used")
    yield Hostile("cut.zip", deep[: len(deep) // 2], "rejected", "cut off")
    yield Hostile("many.zip", _counted_wrongly(), "rejected", "")
    yield Hostile("set.tar", bytes(1024), "rejected", ".zip")


def _pictures() -> Iterator[Hostile]:
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    yield Hostile("bomb.png", _png_of(30_000, 30_000), "rejected", "million")
    yield Hostile("bomb.jpg", _jpeg_of(65_000, 65_000), "rejected", "million")
    yield Hostile("bomb.webp", _webp_of(16_383, 16_383), "rejected", "million")
    yield Hostile("flat.png", _encoded(Image.new("L", (8000, 5000))), "used", "downscaled from 8000x5000")
    yield Hostile("words.png", _png_with(b"zTXt", b"x\0\0" + zlib.compress(bytes(80 * 1024**2))), "rejected")
    yield Hostile(
        "profile.png", _png_with(b"iCCP", b"x\0\0" + zlib.compress(bytes(80 * 1024**2))), "rejected", "damaged"
    )
    for kind, word in (("PNG", "damaged"), ("JPEG", "damaged"), ("WEBP", "damaged"), ("AVIF", "not a PNG")):
        data = _encoded(noise, kind)
        yield Hostile(f"cut.{kind.lower()}", data[: len(data) // 2], "rejected", word)
    for kind in ("PNG", "WEBP", "AVIF"):
        frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
        moving = _encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        yield Hostile(f"moving.{kind.lower()}", moving, "rejected", "animated")
    yield Hostile("polyglot.jpg", _encoded(_plain(1), "JPEG") + _zip({"hidden.png": picture(106)}), "used")
    yield Hostile("page.png", b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "rejected")
    yield Hostile("script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", "rejected", "not a PNG")
    yield Hostile("still.png", _encoded(_plain(2).convert("P"), "GIF"), "rejected", "not a PNG")
    yield Hostile("empty.png", b"", "rejected", "not a PNG")
    yield Hostile("jpeg.png", _encoded(_plain(3), "JPEG"), "used")
    yield Hostile("cmyk.jpg", _encoded(_plain(4).convert("CMYK"), "JPEG"), "used")
    yield Hostile("deep.png", _encoded(Image.new("I;16", (32, 32), 30_000)), "used")
    yield Hostile("palette.png", _encoded(_plain(5).convert("P")), "used")
    yield Hostile(
        "clear.png", _encoded(Image.new("RGBA", (32, 32), (1, 2, 3, 9))), "used", "transparency laid on white"
    )


def _texts() -> Iterator[Hostile]:
    yield Hostile("good.txt", b"a good caption", "used")
    yield Hostile("jpeg.txt", codecs.BOM_UTF16_LE + "sixteen".encode("utf-16-le"), "used")
    yield Hostile("cmyk.txt", codecs.BOM_UTF8 + b"marked", "used")
    yield Hostile("deep.txt", b"start\x01and\x1b[31m bell\x07", "used")
    yield Hostile("wide.txt", "a red car".encode("utf-16-le"), "rejected", "UTF-16")
    yield Hostile("palette.txt", b"x" * 1024**2, "rejected", "longer than")
    yield Hostile("clear.txt", b"x" * (1024**2 + 1), "rejected", "too large")
    yield Hostile("flat.txt", b"\x89PNG\xff\xfe", "rejected", "text")
    broken = b'{"file_name": "good.png", "text": \n\xff\xfe{}\n[]\n{"file_name": "polyglot.jpg", "text": "found"}\n'
    yield Hostile("metadata.jsonl", broken + b"[" * 100_000, "used")
    yield Hostile("metadata.csv", b"file_name,text\nnobody.png,\0\n" + b'"' + b"y" * 300_000, "used")
    yield Hostile("deep.json", b'{"a":' * 50_000, "rejected", "not JSON")
    yield Hostile("other.json", json.dumps({"version": 1}).encode(), "rejected", "kohya")


def _tables() -> Iterator[Hostile]:
    rows = [{"image": {"bytes": picture(110 + n), "path": f"{n}.png"}, "text": f"row {n}"} for n in range(4)]
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream, compression="none", use_dictionary=False)
    good = stream.getvalue()
    yield Hostile("good.parquet", good, "used")
    yield Hostile("cut.parquet", good[: len(good) // 2], "rejected", "Parquet")
    yield Hostile("footer.parquet", good[:-8] + struct.pack("<I", 2**31 - 1) + b"PAR1", "rejected", "Parquet")
    yield Hostile("none.parquet", b"PAR1" + bytes(64) + b"PAR1", "rejected", "Parquet")
    yield Hostile("pages.parquet", good[:4] + b"\xff" * 64 + good[68:], "used")
    stream = io.BytesIO()
    pq.write_table(pa.table({"image": ["a path", "another"], "text": ["x", "y"]}), stream)
    yield Hostile("paths.parquet", stream.getvalue(), "rejected", "no column of pictures")


def _plain(seed: int) -> Image.Image:
    return Image.open(io.BytesIO(picture(200 + seed))).convert("RGB")


def _encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _zip(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def _symlink() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    return stream.getvalue()


def _encrypted() -> bytes:
    data = bytearray(_zip({"secret.png": picture(107)}))
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    data[6] |= 1
    return bytes(data)


def _odd_names() -> bytes:
    """UTF-8 that does not say so, a Japanese code page, 4 096 characters, names that differ in case or not at all."""
    files = {"b/XXberall.png": picture(120), "YYYY.png": picture(121), f"{'n' * 4092}.png": picture(122)}
    files |= {"case/A.png": picture(123), "case/a.png": picture(124), "twice.png": picture(125)}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr("twice.png", picture(126))
        archive.writestr("\u202egnp.exe.png", picture(127))
    return stream.getvalue().replace(b"XXberall", "überall".encode()).replace(b"YYYY", "猫犬".encode("shift-jis"))


def _overlapping() -> bytes:
    """Three entries of the table of contents, two of them on the same bytes."""
    data = _zip({"overlap/good.png": picture(128), "overlap/first.png": picture(129)}, zipfile.ZIP_STORED)
    start = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    end = data.index(b"PK\x05\x06")
    again = data[start:end].replace(b"overlap/first", b"overlap/other")
    tail = bytearray(data[end:])
    entries, size = struct.unpack_from("<HI", tail, 10)
    struct.pack_into("<HHI", tail, 8, entries + 1, entries + 1, size + len(again))
    return data[:end] + again + bytes(tail)


def _counted_wrongly() -> bytes:
    data = bytearray(_zip({"a.png": picture(130)}))
    struct.pack_into("<I", data, data.rindex(b"PK\x05\x06") + 12, 2**31)
    return bytes(data)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_of(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = _chunk(b"IDAT", zlib.compress(bytes(99)))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + rows + _chunk(b"IEND", b"")


def _png_with(kind: bytes, data: bytes) -> bytes:
    plain = _encoded(_plain(6 + len(kind + data) % 89))
    return plain[:33] + _chunk(kind, data) + plain[33:]


def _jpeg_of(width: int, height: int) -> bytes:
    data = bytearray(_encoded(Image.new("RGB", (64, 64)), "JPEG"))
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    return bytes(data)


def _webp_of(width: int, height: int) -> bytes:
    header = struct.pack("<I", (width - 1) | (height - 1) << 14)
    body = b"VP8L" + struct.pack("<I", 22) + b"\x2f" + header + bytes(17)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body

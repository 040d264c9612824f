"""How many CLIP tokens a caption has, on the `tokenizers` wheel alone: loads no torch and no model.

Knows nothing about what is done when a caption is too long.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

MAX_TOKENS = 75
"""What CLIP reads of a text at once, besides the start and the end token."""
LONGEST_TOKENS = 3 * MAX_TOKENS
"""What is read of a prompt, chunk by chunk."""

_WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def load_tokenizer(folder: Path) -> Tokenizer:
    """CLIP's tokenizer from a folder with tokenizer.json, or with vocab.json and merges.txt."""
    whole = folder / "tokenizer.json"
    if whole.is_file():
        counting = Tokenizer.from_file(str(whole))
        # Saved by transformers it pads to 77, and every caption would look full.
        counting.no_padding()
        counting.no_truncation()
        return counting
    tokenizer = Tokenizer(
        models.BPE.from_file(
            str(folder / "vocab.json"),
            str(folder / "merges.txt"),
            unk_token="<|endoftext|>",
            end_of_word_suffix="</w>",
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def cut_off(tokenizer: Tokenizer, caption: str, max_tokens: int = MAX_TOKENS) -> str:
    """The end of a caption that the model does not read."""
    starts = [start for start, _ in tokenizer.encode(caption, add_special_tokens=False).offsets[max_tokens:]]
    return caption[starts[0] :] if starts else ""


def count_tokens(tokenizer: Tokenizer, caption: str) -> int:
    """Tokens of a caption without start and end; the model reads so many as the run's ``max_tokens`` says."""
    return len(tokenizer.encode(caption, add_special_tokens=False).ids)

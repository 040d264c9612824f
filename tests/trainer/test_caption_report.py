"""What the run says of captions that no encoder reads to their end."""

from __future__ import annotations

from contracts.captions import CaptionSettings
from contracts.dataset import VersionRow
from sdxl.files import TOKENIZERS, BaseFiles
from sdxl.tokens import load_tokenizer
from trainer.caption_report import caption_warnings, truncation_warnings
from trainer.captions import Captions

FILES = BaseFiles(TOKENIZERS, TOKENIZERS, TOKENIZERS, single_file=False)


def row(name: str, caption: str) -> VersionRow:
    return VersionRow(image=name, caption=caption, original_width=8, original_height=8, source_name=name)


def warnings(rows: list[VersionRow], max_tokens: int = 75, **settings: object) -> list[str]:
    words = Captions(CaptionSettings.model_validate(settings), "tok", 0.0, seed=0, timesteps=range(1))
    return caption_warnings(FILES, rows, words, max_tokens)


class TestCaptionWarnings:
    def test_count_what_is_lost_to_the_token_and_name_the_worst_first(self) -> None:
        rows = [row(f"{n}.png", "cat " * n) for n in (20, 73, 74, 80, 150)]
        # The trigger word and its comma are two more.
        (said,) = warnings(rows)
        assert said == (
            "text_encoder and text_encoder_2: 3 of 5 captions are longer than 75 tokens; the end is not read: "
            "150.png: 77 tokens, 80.png: 7 tokens, 74.png: 1 tokens"
        )
        assert warnings(rows, 225) == []

    def test_name_five_at_most_and_count_the_rest(self) -> None:
        (said,) = warnings([row(f"{n}.png", "cat " * 100) for n in range(9)])
        assert said.startswith("text_encoder and text_encoder_2: 9 of 9 ")
        assert said.endswith("4.png: 27 tokens and 4 more")

    def test_the_longest_that_a_caption_can_become_counts(self) -> None:
        rows = [row("a.png", f"{{a|{'cat ' * 90}}} dog")]
        assert "a.png: 18 tokens" in warnings(rows, alternatives=True)[0]

    def test_count_pictures_without_words(self) -> None:
        assert warnings([row("a.png", ""), row("b.png", "cat")]) == ["1 of 2 pictures have no caption"]


def test_encoders_that_count_differently_are_told_apart() -> None:
    both = load_tokenizer(TOKENIZERS / "tokenizer")
    texts = [("a.png", frozenset({"cat " * 80}))]

    class Wordy:
        def encode(self, text: str, add_special_tokens: bool) -> object:
            return both.encode(text + " dog", add_special_tokens=add_special_tokens)

    said = truncation_warnings(texts, {"text_encoder": both, "text_encoder_2": Wordy()}, 75)  # type: ignore[dict-item]
    assert [one.split(":")[0] for one in said] == ["text_encoder", "text_encoder_2"]
    assert [one.rsplit(": ", 1)[1] for one in said] == ["5 tokens", "6 tokens"]

"""What two versions differ in."""

from __future__ import annotations

from typing import Any

from catalog.datasets.comparing import changes, compare
from contracts.dataset import Split, VersionRow


def row(**told: Any) -> VersionRow:
    return VersionRow(**{"image": "a", "original_width": 8, "original_height": 8, "source_name": "a.png"} | told)


class TestCompare:
    def test_tells_apart_what_came_went_and_changed(self) -> None:
        older = [row(image="gone"), row(image="said", caption="one"), row(image="mask"), row(image="same")]
        newer = [row(image="new"), row(image="said", caption="two"), row(image="mask", mask="m"), row(image="same")]
        found = compare(older, newer)
        assert [one.image for one in found.added] == ["new"]
        assert [one.image for one in found.removed] == ["gone"]
        assert [new.caption for _, new in found.recaptioned] == ["two"]
        assert [new.image for _, new in found.altered] == ["mask"]


class TestChanges:
    def test_are_told_one_by_one(self) -> None:
        newer = row(split=Split.HELD_OUT, repeats=3, concept="sks dog", mask="m")
        assert {tuple(change) for change in changes(row(), newer)} == {
            ("split", "train", "held_out"),
            ("repeats", 1, 3),
            ("concept", None, "sks dog"),
            ("mask", None, "m"),
        }

    def test_are_none_for_another_name_or_caption(self) -> None:
        assert changes(row(), row(source_name="b.png", caption="a cat")) == []

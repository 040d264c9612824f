from __future__ import annotations

from contracts.yamls import read_yaml


class TestReadYaml:
    def test_finds_keys_given_more_than_once_wherever_they_are(self) -> None:
        value, repeated = read_yaml("a: 1\nb: [{c: 1}, {c: 1, c: 2}]\n'a': 2\na: 3\n")
        assert value == {"a": 3, "b": [{"c": 1}, {"c": 2}]}
        assert {(error.pointer, error.message) for error in repeated} == {
            ("/a", "is given 3 times, in lines 1, 3 and 4; keep one"),
            ("/b/1/c", "is given twice, in line 2; keep one"),
        }

    def test_takes_merged_keys_and_aliases_as_what_they_are(self) -> None:
        value, repeated = read_yaml("base: &base {rank: 4, alpha: 4}\nlora: {<<: *base, rank: 8}\nagain: *base\n")
        assert value["lora"] == {"rank": 8, "alpha": 4}
        assert repeated == []
        assert read_yaml("a: &a {x: 1}\nb: &b {y: 2}\nc:\n  <<: *a\n  <<: *b\n")[0]["c"] == {"x": 1, "y": 2}
        assert read_yaml("a: &a {x: 1}\nb: &b {y: 2}\nc:\n  <<: *a\n  <<: *b\n")[1] == []

    def test_nothing_is_none(self) -> None:
        assert read_yaml("# only words\n") == (None, [])

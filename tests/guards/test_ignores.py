"""Every silenced check gives its reason, and there are never more of them than the number written here.

When one is removed, lower the number; raising it needs a reason in the commit message.
"""

from __future__ import annotations

import re
from pathlib import Path

MOST_TYPE_IGNORES = 2
MOST_LINT_IGNORES = 20

TYPE_IGNORE = re.compile(r"#\s*type:\s*ignore(?P<code>\[[\w, -]+\])?(?P<reason>.*)")
LINT_IGNORE = re.compile(r"#\s*noqa(?P<code>:\s*[A-Z0-9, ]+)?(?P<reason>.*)")


class TestIgnores:
    def test_silenced_type_checks_become_fewer(self, sources: list[Path]) -> None:
        assert len(_found(TYPE_IGNORE, sources)) <= MOST_TYPE_IGNORES

    def test_silenced_lint_checks_become_fewer(self, sources: list[Path]) -> None:
        assert len(_found(LINT_IGNORE, sources)) <= MOST_LINT_IGNORES

    def test_each_names_its_rule_and_its_reason(self, sources: list[Path]) -> None:
        vague = [
            f"{where}: {match.group()}"
            for pattern in (TYPE_IGNORE, LINT_IGNORE)
            for where, match in _found(pattern, sources)
            if not match["code"] or len(match["reason"].strip(" -#")) < 5
        ]
        assert vague == []

    def test_the_type_checker_is_strict_everywhere(self, root: Path) -> None:
        text = (root / "pyproject.toml").read_text()
        assert "strict = true" in text
        assert "ignore_errors" not in text


def _found(pattern: re.Pattern[str], sources: list[Path]) -> list[tuple[str, re.Match[str]]]:
    return [
        (f"{path.parent.name}/{path.name}:{number}", match)
        for path in sources
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (match := pattern.search(line))
    ]

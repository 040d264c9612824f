"""YAML as settings are written in it, and the keys that it gives more than once: of those the last would silently win.

Knows nothing about files, nor about which settings there are.
"""

from __future__ import annotations

from typing import Any

import yaml

from contracts.failures import FieldError, pointer_to

MERGE = "tag:yaml.org,2002:merge"
"""The key ``<<``: given twice, it takes in both, and nothing is lost."""


def read_yaml(text: str) -> tuple[Any, list[FieldError]]:
    """The value that a document holds, and an error for each key of it that is given more than once.

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, []
        repeated = _repeated(node, "", set())
        return loader.construct_document(node), repeated
    finally:
        loader.dispose()


def _repeated(node: yaml.Node, pointer: str, seen: set[int]) -> list[FieldError]:
    if id(node) in seen:  # an alias, which may hold itself
        return []
    seen.add(id(node))
    found: list[FieldError] = []
    if isinstance(node, yaml.SequenceNode):
        for number, entry in enumerate(node.value):
            found += _repeated(entry, f"{pointer}/{number}", seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, list[int]] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                inside = pointer + pointer_to([key.value])
                lines.setdefault(inside, []).append(key.start_mark.line + 1)
                found += _repeated(value, inside, seen)
        found += [FieldError(pointer=name, message=_told(where)) for name, where in lines.items() if len(where) > 1]
    return found


def _told(lines: list[int]) -> str:
    times = "twice" if len(lines) == 2 else f"{len(lines)} times"
    *first, last = sorted(set(lines))
    where = f"in lines {', '.join(map(str, first))} and {last}" if first else f"in line {last}"
    return f"is given {times}, {where}; keep one"

"""Read a recipe: YAML with the run's settings and, for the trainer alone, a ``paths`` section saying where things are.

Knows nothing about torch, nor about what the settings mean. Every mistake is reported at once, paths included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from contracts.config import Frozen
from contracts.failures import FieldError, InvalidInput, field_errors
from contracts.mixing import MOST_VERSIONS, Weight
from contracts.train import TrainConfig, parse_config

PATH_KEYS = ("base_dir", "dataset_dir", "datasets", "init_weights")
HINT = "docs/recipes.md lists every setting."


class DataSource(Frozen):
    """Where a data set is, and how often its pictures are seen relative to weight 1."""

    path: Path
    weight: Weight = 1.0


@dataclass(frozen=True)
class Recipe:
    """A run that is ready to start: what to train, on which base, from which data."""

    config: TrainConfig
    base_dir: Path
    datasets: tuple[DataSource, ...]
    init_weights: Path | None = None
    """The weights file that training starts from; None is a fresh adapter, or the base's own UNet."""


def read_recipe(
    file: Path,
    assignments: Sequence[str] = (),
    *,
    base_dir: Path | None = None,
    dataset_dirs: Sequence[Path] = (),
    dataset_weights: Sequence[float] = (),
    init_weights: Path | None = None,
) -> Recipe:
    """Read ``file``, apply ``key=value`` assignments, and find the base and the data; arguments win over the file.

    Args:
        dataset_weights: one for each of ``dataset_dirs``, or none: 1 each.

    Raises:
        InvalidInput: with every unknown setting, wrong value and missing folder at once.
    """
    values = _mapping_in(file)
    paths = values.pop("paths", None) or {}
    overrides, errors = _overrides(assignments)
    if not isinstance(paths, dict):
        errors.append(FieldError(pointer="/paths", message="must hold base_dir, and dataset_dir or datasets"))
        paths = {}
    errors += [
        FieldError(pointer=f"/paths/{key}", message="there is no such setting; check the spelling")
        for key in paths
        if key not in PATH_KEYS
    ]
    config = None
    try:
        config = parse_config(values, overrides)
    except InvalidInput as error:
        errors += error.errors
    base = _existing("base_dir", base_dir or paths.get("base_dir"), errors)
    datasets = _datasets(paths, dataset_dirs, dataset_weights, errors)
    init = init_weights or paths.get("init_weights")
    init = None if init is None else _existing("init_weights", init, errors)
    if config is not None and config.init_from is not None and init is None:
        message = "is resolved by a server; here, give the file by --init-weights too"
        errors.append(FieldError(pointer="/init_from", message=message))
    if errors or config is None or base is None:
        raise InvalidInput(errors, message=f"{file} cannot be trained.", hint=HINT)
    return Recipe(config, base, datasets, init)


def as_yaml(config: TrainConfig) -> str:
    """The whole configuration as a recipe that reads back as the same one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _mapping_in(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidInput([FieldError(pointer="", message=f"{file} cannot be read: {reason}")], hint=HINT) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise InvalidInput([FieldError(pointer="", message=f"{file} is not YAML{where}")], hint=HINT) from None
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise InvalidInput([FieldError(pointer="", message=f"{file} must hold settings by name")], hint=HINT)
    return {str(key): value for key, value in values.items()}


def _overrides(assignments: Sequence[str]) -> tuple[dict[str, Any], list[FieldError]]:
    overrides, errors = {}, []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            equals = ""
        if equals and key:
            overrides[key] = value
        else:
            errors.append(FieldError(pointer="", message=f"{assignment!r} is not key=value, such as lora.rank=8"))
    return overrides, errors


def _datasets(
    paths: Mapping[str, Any], dirs: Sequence[Path], weights: Sequence[float], errors: list[FieldError]
) -> tuple[DataSource, ...]:
    """The data sets that were given, else those of the recipe, else its one; what is wrong goes to ``errors``."""
    if weights and len(weights) != len(dirs):
        counted = f"{len(dirs)} --dataset-dir, {len(weights)} --dataset-weight"
        errors.append(FieldError(pointer="/paths/datasets", message=f"give a weight for each or for none: {counted}"))
        return ()
    if not dirs and "datasets" not in paths:
        only = _existing("dataset_dir", paths.get("dataset_dir"), errors)
        return () if only is None else (DataSource(path=only),)
    if not dirs and "dataset_dir" in paths:
        errors.append(FieldError(pointer="/paths/datasets", message="is given beside dataset_dir; keep one of the two"))
    wanted: Any = [{"path": str(path)} for path in dirs] if dirs else paths["datasets"]
    for entry, weight in zip(wanted, weights, strict=False):
        entry["weight"] = weight
    if not isinstance(wanted, list) or not 1 <= len(wanted) <= MOST_VERSIONS:
        message = f"must be a list of 1 to {MOST_VERSIONS} entries such as {{path: DIR, weight: 2}}"
        errors.append(FieldError(pointer="/paths/datasets", message=message))
        return ()
    found = []
    for number, entry in enumerate(wanted):
        try:
            source = DataSource.model_validate(entry)
        except ValidationError as error:
            errors += field_errors(error, f"/paths/datasets/{number}")
            continue
        if not source.path.exists():
            errors.append(FieldError(pointer=f"/paths/datasets/{number}/path", message=f"{source.path} does not exist"))
        found.append(source)
    return tuple(found)


def _existing(key: str, value: Any, errors: list[FieldError]) -> Path | None:
    option = "--" + key.replace("_", "-")
    if value is None:
        errors.append(FieldError(pointer=f"/paths/{key}", message=f"is not given; set it in the recipe or by {option}"))
    elif not Path(str(value)).exists():
        errors.append(FieldError(pointer=f"/paths/{key}", message=f"{value} does not exist"))
    else:
        return Path(str(value))
    return None

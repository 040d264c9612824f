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

from contracts.base import Denoising
from contracts.config import Frozen
from contracts.failures import FieldError, InvalidInput
from contracts.mistakes import field_errors, unknown
from contracts.mixing import MOST_VERSIONS, Weight
from contracts.objective import misfits
from contracts.train import TrainConfig, parse_config
from contracts.yamls import read_yaml

PATH_KEYS = ("base_dir", "dataset_dir", "datasets", "init_weights")
HINT = "docs/recipes.md lists every setting."
RECIPES = Path("configs/train")


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

    def as_yaml(self) -> str:
        """A file that reads back as this recipe."""
        paths: dict[str, Any] = {"base_dir": str(self.base_dir)}
        if len(self.datasets) == 1 and self.datasets[0].weight == 1:
            paths["dataset_dir"] = str(self.datasets[0].path)
        else:
            paths["datasets"] = [one.model_dump(mode="json") for one in self.datasets]
        if self.init_weights is not None:
            paths["init_weights"] = str(self.init_weights)
        return yaml.safe_dump({"paths": paths}, sort_keys=False, allow_unicode=True) + as_yaml(self.config)


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
    values, errors = _mapping_in(file)
    paths = values.pop("paths", None) or {}
    overrides, unreadable = _overrides(assignments)
    errors += unreadable
    if not isinstance(paths, dict):
        errors.append(FieldError(pointer="/paths", message="must hold base_dir, and dataset_dir or datasets"))
        paths = {}
    errors += [
        FieldError(pointer=f"/paths/{key}", message=unknown(str(key), PATH_KEYS))
        for key in paths
        if key not in PATH_KEYS
    ]
    config = None
    try:
        config = parse_config(values, overrides)
    except InvalidInput as error:
        errors += error.errors
    base = _existing("base_dir", base_dir, paths.get("base_dir"), errors)
    datasets = _datasets(paths, dataset_dirs, dataset_weights, errors)
    has_start = init_weights is not None or paths.get("init_weights") is not None
    init = _existing("init_weights", init_weights, paths.get("init_weights"), errors) if has_start else None
    init_from = overrides.get("init_from", values.get("init_from"))
    if init_from is not None and not has_start and all(error.pointer != "/init_from" for error in errors):
        message = "is resolved by a server; here, give the file by --init-weights too"
        errors.append(FieldError(pointer="/init_from", message=message))
    if errors or config is None or base is None:
        raise InvalidInput(errors, message=f"{file} cannot be trained.", hint=HINT)
    return Recipe(config, base, datasets, init)


def refuse_misfits(config: TrainConfig, base: Denoising) -> None:
    """Refuse an objective that cannot be had on a base that denoises so.

    Raises:
        InvalidInput: naming each setting that does not fit.
    """
    if errors := misfits(config.loss, base):
        raise InvalidInput(errors, message="The recipe does not fit the base.", hint=HINT)


def as_yaml(config: TrainConfig) -> str:
    """The whole configuration as a recipe that reads back as the same one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _mapping_in(file: Path) -> tuple[dict[str, Any], list[FieldError]]:
    """The settings of a recipe, and the keys that it gives more than once."""
    try:
        values, repeated = read_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise _unreadable(file, str(reason)) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        reason = f"it is no YAML: {where}{getattr(error, 'problem', None) or 'it holds what is no text'}"
        raise _unreadable(file, reason) from None
    if values is None:
        return {}, []
    if not isinstance(values, Mapping):
        raise _unreadable(file, "it must hold settings by name, such as steps: 100")
    return {str(key): value for key, value in values.items()}, repeated


def _unreadable(file: Path, reason: str) -> InvalidInput:
    named = RECIPES / f"{file.stem}.yaml"
    hint = f"Did you mean {named}?" if named.exists() and not file.is_file() else f"Recipes are YAML files; {HINT}"
    return InvalidInput([FieldError(pointer="", message=reason)], f"The recipe {file} cannot be read.", hint)


def _overrides(assignments: Sequence[str]) -> tuple[dict[str, Any], list[FieldError]]:
    overrides, errors = {}, []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        try:
            value, repeated = read_yaml(text)
        except yaml.YAMLError:
            equals, repeated = "", []
        if equals and key:
            overrides[key] = value
            inside = "/" + key.replace(".", "/")
            errors += [FieldError(pointer=inside + one.pointer, message=one.message) for one in repeated]
        else:
            errors.append(FieldError(pointer="", message=f"{assignment!r} is not key=value, such as lora.rank=8"))
    return overrides, errors


def _datasets(
    paths: Mapping[str, Any], dirs: Sequence[Path], weights: Sequence[float], errors: list[FieldError]
) -> tuple[DataSource, ...]:
    """The data sets that were given, else those of the recipe, else its one; what is wrong goes to ``errors``."""
    if weights and len(weights) != len(dirs):
        counted = f"{len(dirs)} --dataset-dir, {len(weights)} --dataset-weight: give one weight for each or none"
        errors.append(FieldError(pointer="", message=counted))
        return ()
    if dirs:
        return _named(dirs, weights or [1.0] * len(dirs), errors)
    if "datasets" not in paths:
        only = _existing("dataset_dir", None, paths.get("dataset_dir"), errors)
        return () if only is None else (DataSource(path=only),)
    if "dataset_dir" in paths:
        errors.append(FieldError(pointer="/paths/datasets", message="is given beside dataset_dir; keep one of the two"))
    wanted = paths["datasets"]
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


def _named(dirs: Sequence[Path], weights: Sequence[float], errors: list[FieldError]) -> tuple[DataSource, ...]:
    """The data sets of the command line; what is wrong is named by the option that says it."""
    if len(dirs) > MOST_VERSIONS:
        errors.append(FieldError(pointer="", message=f"--dataset-dir may be given {MOST_VERSIONS} times at most"))
    found = []
    for path, weight in zip(dirs, weights, strict=True):
        try:
            found.append(DataSource(path=path, weight=weight))
        except ValidationError as error:
            wrong = "; ".join(one.message for one in field_errors(error))
            errors.append(FieldError(pointer="", message=f"--dataset-weight {weight:g}: {wrong}"))
        if not path.exists():
            errors.append(FieldError(pointer="", message=f"--dataset-dir {path} does not exist"))
    return tuple(found)


def _existing(key: str, option: Path | None, setting: Any, errors: list[FieldError]) -> Path | None:
    """What the option says, else the recipe; what does not exist is named by whichever said it."""
    name = "--" + key.replace("_", "-")
    value = option or setting
    if value is None:
        errors.append(FieldError(pointer=f"/paths/{key}", message=f"is not given; set it in the recipe or by {name}"))
    elif Path(str(value)).exists():
        return Path(str(value))
    elif option is not None:
        errors.append(FieldError(pointer="", message=f"{name} {value} does not exist"))
    else:
        errors.append(FieldError(pointer=f"/paths/{key}", message=f"{value} does not exist"))
    return None

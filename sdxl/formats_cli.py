"""`python -m sdxl.formats`: look into weights files and bring them into other dialects and layouts.

    python -m sdxl.formats inspect FILE [--json]
    python -m sdxl.formats convert IN OUT --dialect kohya|diffusers|peft
    python -m sdxl.formats export-full WEIGHTS --base BASE [--single-file FILE] [--folder DIR] [--dtype fp16] [--force]

Exit status 0 for done, 1 after an error that is explained, 2 for misuse. Knows nothing about how any of it is done.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console
from rich.table import Table

from contracts.failures import FailureCode, PatinaError
from sdxl import dialects, tensor_files
from sdxl.dialects import Dialect
from sdxl.exporting import export_folder, export_single_file, open_whole
from sdxl.files import open_base
from sdxl.full import is_full
from sdxl.inspecting import Inspection, inspect
from sdxl.readers import misreadings

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
FAILED = 1


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    # What is shown comes from files: a bracket in it is no markup.
    console = Console(highlight=False, markup=False, emoji=False)
    try:
        if options.verb == "inspect":
            _inspect(options, console)
        elif options.verb == "convert":
            _convert(options, console)
        else:
            _export_full(options, console)
    except PatinaError as error:
        _explain(error.message, error.hint)
        return FAILED
    except OSError as error:
        _explain(f"{error.strerror}: {error.filename or ''}", "Nothing was left under the file's name.")
        return FAILED
    return 0


def _inspect(options: argparse.Namespace, console: Console) -> None:
    found = inspect(options.file)
    if options.json:
        console.print(found.model_dump_json(), markup=False, soft_wrap=True)
    else:
        _show(found, console)


def _convert(options: argparse.Namespace, console: Console) -> None:
    _refuse_what_is_there(options.out, options.force)
    _refuse_full(options.file)
    adapter = dialects.read(options.file)
    dialects.write(options.out, adapter.modules, adapter.metadata, options.dialect)
    dora = any(module.magnitude is not None for module in adapter.modules.values())
    for warning in misreadings(adapter.alphas, options.dialect, dora=dora):
        console.print(f"note: {warning}", markup=False, soft_wrap=True)
    console.print(
        f"{len(adapter.modules)} modules, {adapter.dialect} → {options.dialect}: {options.out}",
        markup=False,
        soft_wrap=True,
    )


def _export_full(options: argparse.Namespace, console: Console) -> None:
    if options.single_file is None and options.folder is None:
        raise PatinaError(
            FailureCode.INVALID_INPUT, "Nothing to write.", "Give --single-file FILE, --folder DIR, or both."
        )
    if options.folder is not None:
        _refuse_what_is_there(options.folder, None)
    if options.single_file is not None:
        _refuse_what_is_there(options.single_file, options.force)
    base = open_base(options.base, config_dir=options.config_dir)
    whole = open_whole(base, options.weights, cache_dir=options.cache_dir)
    dtype = DTYPES.get(options.dtype)
    if options.folder is not None:
        export_folder(whole, options.folder, dtype)
        console.print(f"diffusers folder: {options.folder}", markup=False, soft_wrap=True)
    if options.single_file is not None:
        export_single_file(whole, options.single_file, dtype)
        console.print(f"single file: {options.single_file}", markup=False, soft_wrap=True)


def _refuse_what_is_there(out: Path, force: bool | None) -> None:
    """Nothing is written over unasked, and a folder never; ``force`` is None where no file is either."""
    if out.exists() and not (force and out.is_file()):
        raise PatinaError(
            FailureCode.CONFLICT,
            f"There is something at {out} already.",
            "Choose another name, or give --force to replace it."
            if force is not None and out.is_file()
            else "Choose another name.",
        )


def _refuse_full(path: Path) -> None:
    if path.is_file():
        with tensor_files.opened(path) as file:
            full = is_full(tensor_files.names_of(file))
        if full:
            raise PatinaError(
                FailureCode.WEIGHTS_UNREADABLE,
                f"{path.name} is a full fine-tune, which has no dialects: it is the tensors of the model themselves.",
                "`python -m sdxl.formats export-full` makes a whole checkpoint of it and its base.",
            )


def _show(found: Inspection, console: Console) -> None:
    facts = Table(show_header=False, box=None, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for name, value in found.facts().items():
        facts.add_row(name, value)
    console.print(facts)
    if found.components:
        parts = Table(box=None, pad_edge=False)
        for column in ("component", "modules", "linear", "conv", "DoRA", "rank", "alpha", "parameters"):
            parts.add_column(column, justify="left" if column == "component" else "right")
        for part in found.components:
            parts.add_row(*part.row())
        console.print()
        console.print(parts)
    if found.metadata:
        said = Table(show_header=False, box=None, pad_edge=False)
        said.add_column(style="dim")
        said.add_column(overflow="fold")
        for name, value in sorted(found.metadata.items()):
            said.add_row(name, value if len(value) <= 160 else f"{value[:160]}… ({len(value)} characters)")
        console.print()
        console.print(said)


def _explain(message: str, hint: str) -> None:
    Console(stderr=True).print(f"error: {message}\n{hint}", markup=False, highlight=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sdxl.formats", description="Weights files of SDXL.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    looking = verbs.add_parser(
        "inspect", help="what a weights file or a PEFT folder holds, and the hashes it is known by"
    )
    looking.add_argument("file", type=Path)
    looking.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    converting = verbs.add_parser("convert", help="a LoRA into another dialect, without loss")
    converting.add_argument("file", type=Path, metavar="IN", help="file or PEFT folder, in any dialect")
    converting.add_argument("out", type=Path, metavar="OUT", help="file, or folder with --dialect peft")
    converting.add_argument("--dialect", choices=get_args(Dialect), required=True)
    converting.add_argument("--force", action="store_true", help="replace a file that is there")
    exporting = verbs.add_parser("export-full", help="a full fine-tune as a whole checkpoint")
    exporting.add_argument("weights", type=Path, help="RUN_DIR/weights/NAME.safetensors of a run with method: full")
    exporting.add_argument("--base", type=Path, required=True, help="the base it was trained on: folder or file")
    exporting.add_argument(
        "--config-dir", type=Path, help="configs of a base that is a file of another shape than SDXL 1.0"
    )
    exporting.add_argument("--single-file", type=Path, help="write one .safetensors in the original SDXL layout")
    exporting.add_argument("--force", action="store_true", help="replace a single file that is there")
    exporting.add_argument("--folder", type=Path, help="write a diffusers folder")
    exporting.add_argument("--dtype", choices=tuple(DTYPES), help="of all weights (as they are)")
    exporting.add_argument(
        "--cache-dir", type=Path, default=_default_cache(), help="where identities of bases are kept (%(default)s)"
    )
    return parser


def _default_cache() -> Path:
    return Path(os.environ.get("PATINA_CACHE") or Path(os.environ.get("PATINA_HOME") or ".patina") / "cache")

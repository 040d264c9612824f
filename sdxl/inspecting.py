"""What a weights file is, said in full: kind, dialect, modules, ranks, alphas, hashes and its own words.

Knows nothing about how it is shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from contracts.adapter import AdapterHeader
from contracts.config import Frozen
from contracts.failures import PatinaError
from sdxl import dialects, original, tensor_files
from sdxl.adapter import COMPONENTS, AdapterModule, in_component
from sdxl.family import refuse_foreign_file
from sdxl.full import is_full, keys_by_component
from sdxl.hashes import auto_v1, file_hash, tail_hash
from sdxl.tensor_files import MODEL_HASH, TAIL_HASH

AUTO_V2_CHARACTERS = 10
SHORT_CHARACTERS = 12
"""Of AutoV3, as UIs show it."""


class Part(Frozen):
    """The modules of one component."""

    component: str
    modules: int
    linear: int
    convolutions: int
    dora: int
    ranks: tuple[int, ...]
    alphas: tuple[float, ...]
    parameters: int

    def row(self) -> tuple[str, ...]:
        """Its cells in a table."""
        return (
            self.component,
            str(self.modules),
            str(self.linear),
            str(self.convolutions),
            str(self.dora),
            _few(self.ranks),
            _few(self.alphas),
            f"{self.parameters:,}",
        )


class Inspection(Frozen):
    """What was found."""

    name: str
    kind: str
    bytes: int
    dtypes: tuple[str, ...]
    components: tuple[Part, ...]
    header: AdapterHeader | None
    auto_v1: str | None
    auto_v2: str | None
    auto_v3: str | None
    hash_problem: str | None
    """What a hash in the header says that is not so."""
    metadata: dict[str, str]

    def facts(self) -> dict[str, str]:
        """The single facts, by what they are called."""
        found = {"file": self.name, "kind": self.kind, "size": f"{self.bytes:,} bytes, {', '.join(self.dtypes)}"}
        if self.header is not None:
            found |= {
                "made by Patina": f"{self.header.name}, {self.header.steps} steps, {self.header.created}",
                "base": self.header.base_identity,
                "trigger word": self.header.trigger_word or "none",
            }
            if strengths := self.header.strength_pattern:
                found["strengths"] = ", ".join(f"{one} at {strength:g}" for one, strength in strengths.items())
        if self.auto_v2 and self.auto_v3:
            found |= {
                "AutoV1": self.auto_v1 or "none (under 2 MiB)",
                "AutoV2": self.auto_v2,
                "AutoV3": f"{self.auto_v3[:SHORT_CHARACTERS]} ({self.auto_v3})",
                "header's hashes": self.hash_problem or "agree with the tensors, as far as there are any",
            }
        return found


def inspect(path: Path) -> Inspection:
    """Look into a LoRA of any dialect, a full fine-tune or a whole checkpoint.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE, it is none of these, with the reason.
    """
    if path.is_dir():
        adapter = dialects.read(path)
        files = sorted(path.rglob(dialects.PEFT_WEIGHTS))
        return _inspection(path, "LoRA in a PEFT folder", files, _parts(adapter), adapter.metadata)
    with tensor_files.opened(path) as file:
        names, metadata = tensor_files.names_of(file), file.metadata() or {}
    if any("lora" in name or "dora_scale" in name for name in names):
        adapter = dialects.read(path)
        kind = f"LoRA in {'kohya' if adapter.dialect == 'kohya' else 'diffusers'}'s dialect"
        return _inspection(path, kind, [path], _parts(adapter), metadata)
    return _inspection(path, _kind_of_checkpoint(path, names), [path], (), metadata)


def _inspection(
    path: Path, kind: str, files: list[Path], parts: tuple[Part, ...], metadata: dict[str, str]
) -> Inspection:
    single = path if path.is_file() else None
    return Inspection(
        name=path.name,
        kind=kind,
        bytes=sum(file.stat().st_size for file in files),
        dtypes=tuple(sorted({dtype for file in files for dtype in _dtypes(file)})),
        components=parts,
        header=AdapterHeader.from_metadata(metadata),
        auto_v1=auto_v1(single) if single else None,
        auto_v2=file_hash(single)[:AUTO_V2_CHARACTERS] if single else None,
        auto_v3=(tail := tail_hash(single)) if single else None,
        hash_problem=_hash_problem(metadata, tail) if single else None,
        metadata={key: value for key, value in metadata.items() if key != "patina.header"},
    )


def _parts(adapter: dialects.Adapter) -> tuple[Part, ...]:
    found = []
    for component in COMPONENTS:
        inside: Iterable[AdapterModule] = in_component(adapter.modules, component).values()
        modules = list(inside)
        if modules:
            found.append(
                Part(
                    component=component,
                    modules=len(modules),
                    linear=sum(module.down.ndim == 2 for module in modules),
                    convolutions=sum(module.down.ndim == 4 for module in modules),
                    dora=sum(module.magnitude is not None for module in modules),
                    ranks=tuple(sorted({module.rank for module in modules})),
                    alphas=tuple(sorted({module.alpha for module in modules})),
                    parameters=sum(module.down.numel() + module.up.numel() for module in modules),
                )
            )
    return tuple(found)


def _kind_of_checkpoint(path: Path, names: list[str]) -> str:
    with tensor_files.opened(path) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    if is_full(names):
        parts = keys_by_component(names)
        return f"full fine-tune: {', '.join(f'{part} ({len(keys)} tensors)' for part, keys in parts.items())}"
    try:
        refuse_foreign_file(shapes)
    except PatinaError as error:
        raise tensor_files.unreadable(
            f"{path.name} is no LoRA, no full fine-tune and no SDXL checkpoint. {error.message}"
        ) from None
    counts = {part: sum(n.startswith(prefix) for n in names) for part, prefix in original.PREFIXES.items()}
    return f"SDXL checkpoint: {', '.join(f'{part} ({count} tensors)' for part, count in counts.items())}"


def _dtypes(path: Path) -> set[str]:
    with tensor_files.opened(path) as file:
        return {file.get_slice(name).get_dtype() for name in tensor_files.names_of(file)}


def _hash_problem(metadata: dict[str, str], tail: str) -> str | None:
    said = {key: metadata[key] for key in (TAIL_HASH, MODEL_HASH) if key in metadata}
    wrong = [key for key, value in said.items() if value.removeprefix("0x").lower() != tail]
    return f"{', '.join(wrong)} says another hash than the tensors have" if wrong else None


def _few(values: tuple[float, ...]) -> str:
    words = [f"{value:g}" for value in values]
    return ", ".join(words) if len(words) <= 4 else f"{words[0]} … {words[-1]} ({len(words)})"

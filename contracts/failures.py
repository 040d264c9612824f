"""What can go wrong, in words a person can act on: one table of codes, messages and hints.

Knows nothing about HTTP statuses (api/errors.py) or about who raises what.

    PatinaError            a refusal or failure with a code; its text may be shown to the user
      InvalidInput         one or more fields are wrong; all of them are listed
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from contracts.config import Frozen


class FailureCode(StrEnum):
    """Stable names clients may branch on."""

    INVALID_INPUT = "invalid_input"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    CONFLICT = "conflict"
    HAS_OFFSPRING = "has_offspring"
    PRECONDITION_FAILED = "precondition_failed"
    PRECONDITION_REQUIRED = "precondition_required"
    FORBIDDEN_ORIGIN = "forbidden_origin"
    UNAUTHENTICATED = "unauthenticated"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    TOO_LARGE = "too_large"
    STORAGE_FULL = "storage_full"
    BAD_UPLOAD_HEADERS = "bad_upload_headers"
    UNSUPPORTED_PROTOCOL = "unsupported_protocol"
    CHECKSUM_MISMATCH = "checksum_mismatch"
    NOT_A_ZIP = "not_a_zip"
    EMPTY_DATASET = "empty_dataset"
    DOUBTFUL_DATASET = "doubtful_dataset"
    UNFINISHED_INGEST = "unfinished_ingest"
    UNKNOWN_RECIPE = "unknown_recipe"
    UNKNOWN_BASE = "unknown_base"
    BASE_UNREADABLE = "base_unreadable"
    BASE_MISMATCH = "base_mismatch"
    DATASET_UNREADABLE = "dataset_unreadable"
    WEIGHTS_UNREADABLE = "weights_unreadable"
    CHECKPOINT_MISMATCH = "checkpoint_mismatch"
    NAN_LATENT = "nan_latent"
    NAN_LOSS = "nan_loss"
    OUT_OF_MEMORY = "out_of_memory"
    DISK_FULL = "disk_full"
    WORKER_LOST = "worker_lost"
    CANCELLED = "cancelled"
    BROKER_UNAVAILABLE = "broker_unavailable"
    DATABASE_BUSY = "database_busy"
    PORT_IN_USE = "port_in_use"
    HOME_UNUSABLE = "home_unusable"
    ALREADY_RUNNING = "already_running"
    SERVER_UNREACHABLE = "server_unreachable"
    INTERNAL = "internal"


class FailureText(Frozen):
    """The default words for a code; a raiser may say something more exact."""

    message: str
    hint: str
    retryable: bool = False
    """Whether trying the same thing again can succeed without anyone changing anything."""


FAILURES: dict[FailureCode, FailureText] = {
    FailureCode.INVALID_INPUT: FailureText(
        message="The request has fields that cannot be accepted.", hint="Correct every field listed and send it again."
    ),
    FailureCode.NOT_FOUND: FailureText(
        message="There is no such thing here.", hint="Check the id; list what exists with the matching ls command."
    ),
    FailureCode.METHOD_NOT_ALLOWED: FailureText(
        message="The address exists, but not for this method.", hint="See /docs for what each address does."
    ),
    FailureCode.CONFLICT: FailureText(
        message="The thing is not in a state that allows this.", hint="Read it again and decide from its status."
    ),
    FailureCode.HAS_OFFSPRING: FailureText(
        message="Versions, runs or weights came of it.", hint="Say what shall become of them: `keep` or `remove`."
    ),
    FailureCode.PRECONDITION_FAILED: FailureText(
        message="It has changed since you read it.",
        hint="Read it again, look at what changed, and send the change anew.",
    ),
    FailureCode.PRECONDITION_REQUIRED: FailureText(
        message="The change does not say what it was based on.",
        hint="Send If-Match with the ETag of what you read, or If-Match: * to change it whatever it is now.",
    ),
    FailureCode.FORBIDDEN_ORIGIN: FailureText(
        message="The request came from another site or under a foreign host name.",
        hint="Call the server by the address it is bound to, from its own pages or without an Origin header.",
    ),
    FailureCode.UNAUTHENTICATED: FailureText(
        message="The API key is missing or not known.",
        hint="Send Authorization: Bearer KEY, or set PATINA_API_KEY for `patina`; `patina keys create NAME` makes one.",
    ),
    FailureCode.UNSUPPORTED_MEDIA_TYPE: FailureText(
        message="The body's content type is not accepted here.", hint="Send application/json (or multipart for files)."
    ),
    FailureCode.TOO_LARGE: FailureText(
        message="The upload is over a limit.", hint="Send less at once, or raise the limit in the server's settings."
    ),
    FailureCode.STORAGE_FULL: FailureText(
        message="The server's disk is nearly full.",
        hint="Free space on the server, or lower PATINA_DISK_RESERVE_BYTES there; `patina df` says what uses how much.",
        retryable=True,
    ),
    FailureCode.BAD_UPLOAD_HEADERS: FailureText(
        message="The headers of the upload cannot be read.", hint="Send them as the tus protocol 1.0.0 describes."
    ),
    FailureCode.UNSUPPORTED_PROTOCOL: FailureText(
        message="The upload speaks another version of the tus protocol.", hint="Send Tus-Resumable: 1.0.0."
    ),
    FailureCode.CHECKSUM_MISMATCH: FailureText(
        message="What arrived is not what was sent.", hint="Send it again from the same offset.", retryable=True
    ),
    FailureCode.NOT_A_ZIP: FailureText(
        message="The file is named .zip but is not a zip archive.",
        hint="Pack the folder again with any zip tool, or upload the files themselves.",
    ),
    FailureCode.EMPTY_DATASET: FailureText(
        message="The dataset has no usable image.", hint="Read its ledger: every file's fate and the reason are there."
    ),
    FailureCode.DOUBTFUL_DATASET: FailureText(
        message="The dataset is probably not what was meant.",
        hint="Correct it, or freeze it as it is with accept_warnings (`patina datasets freeze --yes`).",
    ),
    FailureCode.UNFINISHED_INGEST: FailureText(
        message="Uploaded files are still being read.", hint="Wait until the dataset's status is ready.", retryable=True
    ),
    FailureCode.UNKNOWN_RECIPE: FailureText(
        message="There is no recipe of that name.", hint="Recipes are the files in configs/train; name one of them."
    ),
    FailureCode.UNKNOWN_BASE: FailureText(
        message="There is no base of that name.",
        hint="List the bases with `patina bases ls`; add one with `patina bases add`.",
    ),
    FailureCode.BASE_UNREADABLE: FailureText(
        message="The base model cannot be read.",
        hint="It must be an SDXL diffusers folder or a single-file .safetensors checkpoint.",
    ),
    FailureCode.BASE_MISMATCH: FailureText(
        message="The weights belong to another base.", hint="Generate on the base they were trained on."
    ),
    FailureCode.DATASET_UNREADABLE: FailureText(
        message="The dataset cannot be read.", hint="Freeze it again, or pass a folder of images with captions."
    ),
    FailureCode.WEIGHTS_UNREADABLE: FailureText(
        message="The weights file cannot be read.",
        hint="It must be a LoRA or a full fine-tune in safetensors form that fits the base.",
    ),
    FailureCode.CHECKPOINT_MISMATCH: FailureText(
        message="The checkpoint belongs to another configuration.",
        hint="Resume with the configuration it was made with, or start in a new run directory.",
    ),
    FailureCode.NAN_LATENT: FailureText(
        message="An image's latent is not a finite number.",
        hint="The VAE overflowed: set its config's force_upcast, or use an fp16-safe VAE.",
    ),
    FailureCode.NAN_LOSS: FailureText(
        message="The loss is not a finite number.", hint="Lower the learning rate or use bf16 or fp32."
    ),
    FailureCode.OUT_OF_MEMORY: FailureText(
        message="The device ran out of memory.",
        hint="Lower batch_size (raise gradient_accumulation_steps by as much), or turn on gradient_checkpointing.",
    ),
    FailureCode.DISK_FULL: FailureText(
        message="There is not enough room on the disk for the run.",
        hint="Free some, or keep less (checkpoint.keep, held_out.keep_best); started again it goes on where it was.",
        retryable=True,
    ),
    FailureCode.WORKER_LOST: FailureText(
        message="The process doing the work disappeared.", hint="Read the run's log for its last words.", retryable=True
    ),
    FailureCode.CANCELLED: FailureText(message="Cancelled on request.", hint="Nothing to do."),
    FailureCode.BROKER_UNAVAILABLE: FailureText(
        message="The message broker does not answer.",
        hint="The work is kept and starts when it is back.",
        retryable=True,
    ),
    FailureCode.DATABASE_BUSY: FailureText(
        message="The database is busy with other work.", hint="Wait a few seconds and send it again.", retryable=True
    ),
    FailureCode.PORT_IN_USE: FailureText(
        message="The port is already in use.", hint="Choose another with `patina up --port N`."
    ),
    FailureCode.HOME_UNUSABLE: FailureText(
        message="PATINA_HOME cannot be written.", hint="Give a folder you can write: PATINA_HOME=DIR patina up."
    ),
    FailureCode.ALREADY_RUNNING: FailureText(
        message="Another Patina runs on this home.", hint="Use that one, stop it, or choose another PATINA_HOME."
    ),
    FailureCode.SERVER_UNREACHABLE: FailureText(
        message="No Patina server answers.", hint="Start it with `patina up`, or set PATINA_API_URL.", retryable=True
    ),
    FailureCode.INTERNAL: FailureText(
        message="Something unexpected went wrong.", hint="Quote the reference id to whoever runs the server."
    ),
}


class FieldError(Frozen):
    """One wrong field, by JSON pointer (RFC 6901) into the request."""

    pointer: str
    message: str


def pointer_to(parts: Sequence[int | str]) -> str:
    """The JSON pointer (RFC 6901) to what lies under these keys and places."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def keys_in(pointer: str) -> list[str]:
    """The keys of a JSON pointer."""
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def dotted(pointer: str) -> str:
    """What a JSON pointer into a recipe points at, as settings are called."""
    return ".".join(keys_in(pointer))


class PatinaError(Exception):
    """A refusal or failure whose text may be shown: code, message, what to do next.

    Args:
        code: the stable name; it also gives the default words.
        message: a more exact sentence than the table's.
        hint: a more exact next step than the table's.
    """

    def __init__(self, code: FailureCode, message: str | None = None, hint: str | None = None) -> None:
        self.code = code
        self.message = message or FAILURES[code].message
        self.hint = hint or FAILURES[code].hint
        super().__init__(f"{self.message} {self.hint}")


class InvalidInput(PatinaError):
    """Fields are wrong; ``errors`` lists every one of them, never only the first."""

    def __init__(self, errors: Sequence[FieldError], message: str | None = None, hint: str | None = None) -> None:
        self.errors = tuple(errors)
        super().__init__(FailureCode.INVALID_INPUT, message, hint)
        told = "; ".join(f"{e.pointer or '/'}: {e.message}" for e in self.errors)
        self.args = (f"{self.message} {told}" + ("" if told.endswith(("?", ".")) else "."),)


NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
NAME_WORDS = "use a-z, 0-9, '.', '_' and '-', beginning with a letter or digit, at most 64 characters"

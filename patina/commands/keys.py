"""`patina keys`: API keys, made in the server's own database because whoever can reach it needs no key."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from patina.child import ask
from patina.output import AsJson, facts, give, rows
from patina.settings import environment_of, read_settings
from patina.times import when

app = typer.Typer(help="API keys of this server; run where the server runs.", no_args_is_help=True)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    owner: Annotated[
        str, typer.Option(help="Whose things the key reaches; `local` shares those made without.")
    ] = "local",
    as_json: AsJson = False,
) -> None:
    """Make a key. It is shown once."""
    made = ask("patina.local", "create-key", name, owner, environment=environment_of(read_settings()))
    lines = [("key", Text(made["key"], style="bold")), ("name", made["name"]), ("owner", made["owner"])]
    give(made, as_json, lambda: facts([*lines, ("note", "Keep it now: only its hash is stored.")]))


@app.command("ls")
def ls(as_json: AsJson = False) -> None:
    """List everybody's keys, without their secrets."""
    found = ask("patina.local", "list-keys", environment=environment_of(read_settings()))
    columns = ("id", "name", "owner", "created", "last used", "ended")
    times = ("created_at", "last_used_at", "revoked_at")
    lines = ((k["id"], k["name"], k["owner"], *(when(k[time]) for time in times)) for k in found["items"])
    give(found, as_json, lambda: rows(columns, lines, "There is no key; on loopback none is needed."))


@app.command("rm")
def rm(
    key: Annotated[str, typer.Argument(help="Id of the key, as `patina keys ls` shows it.")], as_json: AsJson = False
) -> None:
    """End a key: it opens nothing from now on."""
    ended = ask("patina.local", "revoke-key", key, environment=environment_of(read_settings()))
    give(ended, as_json, lambda: facts([("ended", ended["id"]), ("name", ended["name"]), ("owner", ended["owner"])]))

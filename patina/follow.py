"""Shows a run on the terminal while it happens: redrawn where there is one, line by line where there is not."""

from __future__ import annotations

import contextlib
import json

from pydantic import ValidationError
from rich.live import Live

from contracts.events import EVENT
from patina.client import Client
from patina.events import Message
from patina.output import console
from patina.watch import RunView, absorb, line, picture

REDRAWS_PER_S = 4


def follow(client: Client, run_id: str, quiet: bool = False) -> RunView:
    """Follow a run to its end; what was seen.

    Args:
        quiet: shows nothing, for callers that print one document at the end.
    """
    view = RunView(name=str(client.run(run_id)["name"] or run_id))
    redrawn = console.is_terminal and not quiet
    live = Live(picture(view), console=console, refresh_per_second=REDRAWS_PER_S) if redrawn else None
    with live or contextlib.nullcontext():
        for message in client.run_events(run_id):
            told = _take(view, message)
            if live is not None:
                live.update(picture(view))
            elif told is not None and not quiet:
                console.print(told, highlight=False, markup=False, soft_wrap=True)
    return view


def _take(view: RunView, message: Message) -> str | None:
    """The view with the message in it; a line about it, if it is worth one."""
    if message.event == "status":
        before = view.status
        said = json.loads(message.data)
        view.status, view.reason = said["status"], said["explanation"]
        return view.status if view.status != before else None
    try:
        event = EVENT.validate_json(message.data)
    except ValidationError:  # a newer server knows more words
        return None
    absorb(view, event)
    return line(view, event)

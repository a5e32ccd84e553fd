"""What nodes say is shown, and does nothing to the terminal."""

from __future__ import annotations

import io
import json
import sys

import pytest
from invoke import Context, Exit
from rich.console import Console

import tasks
from beowulf import status, terminal
from beowulf.errors import Failure

HOSTILE = "\x1b[2J\x1b]52;c;aWQ=\x07\x9b1A\u202eevil"
SPELLED = r"\x1b[2J\x1b]52;c;aWQ=\x07\x9b1A\u202eevil"


def act(capsys, body):
    """Run a task whose body this is; return what it printed."""
    with pytest.raises(Exit) as ended:
        tasks.plainly(body)(Context())
    shown = capsys.readouterr()
    return shown.out, shown.err, ended.value


def test_what_a_task_prints_and_why_it_fails_is_plain(capsys):
    def body(_context):
        print(f"gamma says {HOSTILE}")
        print(HOSTILE, file=sys.stderr)
        raise Failure(f"gamma: {HOSTILE}")

    out, err, ended = act(capsys, body)
    assert (out, err) == (f"gamma says {SPELLED}\n", f"{SPELLED}\n")
    assert (ended.message, ended.code) == (f"gamma: {SPELLED}", 1)


def test_every_task_is_plain():
    """One that is not wrapped prints what nodes say as it is."""
    for name in tasks.ns.task_names:
        assert hasattr(tasks.ns[name].body, "__wrapped__"), name


def test_a_screen_of_the_state_is_plain():
    node = {"type": "compute", "address": "10.77.0.21", "up": True, "clock": 0.0, "dhcp": f"[/bold]{HOSTILE}"}
    run = {"playbook": HOSTILE, "status": HOSTILE, "started": HOSTILE, "url": HOSTILE}
    state = {
        "cluster": "lab", "nodes": {"gamma": node}, "vip_holders": [], "lanservices": [], "serials": {}, "last_run": run,
        "k3s": {f"[red]{HOSTILE}": {"ready": True, "version": HOSTILE}}, "k3s_members": {}, "problems": [f"gamma is down ({HOSTILE})"],
    }  # fmt: skip
    written = io.StringIO()
    Console(width=400, file=written).print(status.screen(state))
    shown = written.getvalue()
    assert not [letter for letter in shown if not letter.isprintable() and letter != "\n"]
    assert shown.count(SPELLED) == 7  # of the time the beginning is shown
    assert "[/bold]" in shown


def test_data_stays_what_it_is_but_for_its_texts():
    assert terminal.plain_data({"a": [1, None, HOSTILE], "b": ("x", 0.5)}) == {"a": [1, None, SPELLED], "b": ["x", 0.5]}
    assert json.loads(tasks.dump({"a": HOSTILE})) == {"a": HOSTILE}

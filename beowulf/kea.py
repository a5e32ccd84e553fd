"""Kea's DHCP server on the LAN servers, asked by the program that role dhcp installs beside it."""

from __future__ import annotations

import json
from typing import Any

PROGRAM = "/usr/local/lib/beowulf/kea_control.py"


def question(command: str, **arguments: Any) -> list[str]:
    """Return the command that gives Kea one of its own commands, as root on its node; it prints Kea's answer as JSON."""
    return ["python3", PROGRAM, command, *([json.dumps(arguments)] if arguments else [])]

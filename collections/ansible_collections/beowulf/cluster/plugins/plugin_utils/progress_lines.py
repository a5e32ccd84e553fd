# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The words of the progress display: pure functions from what happened to lines of text."""

from __future__ import annotations

import re
import textwrap
import typing as t
from collections.abc import Iterable, Mapping, Sequence

NAMED = 8
TAIL = 25

# What people meet on such clusters, and what helps. The first one that is found in a message is shown.
HINTS = (
    (
        r"Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED|No .* host key is known",
        "the node's host key is not the known one; for a reinstalled board, replace its line in known_hosts (docs/boards.md)",
    ),
    (
        r"Permission denied \(|Too many authentication failures",
        "the node does not accept the key in ssh.private_key of the rack file, or not for this user",
    ),
    (
        r"Connection timed out|No route to host|Connection refused|Connection closed|Host is down|timed out during banner",
        "is the node on, and on this network? ./bootstrap status shows who answers",
    ),
    (r"Could not resolve hostname", "the node is not known under this name; ansible_host should be its address"),
    (
        r"Missing sudo password|a password is required|is not in the sudoers file",
        "the user on the node needs sudo without a password",
    ),
    (
        r"Could not get lock|dpkg frontend lock|is another process using it",
        "another package manager is at work on the node; run the same command again in a minute",
    ),
    (
        r"Temporary failure (?:in name resolution|resolving)|Could not resolve '|Name or service not known",
        "the node cannot look up names: are the lanservices and the router up?",
    ),
    (
        r"Failed to fetch|Unable to connect to|Failed to update apt cache",
        "the node does not reach its package mirror: does the router's uplink work?",
    ),
    (r"No space left on device", "a file system of the node is full: df -h on {node}"),
    (r"Read-only file system", "a file system of the node is read-only: often a worn SD card; dmesg on {node}"),
    (r"Cannot allocate memory|MemoryError|Killed", "the node is out of memory: free -m on {node}"),
    (r"python3?: (?:command )?not found|No such file or directory.*python3", "the node has no Python: its image is not a usual one"),
    (r"is undefined", "a variable is missing: ./bootstrap rack.check, then inventory/group_vars"),
)


def clock(seconds: float) -> str:
    """Say a time since the beginning: 75 is `1:15`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def duration(seconds: float) -> str:
    """Say how long something took: 7 is `7 s`, 75 is `1 min 15 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def names(hosts: Iterable[str]) -> str:
    """List hosts, but not hundreds of them."""
    listed = sorted(hosts)
    if len(listed) <= NAMED:
        return ", ".join(listed)
    return f"{', '.join(listed[:NAMED])} and {len(listed) - NAMED} more"


def outcome(states: Mapping[str, Iterable[str]]) -> str:
    """Say how a task ended on its hosts: the good ones are counted, those worth a look are named."""
    words = []
    for state in ("unreachable", "failed", "ignored", "changed"):
        if hosts := states.get(state):
            words.append(f"{state.upper() if state in ('unreachable', 'failed') else state}: {names(hosts)}")
    if fine := len(list(states.get("ok", ()))):
        words.append(f"{fine} ok")
    return ", ".join(words)


def hint(node: str, message: str) -> str | None:
    """Return what to do about a message, if it is one that is known."""
    for pattern, advice in HINTS:
        if re.search(pattern, message):
            return advice.format(node=node)
    return None


def plain(text: str) -> str:
    """Return a text of which a terminal does nothing but show it: escape sequences and what turns the direction of writing are spelled out.

    Nodes say what they like. Lines and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in "\n\t" else letter.encode("unicode_escape").decode() for letter in text)


def tail(text: str) -> str:
    """Return the end of a long text: what matters is said there."""
    lines = text.rstrip().splitlines()
    if len(lines) > TAIL:
        lines = [f"({len(lines) - TAIL} lines before)", *lines[-TAIL:]]
    return "\n".join(lines)


def field(label: str, text: str) -> list[str]:
    """Write one part of a result, on the line of its label when it is short."""
    lines = plain(tail(text)).split("\n")
    if len(lines) == 1:
        return [f"{label}: {lines[0]}"]
    return [f"{label}:", *textwrap.indent("\n".join(lines), "    ").splitlines()]


def failure(node: str, result: Mapping[str, t.Any]) -> list[str]:
    """Write a failed result in full: message, command, return code, output, and what helps."""
    items = [item for item in result.get("results") or () if isinstance(item, Mapping)]
    failed = [item for item in items if item.get("failed") or item.get("unreachable")]
    if failed:
        lines = []
        for item in failed:
            label = item.get("_ansible_item_label", item.get("item"))
            lines += [f"item {plain(str(label))}:", *textwrap.indent("\n".join(failure(node, item)), "    ").splitlines()]
        return lines
    lines = []
    if "censored" in result:
        lines += field("msg", str(result["censored"]))
    if message := str(result.get("msg") or ""):
        lines += field("msg", message)
    if command := result.get("cmd"):
        lines += field("cmd", " ".join(map(str, command)) if isinstance(command, list) else str(command))
    if "rc" in result:
        lines += field("rc", str(result["rc"]))
    texts = {key: str(result.get(key) or "").strip() for key in ("stderr", "stdout", "module_stderr", "module_stdout")}
    for key, text in texts.items():
        if text and text not in message:
            lines += field(key, text)
    if advice := hint(node, "\n".join([message, *texts.values()])):
        lines.append(f"hint: {advice}")
    return lines or ["no reason was given"]


def table(head: Sequence[str], rows: Iterable[Sequence[t.Any]]) -> list[str]:
    """Set rows in columns: the first to the left, numbers to the right."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]

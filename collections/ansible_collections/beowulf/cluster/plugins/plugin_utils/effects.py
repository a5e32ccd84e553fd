# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task that changed something did to a node, or would do: which files, units and packages, whatever the task is called.

A check and the run after it give the same list when the check tells the truth.
"""

from __future__ import annotations

import typing as t
from collections import defaultdict
from collections.abc import Iterable, Mapping

VERBS = {"restarted": "restart", "reloaded": "reload", "started": "start", "stopped": "stop"}
SYSTEMD = ("systemd_service", "systemd", "service")

Effect = tuple[str, str]
"""A verb and what it is done to: ("change", path), ("restart", unit), ("install", package), or ("do", name of the task)."""


def unit(name: str) -> str:
    """Return the full name of a unit of systemd."""
    return name if "." in name else f"{name}.service"


def of_unit(args: Mapping[str, t.Any]) -> list[Effect]:
    """Return what a task did that has the arguments of systemd_service, and was changed."""
    verb = VERBS.get(str(args.get("state")))
    return [(verb or ("disable" if str(args.get("enabled")) in ("False", "false", "no") else "enable"), unit(str(args["name"])))]


def effects(action: str, args: Mapping[str, t.Any], result: Mapping[str, t.Any], task: str) -> list[Effect]:
    """Return what a task, or an item of its loop, did that has this action, these arguments and this result, and was changed."""
    action = action.rsplit(".", 1)[-1]
    # Of a task with no_log, the result has nothing of this.
    if action == "file_tree" and "paths" in result:
        return [("change", path) for path in result["paths"]]
    if action == "service_state" and "done" in result:
        return [(verb, unit(name)) for verb, name in (done.split(" ", 1) for done in result["done"])]
    if action == "packages" and "missing" in result:
        return [("install", name) for name in result["missing"]]
    if action in SYSTEMD and args.get("name"):
        return of_unit(args)
    if path := args.get("dest") or args.get("path"):
        return [("change", str(path))]
    return [("do", task)]


def lines(found: Iterable[tuple[str, str, str]]) -> list[str]:
    """Write effects (node, verb, thing) for a person: a line for each node, and below it its files, and then all else."""
    nodes = defaultdict(set)
    for node, verb, thing in found:
        nodes[node].add((verb, thing))
    told = []
    for node in sorted(nodes):
        files = sorted(thing for verb, thing in nodes[node] if verb == "change")
        others = sorted((verb, thing) for verb, thing in nodes[node] if verb != "change")
        told += [node, *(f"  {path}" for path in files), *(f"  {thing}" if verb == "do" else f"  {verb} {thing}" for verb, thing in others)]
    return told

# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The half of service_state that runs on the controller: asks the node once, and has done what there is to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.beowulf.cluster.plugins.action.file_tree import PENDING
from ansible_collections.beowulf.cluster.plugins.plugin_utils import run_notes

OPTIONS = {
    "name": {"type": "list", "elements": "str", "required": True},
    "reads": {"type": "list", "elements": "path", "default": []},
    "enabled": {"type": "bool", "default": True},
    "restart": {"type": "bool", "default": True},
}


UNITS = "/etc/systemd/system/"


def below(path: str, folders: list[str]) -> bool:
    """Say whether a path is one of those, or in one of them."""
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)


def changes_unit(name: str, paths: Iterable[str]) -> bool:
    """Say whether one of these files is of a unit in /etc/systemd/system, or of the service that a timer of that name starts."""
    units = {name if "." in name else f"{name}.service", f"{name.removesuffix('.timer')}.service"}
    return any(path.removeprefix(UNITS).partition("/")[0].removesuffix(".d") in units for path in paths if path.startswith(UNITS))


def needed(unit: dict, pending: list[str], enabled: bool, restart: bool) -> str:
    """Return what a unit needs: "start", "restart", "enable", "disable", "reload" (of systemd's units), or nothing."""
    if not unit["active"]:
        return "start"
    if restart and (unit["unread"] or pending):
        return "restart"
    if unit["enabled"] != enabled and unit["found"]:
        return "enable" if enabled else "disable"
    return "reload" if unit.get("reload") else ""


class ActionModule(ActionBase):
    """Ask, and do what is needed."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(OPTIONS)

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what was done."""
        super().run(tmp, task_vars)
        _result, options = self.validate_argument_spec(argument_spec=OPTIONS)
        asked = self._execute_module(
            module_name="beowulf.cluster.service_state",
            module_args={"name": options["name"], "reads": options["reads"]},
            task_vars=task_vars,
        )
        if asked.get("failed"):
            return asked
        changing = run_notes.read(PENDING, run_notes.target(self._task, task_vars)) or () if self._task.check_mode else ()
        pending = [path for path in changing if below(path, options["reads"])]
        unread = sorted({*pending, *(file for unit in asked["units"].values() for file in unit["unread"])})
        result = {"changed": bool(unread) and not options["restart"], "unread": unread, "done": []}
        for name, unit in asked["units"].items():
            unit["reload"] = unit["reload"] or changes_unit(name, changing)
            if not (what := needed(unit, pending, options["enabled"], options["restart"])):
                continue
            result["changed"] = True
            result["done"].append(f"{what} {name}")
            # In a check, its package may not be there yet.
            if self._task.check_mode:
                continue
            arguments = {"name": name, "enabled": options["enabled"], "daemon_reload": unit["reload"]}
            if what in ("start", "restart"):
                arguments["state"] = f"{what}ed"
            done = self._execute_module(module_name="ansible.builtin.systemd_service", module_args=arguments, task_vars=task_vars)
            if done.get("failed"):
                return {**result, "failed": True, "msg": done.get("msg", f"systemd did not {what} {name}")}
        return result

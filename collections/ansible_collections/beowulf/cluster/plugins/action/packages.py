# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The half of packages that runs on the controller."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.beowulf.cluster.plugins.plugin_utils import run_notes

OPTIONS = {"name": {"type": "list", "elements": "str", "required": True}, "install": {"type": "bool", "default": True}}
ARGUMENTS = {"install_recommends": False, "update_cache": True, "cache_valid_time": 86400, "lock_timeout": 1200}


class ActionModule(ActionBase):
    """Install what is missing."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(OPTIONS)

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what apt did; nothing is asked when all of them are known to be there."""
        super().run(tmp, task_vars)
        _result, options = self.validate_argument_spec(argument_spec=OPTIONS)
        host = run_notes.target(self._task, task_vars)
        known = run_notes.read("packages", host)
        if known is None:
            asked = self._execute_module(module_name="beowulf.cluster.packages", module_args={}, task_vars=task_vars)
            if asked.get("failed"):
                return asked
            known = asked["installed"]
            run_notes.write("packages", host, known)
        missing = sorted(set(options["name"]) - set(known))
        result = {"changed": False, "missing": missing}
        if missing and options["install"]:
            result |= self._execute_module(
                module_name="ansible.builtin.apt", module_args={"name": missing, **ARGUMENTS}, task_vars=task_vars
            )
        if missing and options["install"] and not result.get("failed") and not self._task.check_mode:
            run_notes.write("packages", host, sorted({*known, *missing}))
        return result

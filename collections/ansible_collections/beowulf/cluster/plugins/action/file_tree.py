# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The half of file_tree that runs on the controller: reads the role, renders its templates, and asks the node once."""

from __future__ import annotations

import base64
import fnmatch
import os
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.template import generate_ansible_template_vars, trust_as_template

from ansible_collections.beowulf.cluster.plugins.plugin_utils import run_notes

OPTIONS = {
    "content", "group", "keep", "mode", "owner", "secret", "source", "stage", "state", "target", "template", "validate", "validate_as",
    "vars",
}  # fmt: skip
PENDING = "pending"
"""Kind of the note of paths that a check would have changed, for service_state."""


def tree(role: Path, patterns: list[str]) -> dict[str, tuple[str, Path]]:
    """Return the files of a role that a pattern matches: {path on the node: ("template" or "source", path in the role)}."""
    found = {}
    for kind, folder, suffix in (("source", "files", ""), ("template", "templates", ".j2")):
        for path in sorted((role / folder).rglob(f"*{suffix}")):
            name = path.relative_to(role / folder).as_posix()
            if path.is_file() and any(fnmatch.fnmatch(name.removesuffix(suffix), pattern) for pattern in patterns):
                found["/" + name.removesuffix(suffix)] = kind, path
    return found


class ActionModule(ActionBase):
    """Render, compare, install."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset({"files", "purge", "tree"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the result of the module. Raises AnsibleActionFail for a task that makes no sense."""
        super().run(tmp, task_vars)
        _result, options = self.validate_argument_spec(
            argument_spec={
                "files": {"type": "dict", "default": {}},
                "purge": {"type": "list", "elements": "str", "default": []},
                "tree": {"type": "list", "elements": "str", "default": ["*"]},
            }
        )
        if self._task._role is None:
            raise AnsibleActionFail("file_tree installs the files of a role: it is of no use outside of one")
        role = Path(self._task._role._role_path)
        # Of a mapping, Ansible fills in the values alone.
        files = {self._templar.template(path): said for path, said in options["files"].items()}
        wanted = self.wanted(role, tree(role, options["tree"]), files, task_vars)
        result = self._execute_module(
            module_name="beowulf.cluster.file_tree", module_args={"files": wanted, "purge": options["purge"]}, task_vars=task_vars
        )
        # It has the content of all files.
        result.pop("invocation", None)
        if self._task.check_mode and result.get("paths"):
            host = run_notes.target(self._task, task_vars)
            run_notes.write(PENDING, host, sorted({*(run_notes.read(PENDING, host) or ()), *result["paths"]}))
        return result

    def wanted(
        self, role: Path, found: dict[str, tuple[str, Path]], files: dict[str, Any], task_vars: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Merge what is in the role with what the task says of it; return the list that the module gets."""
        entries = []
        for path in sorted({*found, *files}):
            said = files.get(path) or {}
            if unknown := sorted(set(said) - OPTIONS):
                raise AnsibleActionFail(f"{path}: there is no option {unknown[0]!r}; there are {', '.join(sorted(OPTIONS))}")
            entry = {name: value for name, value in said.items() if name not in ("content", "source", "template", "vars")}
            entry.setdefault("state", "file")
            if isinstance(entry.get("validate"), str):
                entry["validate"] = [entry["validate"]]
            if entry["state"] == "file":
                text, executable = self.content(role, path, found.get(path), said, task_vars)
                entry["content"] = base64.b64encode(text).decode()
                entry.setdefault("mode", "0755" if executable else "0644")
            elif entry["state"] == "directory":
                entry.setdefault("mode", "0755")
            entries.append({"path": path, **entry})
        return entries

    @staticmethod
    def bytes_of(path: str, source: Path) -> bytes:
        """Return the content of a file of the controller."""
        try:
            return source.read_bytes()
        except OSError as error:
            raise AnsibleActionFail(f"{path} is to have the content of {source}, which cannot be read: {error.strerror}") from error

    def content(
        self, role: Path, path: str, known: tuple[str, Path] | None, said: dict[str, Any], task_vars: dict[str, Any]
    ) -> tuple[bytes, bool]:
        """Return the content of a file in bytes, and whether its source is executable."""
        if "content" in said:
            text = said["content"]
            return ("".join(f"{line}\n" for line in text) if isinstance(text, list) else str(text)).encode(), False
        if "source" in said:
            return self.bytes_of(path, Path(said["source"])), False
        if "template" in said:
            known = "template", role / "templates" / said["template"]
        if known is None:
            raise AnsibleActionFail(f"{path} is neither in templates/ nor in files/ of the role {role.name}, and has no content")
        kind, source = known
        if not source.is_file():
            raise AnsibleActionFail(f"{path}: there is no {source.relative_to(role)} in the role {role.name}")
        executable = os.access(source, os.X_OK)
        if kind == "source":
            return source.read_bytes(), executable
        # As the action and the lookup named template do, which copies all variables of the host for each file, deep.
        about = generate_ansible_template_vars(path=str(source), fullpath=str(source), dest_path=path)
        templar = self._templar.copy_with_new_env(
            searchpath=[str(role / "templates"), str(source.parent)], available_variables=about | task_vars | (said.get("vars") or {})
        )
        text = templar.template(trust_as_template(self._loader.get_text_file_contents(str(source))), escape_backslashes=False)
        return ("" if text is None else str(text)).encode(), executable

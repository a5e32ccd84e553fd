#!/usr/bin/python
# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = """
module: file_tree
short_description: Install the files of a role as one set
version_added: 0.2.0
description:
  - Renders all templates of the role that the task stands in and takes all its files, compares them with those of the node in one round
    trip, validates what differs, and replaces the files that differ once all of them are valid.
  - C(templates/etc/x.conf.j2) and C(files/etc/x.conf) are installed as C(/etc/x.conf), owned by root; with mode C(0755) when the file in
    the role is executable, and C(0644) otherwise. Missing parent folders are created. O(files) says what is different, and what is more.
  - Each file is replaced by a rename, so that whoever reads it finds the old one or the new one, each as a whole.
  - When one file is invalid, or cannot be written, no file is replaced.
options:
  files:
    description:
      - What is known of a path besides that it is in the role.
      - A path that is not in the role needs C(content), C(source), C(template), C(target) or a C(state) that needs none of them.
      - C(state) is C(file), C(absent), C(directory) or C(link). C(absent) leaves out a file of the role, and removes it from the node.
      - C(template) is a path in C(templates/), for several files of one template, and C(vars) are variables for it.
      - C(content) is the text of the file, or a list of its lines, C(source) a file of the controller, and C(target) where a link leads.
      - C(owner), C(group) and C(mode) are those of the file. Modes are strings.
      - C(validate) is a command, or a list of commands, with C(%s) for the file to check. It is run without a shell, as C(validate_as)
        when that is given; the candidate is in the folder of the file, or in C(stage), with owner and mode of the file.
      - C(keep) leaves the content of a file that is there, and sees to its owner, group and mode alone.
      - C(secret) keeps the content out of the diff.
    type: dict
    default: {}
  purge:
    description: Patterns of files on the node, as V(/etc/nftables.d/allow-*.nft), that are removed when nothing of the above is them.
    type: list
    elements: str
    default: []
  tree:
    description: Patterns of the paths in the role that are meant, as V(etc/kea/*). Others are left to other tasks.
    type: list
    elements: str
    default: ["*"]
attributes:
  check_mode:
    description: Can run in check mode. What differs is told; nothing is validated, as the program that does it may not be installed yet.
    support: full
  diff_mode:
    description: Shows what differs.
    support: full
author:
  - The beowulf project (@beowulf-cluster)
"""

EXAMPLES = """
- name: Configure chrony
  beowulf.cluster.file_tree:
    files:
      /etc/chrony/chrony.conf: {validate: chronyd -p -f %s}
"""

RETURN = """
paths:
  description: The paths that differ, or differed.
  returned: always
  type: list
  elements: str
"""

import base64
import glob
import grp
import os
import pwd
import shlex
import stat
import tempfile

from ansible.module_utils.basic import AnsibleModule

STATES = ("absent", "directory", "file", "link")
SHOWN = 100000
"""Bytes of a file that are shown in a diff."""


class Wrong(Exception):
    """A file that cannot be installed: its path, and why."""


class Entry:
    """A path of the node and what is to be there."""

    def __init__(self, wanted):
        self.path = wanted["path"]
        self.state = wanted["state"]
        self.content = base64.b64decode(wanted["content"]) if wanted.get("content") is not None else b""
        self.target = wanted.get("target") or ""
        self.secret = bool(wanted.get("secret"))
        self.keep = bool(wanted.get("keep"))
        self.validate = wanted.get("validate") or []
        self.validate_as = wanted.get("validate_as")
        self.stage = wanted.get("stage") or os.path.dirname(self.path)
        self.mode = int(wanted["mode"], 8)
        self.owner, self.group = wanted["owner"], wanted["group"]
        self.candidate = None

    def ids(self):
        """Return the numbers of the owner and the group. Raises Wrong for names that the node does not know."""
        try:
            return pwd.getpwnam(self.owner).pw_uid, grp.getgrnam(self.group).gr_gid
        except KeyError as error:
            raise Wrong(f"{self.path}: no such user or group: {error.args[0]}") from None

    def is_there(self):
        """Say whether the path is as it is to be, without following links."""
        try:
            found = os.lstat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return self.state == "absent"
        if self.state == "absent":
            return False
        if self.state == "link":
            return stat.S_ISLNK(found.st_mode) and os.readlink(self.path) == self.target
        if self.state == "directory":
            return stat.S_ISDIR(found.st_mode) and self.has_rights(found)
        if stat.S_ISREG(found.st_mode) and self.keep:
            self.content = self.read()
        return stat.S_ISREG(found.st_mode) and self.has_rights(found) and found.st_size == len(self.content) and self.read() == self.content

    def has_rights(self, found):
        """Say whether owner, group and mode are the wanted ones. An owner that is to come with a package is not there yet."""
        try:
            return (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (*self.ids(), self.mode)
        except Wrong:
            return False

    def read(self):
        """Return the content of the file as it is; nothing when it is no regular file."""
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return b""
        with open(handle, "rb") as file:
            return file.read() if stat.S_ISREG(os.fstat(handle).st_mode) else b""

    def diff(self):
        """Return what changes, as Ansible shows it."""
        if self.state != "file":
            before = {"path": self.path, "state": "as it is"}
            return {"before": before, "after": {"path": self.path, "state": self.state}}
        shown = {"before_header": self.path, "after_header": self.path}
        before, after = self.read(), self.content
        if self.secret or b"\0" in before + after or len(before) + len(after) > SHOWN:
            return {**shown, "before": "", "after": "(not shown)\n"}
        if before == after:
            return {"before": {"path": self.path, "rights": "other"}, "after": {"path": self.path, "mode": f"{self.mode:04o}",
                                                                                 "owner": self.owner, "group": self.group}}  # fmt: skip
        return {**shown, "before": before.decode(errors="replace"), "after": after.decode(errors="replace")}

    def prepare(self):
        """Write the candidate beside the file. Raises Wrong or OSError."""
        uid, gid = self.ids()
        os.makedirs(os.path.dirname(self.path), mode=0o755, exist_ok=True)
        handle, self.candidate = tempfile.mkstemp(prefix=".", suffix=".candidate-" + os.path.basename(self.path), dir=self.stage)
        with open(handle, "wb") as file:
            file.write(self.content)
            file.flush()
            os.fchown(handle, uid, gid)
            os.fchmod(handle, self.mode)
            os.fsync(handle)

    def install(self):
        """Put what is wanted in place. Raises OSError."""
        if self.state == "absent":
            os.unlink(self.path)
        elif self.state == "directory":
            os.makedirs(self.path, mode=0o755, exist_ok=True)
            os.chown(self.path, *self.ids())
            os.chmod(self.path, self.mode)
        elif self.state == "link":
            os.makedirs(os.path.dirname(self.path), mode=0o755, exist_ok=True)
            fresh = f"{self.path}.candidate"
            if os.path.lexists(fresh):
                os.unlink(fresh)
            os.symlink(self.target, fresh)
            os.replace(fresh, self.path)
        else:
            os.replace(self.candidate, self.path)
            self.candidate = None

    def forget(self):
        """Remove the candidate, where it was not installed."""
        if self.candidate:
            os.unlink(self.candidate)


def check(module, entry):
    """Run the checks of a candidate. Raises Wrong with what they say."""
    for command in entry.validate:
        argv = [word.replace("%s", entry.candidate) for word in shlex.split(command)]
        if entry.validate_as:
            argv = ["runuser", "-u", entry.validate_as, "--", *argv]
        code, out, err = module.run_command(argv)
        if code:
            said = (err.strip() or out.strip()).replace(entry.candidate, entry.path)
            raise Wrong(f"{entry.path} is not valid, nothing was replaced: {said} ({command})")


def apply(module, entries):
    """Write what differs aside, check it, and put it in place. Raises Wrong, then nothing was replaced, or OSError.

    After an error in the middle of replacing, as of a disk that fails, the files before it are the new ones; the next run does the rest.
    """
    files = [entry for entry in entries if entry.state == "file"]
    try:
        # Folders first: their owners may be those who check what is in them.
        for entry in entries:
            if entry.state == "directory":
                entry.install()
        for entry in files:
            entry.prepare()
        for entry in files:
            check(module, entry)
        for entry in entries:
            if entry.state != "directory":
                entry.install()
    finally:
        for entry in files:
            entry.forget()


def main():
    """Compare, check, replace."""
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "state": {"choices": list(STATES), "default": "file"},
                    # The journal of the node gets all arguments but these.
                    "content": {"type": "str", "no_log": True},
                    "target": {"type": "str"},
                    "owner": {"type": "str", "default": "root"},
                    "group": {"type": "str", "default": "root"},
                    "mode": {"type": "str", "default": "0644"},
                    "validate": {"type": "list", "elements": "str", "default": []},
                    "validate_as": {"type": "str"},
                    "stage": {"type": "path"},
                    "keep": {"type": "bool", "default": False},
                    "secret": {"type": "bool", "default": False, "no_log": False},
                },
            },
            "purge": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    entries = [Entry(wanted) for wanted in module.params["files"]]
    known = {entry.path for entry in entries}
    found = sorted({path for pattern in module.params["purge"] for path in glob.glob(pattern)})
    entries += [Entry({"path": path, "state": "absent", "mode": "0", "owner": "", "group": ""}) for path in found if path not in known]
    different = [entry for entry in entries if not entry.is_there()]
    result = {"changed": bool(different), "paths": [entry.path for entry in different]}
    if module._diff:
        result["diff"] = [entry.diff() for entry in different]
    if not module.check_mode:
        try:
            apply(module, different)
        except (Wrong, OSError) as error:
            module.fail_json(msg=str(error), paths=result["paths"])
    module.exit_json(**result)


if __name__ == "__main__":
    main()

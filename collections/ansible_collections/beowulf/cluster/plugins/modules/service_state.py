#!/usr/bin/python
# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = """
module: service_state
short_description: Enable and start services, and restart those that have not read their files
version_added: 0.2.0
description:
  - Enables and starts units of systemd, and restarts those of which a file was changed (its content, its mode or its place) after systemd
    last started or reloaded them. A handler that a task notifies is lost with a run that ends before its handlers; this finds the same
    restart in the next run.
  - Has systemd read its units again when a file of one of them, or of one that it triggers, was changed.
  - Asks the node once when there is nothing to do. What there is to do is done by M(ansible.builtin.systemd_service).
options:
  name:
    description: The units.
    type: list
    elements: str
    required: true
  reads:
    description: Files that they read, and folders with all that is in them. What is not there counts for nothing.
    type: list
    elements: path
    default: []
  enabled:
    description: Start them at boot.
    type: bool
    default: true
  restart:
    description:
      - With V(false) a unit with files that it has not read is left running, and the task is C(changed), so that it can notify a handler
        which restarts the servers of a pair one after the other.
    type: bool
    default: true
attributes:
  check_mode:
    description: Can run in check mode. Files that C(file_tree) would have changed in the same check count as unread.
    support: full
author:
  - The beowulf project (@beowulf-cluster)
"""

EXAMPLES = """
- name: Enable and start chrony
  beowulf.cluster.service_state:
    name: chrony
    reads: [/etc/chrony/chrony.conf, /etc/systemd/system/chrony.service.d]
"""

RETURN = """
unread:
  description: The files that are newer than the service. Empty when it does not run; it will read them when it starts.
  returned: always
  type: list
  elements: str
done:
  description: What was done, as V(start chrony).
  returned: always
  type: list
  elements: str
"""

import os
from datetime import UTC, datetime

from ansible.module_utils.basic import AnsibleModule

PROPERTIES = ("LoadState", "ActiveState", "StateChangeTimestamp", "UnitFileState", "NeedDaemonReload", "Triggers")


def parse_unit(shown):
    """Read what C(systemctl show) says of a unit, a property a line.

    Returns {"found", "active", "enabled", "reload": bool, "since": seconds since 1970, or None when it does not run, "triggers": names of
    the units that it starts, as a timer does}. Raises ValueError when it says something else.
    """
    said = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    active = said.get("ActiveState") in ("active", "reloading", "activating")
    since = None
    if active and said.get("StateChangeTimestamp"):
        since = datetime.strptime(said["StateChangeTimestamp"], "%a %Y-%m-%d %H:%M:%S.%f UTC").replace(tzinfo=UTC).timestamp()
    return {
        "found": said.get("LoadState") not in ("not-found", None),
        "active": active,
        # A unit without an [Install] section is static, and a generated one is enabled by what it was generated from.
        "enabled": said.get("UnitFileState") in ("enabled", "enabled-runtime", "static", "generated", "alias", "indirect"),
        "reload": said.get("NeedDaemonReload") == "yes",
        "since": since,
        "triggers": said.get("Triggers", "").split(),
    }


def files_in(path):
    """Yield the file, or all files in the folder."""
    if os.path.isfile(path):
        yield path
    for folder, _folders, names in os.walk(path):
        for name in names:
            yield os.path.join(folder, name)


def changed_at(path):
    """Return when a file was changed last, in seconds since 1970; a link that leads nowhere counts as old."""
    try:
        # A file that was moved to its place keeps its time of modification, and gets a new time of change (rename(2), inode(7)).
        return os.stat(path).st_ctime
    except FileNotFoundError:
        return 0


def ask(module, name):
    """Return what systemd says of a unit: parse_unit."""
    command = ["systemctl", "show", "--timestamp=us+utc", f"--property={','.join(PROPERTIES)}", name]
    _code, shown, _error = module.run_command(command, check_rc=True)
    try:
        return parse_unit(shown)
    except ValueError as exc:
        return module.fail_json(msg=f"cannot tell since when {name} is as it is: {exc}")


def main():
    """Ask systemd, look at the files, compare."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "list", "elements": "str", "required": True},
            "reads": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LC_ALL": "C.UTF-8"}
    files = [file for path in module.params["reads"] for file in files_in(path)]
    units = {}
    for name in module.params["name"]:
        unit = ask(module, name)
        # A service that a timer starts is not started here: systemd would go on starting the one that it has read.
        unit["reload"] |= any(ask(module, triggered)["reload"] for triggered in unit.pop("triggers"))
        unit["unread"] = sorted(file for file in files if unit["since"] is not None and changed_at(file) > unit["since"])
        units[name] = unit
    module.exit_json(changed=False, units=units)


if __name__ == "__main__":
    main()

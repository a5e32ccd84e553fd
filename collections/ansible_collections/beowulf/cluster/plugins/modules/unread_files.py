#!/usr/bin/python
# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = """
module: unread_files
short_description: Find files that a running service has not read yet
version_added: 0.1.0
description:
  - Compares when files were changed (their content, their mode or their place) with when systemd last started or reloaded the service.
  - Says C(changed) when there are such files, so that a task can notify the handler that restarts the service. A task that writes a file
    notifies once, and that is lost with a run that ends before its handlers; this one says so again in the next run.
options:
  service:
    description: The unit of systemd.
    type: str
    required: true
  paths:
    description: Files, and folders with all that is in them. What is not there counts for nothing.
    type: list
    elements: path
    required: true
attributes:
  check_mode:
    description: Can run in check mode.
    support: full
author:
  - The beowulf project (@beowulf-cluster)
"""

EXAMPLES = """
- name: Find out whether chrony runs with what there is
  beowulf.cluster.unread_files:
    service: chrony
    paths: [/etc/chrony/chrony.conf]
  notify: Restart chrony
"""

RETURN = """
unread:
  description: The files that are newer. Empty when the service does not run; it will read them when it starts.
  returned: always
  type: list
  elements: str
"""

import os
from datetime import UTC, datetime

from ansible.module_utils.basic import AnsibleModule


def parse_since(shown):
    """Read what C(systemctl show) says of a unit's ActiveState and StateChangeTimestamp, one a line.

    Returns seconds since 1970, or None when the unit does not run. Raises ValueError when it says something else.
    """
    state = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    if state.get("ActiveState") not in ("active", "reloading") or not state.get("StateChangeTimestamp"):
        return None
    moment = datetime.strptime(state["StateChangeTimestamp"], "%a %Y-%m-%d %H:%M:%S.%f UTC")
    return moment.replace(tzinfo=UTC).timestamp()


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


def main():
    """Ask systemd, look at the files, compare."""
    module = AnsibleModule(
        argument_spec={
            "service": {"type": "str", "required": True},
            "paths": {"type": "list", "elements": "path", "required": True},
        },
        supports_check_mode=True,
    )
    command = ["systemctl", "show", "--timestamp=us+utc", "--property=ActiveState,StateChangeTimestamp", module.params["service"]]
    module.run_command_environ_update = {"LC_ALL": "C.UTF-8"}
    _code, shown, _error = module.run_command(command, check_rc=True)
    try:
        since = parse_since(shown)
    except ValueError as exc:
        module.fail_json(msg=f"cannot tell since when {module.params['service']} is as it is: {exc}")
    found = [] if since is None else [file for path in module.params["paths"] for file in files_in(path)]
    unread = sorted(file for file in found if changed_at(file) > since)
    module.exit_json(changed=bool(unread), unread=unread)


if __name__ == "__main__":
    main()

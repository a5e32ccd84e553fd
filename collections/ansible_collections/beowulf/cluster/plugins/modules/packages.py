#!/usr/bin/python
# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = """
module: packages
short_description: Install packages of Debian that are missing
version_added: 0.2.0
description:
  - Installs what is missing with M(ansible.builtin.apt), without recommended packages and with package lists that are no older than a day.
  - The node is asked once in a run which packages it has. So a task whose packages are all there asks nothing.
options:
  name:
    description: The packages.
    type: list
    elements: str
    required: true
  install:
    description: With V(false) it is only said which ones are missing.
    type: bool
    default: true
attributes:
  check_mode:
    description: Can run in check mode.
    support: full
author:
  - The beowulf project (@beowulf-cluster)
"""

EXAMPLES = """
- name: Install chrony
  beowulf.cluster.packages:
    name: [chrony]
"""

RETURN = """
missing:
  description: The packages that were missing.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule


def main():
    """Say which packages are installed."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    # Of a package for several architectures, any will do.
    command = ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\n"]
    _code, shown, _error = module.run_command(command, check_rc=True)
    installed = sorted({name for state, _space, name in (line.partition(" ") for line in shown.splitlines()) if state == "installed"})
    module.exit_json(changed=False, installed=installed)


if __name__ == "__main__":
    main()

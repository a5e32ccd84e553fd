# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters over the list of what an SSH authority has revoked."""

from __future__ import annotations

import re

from ansible.errors import AnsibleFilterError

DOCUMENTATION = """
name: revocations
short_description: The list of what is revoked, with lines that are added and lines that are taken off
version_added: 0.1.0
description:
  - >-
    No line ever leaves the list, so that lists of different age can be put together and whoever lacks a line is behind. One that is taken
    off is followed by C(# taken off N: LINE), which ssh-keygen takes for a comment; and when it is revoked once more by
    C(# revoked again N: LINE). The highest number says how it stands.
  - RV(_value) has the lines of the input in their order, and what is new after them.
positional: _input
options:
  _input:
    description: The lines that there are, each at least once.
    type: list
    elements: str
    required: true
  revoke:
    description: "Lines to add, as in ssh-keygen(1): C(id: NAME), C(serial: NUMBER), C(key: PUBLIC KEY) and the like."
    type: list
    elements: str
    default: []
  take_off:
    description: Lines that are not to count any more. Those that do not count now are left as they are.
    type: list
    elements: str
    default: []
author:
  - The beowulf project (@beowulf-cluster)
"""

EXAMPLES = """
lines: "{{ ['id: ada', 'id: bob'] | beowulf.cluster.revocations(take_off=['id: ada']) }}"
# => ['id: ada', 'id: bob', '# taken off 1: id: ada']
"""

RETURN = """
_value:
  description: The lines of the list.
  type: list
  elements: str
"""

LINE = re.compile(r"(?:id|key|serial|hash|sha1|sha256): [A-Za-z0-9@._+:/=-]+(?: [A-Za-z0-9@._+:/=-]+)*")
"""A line that may be added. What is on the list already is kept, whatever it is."""
TURN = re.compile(r"# (?P<word>taken off|revoked again) (?P<number>[0-9]{1,9}): (?P<line>.*)")


def _turns(lines):
    """Return {line: [how often it was taken off, how often it was revoked again]}."""
    turns = {}
    for text in lines:
        if found := TURN.fullmatch(text):
            numbers = turns.setdefault(found["line"], [0, 0])
            place = 0 if found["word"] == "taken off" else 1
            numbers[place] = max(numbers[place], int(found["number"]))
    return turns


def in_force(lines):
    """Lines of the list (list of str) -> those that count (list of str), for `ssh-keygen -k`."""
    turns = _turns(lines)
    counting = [line for line in dict.fromkeys(lines) if line.strip() and not line.startswith("#")]
    return [line for line in counting if turns.get(line, [0, 0])[0] <= turns.get(line, [0, 0])[1]]


def revocations(lines, revoke=(), take_off=()):
    """Lines of the list, lines to revoke, lines to take off (lists of str) -> lines of the list. Raises AnsibleFilterError for no line."""
    found = list(dict.fromkeys(lines))
    for line in (*revoke, *take_off):
        if not LINE.fullmatch(line):
            raise AnsibleFilterError(f"nothing was revoked or taken off the list: {line[:200]!r} is no line of it")
    for line in dict.fromkeys(revoke):
        off = _turns(found).get(line, [0, 0])[0]
        if line not in found:
            found.append(line)
        if line not in in_force(found):
            found.append(f"# revoked again {off}: {line}")
    for line in dict.fromkeys(take_off):
        if line in in_force(found):
            found.append(f"# taken off {_turns(found).get(line, [0, 0])[1] + 1}: {line}")
    return found


class FilterModule:
    """Filters by name."""

    def filters(self):
        """Name -> function."""
        return {"revocations": revocations, "revocations_in_force": in_force}

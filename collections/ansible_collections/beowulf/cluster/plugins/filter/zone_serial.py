# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A filter for DNS zone files."""

from __future__ import annotations

import re
import time

DOCUMENTATION = """
name: zone_serial
short_description: Serial of a DNS zone that moves only when its content does
version_added: 0.1.0
description:
  - A zone file carries the digest of its content and its serial on one line (C(; content DIGEST serial SERIAL)).
  - The same digest keeps the serial. Another one takes the seconds since 1970, or the highest serial known plus one where the clock is
    behind (a board without a battery), so that secondaries always see it grow (RFC 1982).
  - So does a file that is behind what a server answers, as another one was the primary in between.
positional: _input, digest, served
options:
  _input:
    description: Text of the zone file in use; empty if there is none.
    type: str
    required: true
  digest:
    description: Digest of the content that the zone is to have.
    type: str
    required: true
  served:
    description: The highest serial that any server gives for the zone now, in whatever role; 0 if none answers.
    type: int
    default: 0
author:
  - The beowulf project (@beowulf-cluster)
"""

EXAMPLES = """
serial: "{{ current_zone_file | beowulf.cluster.zone_serial(records | string | hash('sha256')) }}"
"""

RETURN = """
_value:
  description: The serial, 1 to 4294967295.
  type: int
"""

LINE = re.compile(r"^; content (?P<digest>\S+) serial (?P<serial>\d+)$", re.MULTILINE)
MODULUS = 2**32  # RFC 1982 section 3: SERIAL_BITS is 32


def zone_serial(text, digest, served=0, now=None):
    """Zone file in use (str), digest of the wanted content (str), serial served (int), seconds since 1970 (int) -> serial (int).

    The serial is 1 to 2**32 - 1.
    """
    known = LINE.search(text or "")
    written = int(known["serial"]) if known else 0
    overtaken = served and 0 < (served - written) % MODULUS < MODULUS // 2  # RFC 1982 section 3.2
    if known and known["digest"] == digest and not overtaken:
        return written
    now = int(time.time() if now is None else now)
    return max(now, max(written, served) + 1) % MODULUS or 1


class FilterModule:
    """Filters by name."""

    def filters(self):
        """Name -> function."""
        return {"zone_serial": zone_serial}

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
  - The same digest keeps the serial. Another one takes the seconds since 1970, or the old serial plus one where the clock is behind
    (a board without a battery), so that secondaries always see it grow (RFC 1982).
positional: _input, digest
options:
  _input:
    description: Text of the zone file in use; empty if there is none.
    type: str
    required: true
  digest:
    description: Digest of the content that the zone is to have.
    type: str
    required: true
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


def zone_serial(text, digest, now=None):
    """Zone file in use (str), digest of the wanted content (str), seconds since 1970 (int) -> serial (int, 1 to 2**32 - 1)."""
    known = LINE.search(text or "")
    now = int(time.time() if now is None else now)
    if not known:
        return now
    serial = int(known["serial"])
    if known["digest"] == digest:
        return serial
    return max(now, serial + 1) % MODULUS or 1


class FilterModule:
    """Filters by name."""

    def filters(self):
        """Name -> function."""
        return {"zone_serial": zone_serial}

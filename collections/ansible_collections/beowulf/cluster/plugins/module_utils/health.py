# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is well and what is not, wherever that is said: by `./bootstrap status`, and by the status page of the LAN servers.

Who asks says it in a sentence of its own. Only the standard library, because it runs on the nodes.
"""

from __future__ import annotations

import math

CLOCK = 0.1
"""Seconds that a clock may be off."""
PAIR_WORKS = ("hot-standby", "load-balancing")
"""States of a DHCP server whose partner is there, too."""


def clock(text):
    """Output of `chronyc -c tracking` -> (seconds that the clock is off, stratum); None while it is not synchronised.

    A server that keeps the cluster's time by itself, for want of one outside, is its own reference.
    """
    fields = text.strip().split(",")
    if len(fields) < 14 or fields[0] == "00000000" or fields[13] == "Not synchronised":
        return None
    try:
        offset, stratum = float(fields[4]), int(fields[2])
    except ValueError:
        return None
    return (offset, stratum) if math.isfinite(offset) else None


def clock_fault(offset):
    """Seconds that a clock is off, or None -> what is wrong with the clock, after the words for it; "" for nothing."""
    if offset is None:
        return "is not synchronised"
    return f"is {offset:+.3f} s off" if abs(offset) > CLOCK else ""


def pair_works(state):
    """State of a DHCP server in its pair, or None -> whether it works with its partner."""
    return state in PAIR_WORKS


def zone_faults(serials):
    """Serial numbers of a zone {server: number or None} -> (the servers that do not serve it, whether there are several versions)."""
    return [name for name, number in serials.items() if number is None], len(set(serials.values()) - {None}) > 1

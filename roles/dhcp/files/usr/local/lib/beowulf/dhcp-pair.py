#!/usr/bin/python3
"""Look after this DHCP server's place in its pair: dhcp-pair FILE SOCKET PARTNER-URL TLS-FOLDER PATIENCE FIRST LAST.

Kea ends the work of a pair for good when the clocks of the two are more than a minute apart, or when one has refused ten leases of the
other: both are `terminated`, the primary goes on alone and tells the standby nothing. Only new processes begin anew (ha-reset does not: a
process keeps the difference that it saw). Here each server starts its own process anew when the clocks are near each other again:

- the standby first, which serves nobody meanwhile; then it is `waiting`, and serves nobody until the other one has begun anew, too;
- the primary as soon as the standby waits. So both never serve at once, and each reads the other's leases before it serves.

It frees the addresses of nodes, too, that another machine has leased: Kea gives a reserved address to nobody until that lease ends, and a
board that was replaced ends it never. A machine that is still there keeps it, until its next renewal is refused.

Not more often than every HOLD seconds, lest a clock that jumps back and forth keeps the two starting. A standby whose partner is silent
waits PATIENCE seconds, the lifetime of the leases that it was not told of, and then goes on alone: else nobody would serve.

FILE gets JSON: {"looked": seconds since 1970, "problem": why it could not look, or "", "state": of this server, "role": primary or standby,
"partner": null when silent, or {"state": ..., "clock": seconds that its clock is ahead},
"waits": what a terminated server waits for, or "",
"pool": {"total": addresses from FIRST to LAST, "leased": ..., "declined": ...}; and in seconds of the machine's own clock, or null:
"begun": when this last started Kea anew, "silent": since when the partner is}
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import ipaddress
import json
import os
import socket
import ssl
import sys
import time
import urllib.request

import kea_control

LIMIT = 3
"""Seconds for an answer."""
HOLD = 300
NEIGHBOUR = 10
"""Seconds after which the kernel knows whether a neighbour that it knew is still there: 5 s, and three questions."""
CLOCK = 30
"""Seconds that the clocks may be apart: Kea warns from there on, and ends the pair at twice as many (compiled in)."""
ANEW = 75
"""The exit status that Kea is told: one that systemd takes for a failure, so that it starts Kea again."""
STATES = {
    "backup", "communication-recovery", "hot-standby", "in-maintenance", "load-balancing", "partner-down", "partner-in-maintenance",
    "passive-backup", "ready", "syncing", "terminated", "unavailable", "waiting",
}  # fmt: skip
LEASED, DECLINED = 0, 1
"""Kea's states of a lease."""
NOTICE, ERROR = "<5>", "<3>"
"""Priorities of a line for the journal (sd-daemon(3))."""


def kea(path: str, command: str, **arguments: int | str) -> dict:
    """Give Kea a command on its control socket; return what it answers. Raises OSError or ValueError when it does not."""
    return kea_control.order(command, arguments, path, LIMIT)


def told(answer: dict) -> tuple[str, float]:
    """A server's answer to ha-heartbeat -> its state and its clock (s since 1970). Raises ValueError when it is none."""
    try:
        state, clock = answer["state"], email.utils.parsedate_to_datetime(answer["date-time"]).timestamp()
    except (LookupError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"no answer to ha-heartbeat: {error}") from None
    if state not in STATES:
        raise ValueError("no answer to ha-heartbeat: a state that there is not")
    return state, clock


def partner(url: str, folder: str) -> tuple[str, float] | None:
    """Ask the other server, as Kea itself does, for its state and its clock; None when it does not answer."""
    context = None
    try:
        if folder:
            context = ssl.create_default_context(cafile=f"{folder}/root.crt")
            context.load_cert_chain(f"{folder}/node.crt", f"{folder}/node.key")
        caller = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        question = urllib.request.Request(url, b'{"command": "ha-heartbeat", "service": ["dhcp4"]}', {"Content-Type": "application/json"})
        with caller.open(question, timeout=LIMIT) as answer:
            return told(json.loads(answer.read(65536))[0]["arguments"])
    except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException):
        return None


def pool(leases: list[dict], first: str, last: str, now: float) -> dict[str, int]:
    """Kea's leases -> the addresses from first to last: how many there are, are leased, and are declined.

    Counted here, since Kea's own statistics count the reserved addresses to the pool after a restart.
    """
    ends = int(ipaddress.IPv4Address(first)), int(ipaddress.IPv4Address(last))
    states = [
        one["state"]
        for one in leases
        if ends[0] <= int(ipaddress.IPv4Address(one["ip-address"])) <= ends[1] and one["cltt"] + one["valid-lft"] > now
    ]
    return {"total": ends[1] - ends[0] + 1, "leased": states.count(LEASED), "declined": states.count(DECLINED)}


def misplaced(leases: list[dict], configuration: dict, now: float) -> list[tuple[str, str]]:
    """Kea's leases and configuration -> (address, MAC) of each machine that has the reserved address of another one."""
    subnets = configuration["Dhcp4"]["subnet4"]
    reserved = {one["ip-address"]: one["hw-address"] for subnet in subnets for one in subnet["reservations"] if "hw-address" in one}
    return [
        (one["ip-address"], one["hw-address"])
        for one in leases
        if one["state"] == LEASED
        and one["cltt"] + one["valid-lft"] > now
        and one["hw-address"] != reserved.get(one["ip-address"], one["hw-address"])
    ]


def still_there(machines: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Ask the LAN who has some addresses, all at once; return those (address, MAC) of which it is the machine with that MAC."""
    # What the kernel has known for a while it asks for again only when it is used, after 5 s, up to three times (arp(7)).
    for _ in range(NEIGHBOUR if machines else 0):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            for address, _mac in machines:
                with contextlib.suppress(OSError):  # nobody has it, which the table says, too
                    one.sendto(b"", (address, 9))  # discard, RFC 863
        time.sleep(1)
        with open("/proc/net/arp", encoding="ascii") as table:
            rows = [line.split() for line in table.readlines()[1:]]
        # Complete, 0x2 (ATF_COM): who does not answer has a row, too.
        known = {(row[0], row[3]) for row in rows if int(row[2], 16) & 2}
        machines = [machine for machine in machines if machine in known]
        if not machines:
            break
    return machines


def free(path: str, leases: list[dict], now: float) -> None:
    """Have Kea forget the leases that keep a node from its own address."""
    found = misplaced(leases, kea(path, "config-get"), now)
    stay = still_there(found)
    for address, mac in found:
        if (address, mac) not in stay:
            print(f"{NOTICE}{address} is another machine's by now: the lease of {mac} is forgotten", file=sys.stderr)
            kea(path, "lease4-del", **{"ip-address": address})


def waits_for(own: dict, now: float, patience: float) -> str:
    """What a terminated server waits for before it begins anew: "" for nothing.

    own: "role", "partner", "begun" and "silent", as in the file; now: the machine's own clock.
    """
    other = own["partner"]
    if other is None and own["role"] == "primary":
        return "the other server, which does not answer"  # it serves alone until then
    if other is None and now - own["silent"] < patience:
        return "the leases to end that the other server gave, which does not answer"
    if other and abs(other["clock"]) > CLOCK:
        return f"the clocks to agree: that of the other server is {other['clock']:+.0f} s off"
    if other and other["state"] == "waiting":
        return ""  # nobody else serves, and it began anew no more often than it may
    if other and own["role"] == "primary" and other["state"] == "terminated":
        return "the standby to begin anew"
    return f"the {HOLD} s between two starts" if own["begun"] is not None and 0 <= now - own["begun"] < HOLD else ""


def look(path: str, url: str, folder: str, first: str, last: str) -> dict:
    """Ask both servers; return what the file tells of them. Raises OSError or ValueError when this one does not answer."""
    role = kea(path, "status-get")["high-availability"][0]["ha-servers"]["local"]["role"]
    state, clock = told(kea(path, "ha-heartbeat"))
    # By the clocks of the two processes, which is what they themselves go by.
    other = partner(url, folder)
    leases = kea(path, "lease4-get-all").get("leases", [])
    free(path, leases, clock)
    return {
        "role": role,
        "state": state,
        "partner": {"state": other[0], "clock": round(other[1] - clock)} if other else None,
        "pool": pool(leases, first, last, clock),
    }


def before(file: str) -> dict:
    """What the last look wrote to a file, as far as it can be read."""
    try:
        with open(file, encoding="ascii") as one:
            return dict(json.load(one))
    except (OSError, ValueError, TypeError):
        return {}


def main(file: str, path: str, url: str, folder: str, patience: str, first: str, last: str) -> int:
    """Look once, and begin anew if it is time to; return the exit status."""
    old, now = before(file), time.monotonic()
    state = {"looked": time.time(), "problem": "", "waits": "", "begun": old.get("begun"), "silent": old.get("silent")}
    try:
        state |= look(path, url, folder, first, last)
        state["silent"] = None if state["partner"] else state["silent"] or now
        if state["state"] == "terminated":
            state["waits"] = waits_for(state, now, float(patience))
            if not state["waits"]:
                print(f"{NOTICE}the pair has ended its work, and can go on: Kea is started anew", file=sys.stderr)
                state["begun"] = now
                kea(path, "shutdown", **{"exit-value": ANEW})
    except (OSError, ValueError, LookupError, TypeError) as error:
        state["problem"] = f"Kea does not answer: {error}"
        print(f"{ERROR}{state['problem']}", file=sys.stderr)
    with open(f"{file}.new", "w", encoding="ascii") as one:
        json.dump(state, one)
    os.replace(f"{file}.new", file)
    return 1 if state["problem"] else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

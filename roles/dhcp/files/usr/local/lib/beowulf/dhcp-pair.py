#!/usr/bin/python3
"""Look after this DHCP server's place in its pair, and how full the pool is: dhcp-pair FILE SOCKET PARTNER-URL TLS-FOLDER PATIENCE.

Kea ends the work of a pair for good when the clocks of the two are more than a minute apart, or when one has refused ten leases of the other: both
are `terminated`, the primary goes on alone and tells the standby nothing, and only new processes begin anew (ha-reset does not: the process keeps the
difference that it saw). Here each server starts its own process anew, when the clocks are near each other again:

- the standby first, which serves nobody meanwhile; it is `waiting` then, and serves nobody until the other one has begun anew, too;
- the primary as soon as the standby waits. So there is no time in which both serve, and each reads the leases of the other before it serves.

Not more often than every HOLD seconds, lest a clock that jumps back and forth keeps the two starting. A standby whose partner is silent waits PATIENCE
seconds, the lifetime of the leases that it has not been told of, and then goes on alone: else nobody would serve.

FILE gets JSON: {"looked": seconds since 1970, "problem": why it could not look, or "", "state": of this server, "role": primary or standby,
"partner": null when silent, or {"state": ..., "clock": seconds that its clock is ahead}, "waits": what a terminated server waits for, or "",
"begun": seconds since 1970 when this last started Kea anew, or null, "pool": {"total": ..., "assigned": ..., "declined": ...} addresses,
"silent": seconds of the machine's own clock since when the partner is silent, or null}
"""

from __future__ import annotations

import email.utils
import json
import os
import socket
import ssl
import sys
import time
import urllib.request

LIMIT = 3
"""Seconds for an answer."""
HOLD = 300
CLOCK = 30
"""Seconds that the clocks may be apart: Kea warns from there on, and ends the pair at twice as many (compiled in)."""
ANEW = 75
"""The exit status that Kea is told: one that systemd takes for a failure, so that it starts Kea again."""
STATES = {
    "backup", "communication-recovery", "hot-standby", "in-maintenance", "load-balancing", "partner-down", "partner-in-maintenance",
    "passive-backup", "ready", "syncing", "terminated", "unavailable", "waiting",
}  # fmt: skip
NOTICE, ERROR = "<5>", "<3>"
"""Priorities of a line for the journal (sd-daemon(3))."""


def kea(path: str, command: str, **arguments: int) -> dict:
    """Give Kea a command on its control socket; return what it answers. Raises OSError or ValueError when it does not."""
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(LIMIT)
        one.connect(path)
        one.sendall(json.dumps({"command": command, "arguments": arguments} if arguments else {"command": command}).encode())
        one.shutdown(socket.SHUT_WR)
        answer = json.loads(b"".join(iter(lambda: one.recv(65536), b"")))
    if answer["result"]:
        raise ValueError(f"Kea refuses {command}: {answer.get('text')}")
    return answer.get("arguments", {})


def heartbeat(answer: bytes, now: float) -> dict:
    """A server's answer to ha-heartbeat (bytes) that came at `now` -> {"state": ..., "clock": ...}; raises ValueError when it is none."""
    try:
        told = json.loads(answer)[0]["arguments"]
        state, clock = told["state"], email.utils.parsedate_to_datetime(told["date-time"]).timestamp() - now
    except (LookupError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"no answer to ha-heartbeat: {error}") from None
    if state not in STATES:
        raise ValueError("no answer to ha-heartbeat: a state that there is not")
    return {"state": state, "clock": round(clock, 1)}


def partner(url: str, folder: str) -> dict | None:
    """Ask the other server as Kea itself does; None when it does not answer."""
    context = None
    try:
        if folder:
            context = ssl.create_default_context(cafile=f"{folder}/root.crt")
            context.load_cert_chain(f"{folder}/node.crt", f"{folder}/node.key")
        question = urllib.request.Request(url, b'{"command": "ha-heartbeat", "service": ["dhcp4"]}', {"Content-Type": "application/json"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)).open(
            question, timeout=LIMIT
        ) as answer:
            return heartbeat(answer.read(65536), time.time())
    except (OSError, ValueError):
        return None


def pool(statistics: dict) -> dict[str, int]:
    """Kea's statistics -> the addresses of all its pools: how many there are, are given or declined, and are declined."""
    figures = {name: rows[0][0] for name, rows in statistics.items() if ".pool[" in name}
    return {part: sum(value for name, value in figures.items() if name.endswith(f"].{part}-addresses")) for part in ("total", "assigned", "declined")}


def waits_for(own: dict, silence: float, patience: float) -> str:
    """What a terminated server waits for before it begins anew: "" for nothing.

    own: "role", "uptime" (s) and "partner" of this server; silence: seconds since when the partner has not answered, 0 when it does.
    """
    other = own["partner"]
    if other is None:
        if own["role"] == "primary":
            return "the other server, which does not answer"  # it serves alone until then
        return "" if silence >= patience else "the leases to end that the other server gave, which does not answer"
    if abs(other["clock"]) > CLOCK:
        return f"the clocks to agree: that of the other server is {other['clock']:+.0f} s off"
    if other["state"] == "waiting":
        return ""  # nobody else serves, and it began anew no longer ago than it may
    if own["role"] == "primary" and other["state"] == "terminated":
        return "the standby to begin anew"
    return "" if own["uptime"] >= HOLD else f"the {HOLD} s between two starts"


def look(path: str, url: str, folder: str, old: dict) -> dict:
    """Ask both servers; return the new content of the file. Raises OSError or ValueError when this one does not answer."""
    status = kea(path, "status-get")
    own = status["high-availability"][0]["ha-servers"]["local"]
    new = {"role": own["role"], "state": own["state"], "uptime": status["uptime"], "partner": partner(url, folder)}
    silent = None if new["partner"] else old.get("silent") or time.monotonic()
    return {**new, "pool": pool(kea(path, "statistic-get-all")), "silent": silent}


def main(file: str, path: str, url: str, folder: str, patience: str) -> int:
    """Look once, and begin anew if it is time to; return the exit status."""
    try:
        with open(file, encoding="ascii") as one:
            old = dict(json.load(one))
    except (OSError, ValueError, TypeError):
        old = {}
    state = {"looked": time.time(), "problem": "", "waits": "", "begun": old.get("begun")}
    try:
        state |= look(path, url, folder, old)
        if state["state"] == "terminated":
            silence = time.monotonic() - state["silent"] if state["silent"] else 0
            state["waits"] = waits_for(state, silence, float(patience))
            if not state["waits"]:
                print(f"{NOTICE}the pair has ended its work, and can go on: Kea is started anew", file=sys.stderr)
                kea(path, "shutdown", **{"exit-value": ANEW})
                state["begun"] = time.time()
    except (OSError, ValueError, LookupError, TypeError) as error:
        state["problem"] = f"Kea does not answer: {error}"
        print(f"{ERROR}{state['problem']}", file=sys.stderr)
    with open(f"{file}.new", "w", encoding="ascii") as one:
        json.dump(state, one)
    os.replace(f"{file}.new", file)
    return 1 if state["problem"] else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

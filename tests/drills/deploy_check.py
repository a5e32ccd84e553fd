"""What `./bootstrap deploy --check` says: the same files and the same restarts as the deploy after it."""

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from beowulf.drill import drill
from beowulf.drill_lab import Lab
from beowulf.errors import Failure
from beowulf.figures import Figure
from beowulf.process import tool

Effect = tuple[str, str, str]
"""A node, a verb and what it is done to: plugin_utils/effects.py of the collection."""
FOLDERS = "/etc /usr/local"
"""Where a deploy puts files, and hardly anyone else does."""
RESTARTS = {"restart", "reload", "start", "stop"}


def forwarders_and_pool(said: dict[str, Any], _node: str) -> None:
    """Ask one more name server outside, and give the pool eight addresses more."""
    first, last = said["network"]["pool"].split("-")
    said["network"] |= {"forwarders": [*said["network"]["forwarders"], "192.0.2.53"], "pool": f"{first}-{IPv4Address(last) + 8}"}


def alias(said: dict[str, Any], node: str) -> None:
    """Give a node one more name."""
    said["nodes"][node]["aliases"] = [*said["nodes"][node].get("aliases", ()), "drilled"]


def slots(said: dict[str, Any], node: str) -> None:
    """Let a node run another number of processes at once."""
    said["nodes"][node]["slots"] = 3 if said["nodes"][node].get("slots") != 3 else 2


def time_server(said: dict[str, Any], _node: str) -> None:
    """Ask one more time server outside."""
    said["network"]["ntp"] = [*said["network"].get("ntp", ()), "2.debian.pool.ntp.org"]


def node_less(said: dict[str, Any], node: str) -> None:
    """Leave a node out."""
    del said["nodes"][node]


CHANGES: dict[str, Callable[[dict[str, Any], str], None]] = {
    "forwarders and pool": forwarders_and_pool,
    "an alias": alias,
    "slots": slots,
    "a time server": time_server,
    "a node less": node_less,
}


def played(lab: Lab, path: Path, *options: str) -> set[Effect]:
    """Deploy by a rack file; return what that did, or would do in a check. Raises Failure with what went wrong."""
    code, summary = lab.play([tool("ansible-playbook"), "-i", str(path), "playbooks/site.yml", *options])
    if code or summary is None:
        failures = [f"{one['node']}: {one['task']}: {' '.join(one['lines'])}" for one in (summary or {}).get("failures", ())]
        raise Failure(f"the deploy {' '.join(options)} ended with {code}: {'; '.join(failures) or 'no summary'}")
    return {tuple(effect) for effect in summary["effects"]}


def files(lab: Lab) -> dict[tuple[str, str], str]:
    """Return what is in the files of all nodes, whoever wrote them: {(node, path): checksum, or where a link leads}."""
    command = f"find {FOLDERS} -xdev -type f -exec sha256sum {{}} +; find {FOLDERS} -xdev -type l -printf '%l  %p\\n'"
    found = {}
    for node in lab.address:
        for line in lab.run(node, command).splitlines():
            value, _space, path = line.partition("  ")
            found[node, path] = value
    return found


def running(lab: Lab) -> dict[tuple[str, str], str]:
    """Return since when the daemons of all nodes are as they are: {(node, unit): the time of its last start or reload}."""
    command = "systemctl show --type=service --state=running --property=Id,StateChangeTimestampMonotonic '*'"
    found = {}
    for node in lab.address:
        for unit in lab.run(node, command).split("\n\n"):
            said = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line)
            if said:
                found[node, said["Id"]] = said["StateChangeTimestampMonotonic"]
    return found


def different(before: dict, after: dict) -> set:
    """Return the keys that one of the two has, or that have another value."""
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def compared(lab: Lab, title: str, told: set[Effect], done: set[Effect]) -> Iterator[Figure]:
    """Yield how what a check told compares with what the deploy did, and say what differs."""
    for word, effects in (("not told", done - told), ("told, and not done", told - done)):
        for effect in sorted(effects):
            lab.say(f"  {title}: {word}: {' '.join(effect)}")
    for what, verbs in (("files changed", {"change"}), ("services restarted or reloaded", RESTARTS)):
        yield Figure(f"{title}: {what}", sum(verb in verbs for _node, verb, _thing in done), unit="")
        yield Figure(f"{title}: {what}, not told", sum(verb in verbs for _node, verb, _thing in done - told), 0, unit="")
    others = [effect for effect in done - told if effect[1] not in RESTARTS | {"change"}]
    yield Figure(f"{title}: anything else not told", len(others), 0, unit="")
    yield Figure(f"{title}: told, and not done", len(told - done), 0, unit="")


@drill()
def check_tells_the_truth(lab: Lab):
    """Five changes of the rack file, one after the other: a check names the same files and restarts as the deploy after it"""
    servers = {(lab.variables["rack_jobs_server"] or {}).get("name"), *(one["name"] for one in lab.variables["rack_k3s_servers"])}
    node = next(name for name in reversed(lab.cluster.group("mpi")) if name not in {lab.client, *servers})
    for title, change in CHANGES.items():
        lab.say(f"  {title}")
        try:
            with lab.other_rack(lambda said, change=change: change(said, node)) as rack:
                told = played(lab, rack, "--check")
                before = files(lab), running(lab)
                done = played(lab, rack)
                changed, restarted = (different(old, new) for old, new in zip(before, (files(lab), running(lab)), strict=True))
        finally:
            played(lab, lab.cluster.path)
        yield from compared(lab, title, told, done)
        # What the nodes say, whatever the deploy says of itself. It may write files of which this does not look at the folder.
        unsaid = changed - {(where, path) for where, verb, path in done if verb == "change"}
        for one in sorted(unsaid | (restarted - {(where, unit) for where, verb, unit in done if verb in RESTARTS})):
            lab.say(f"  {title}: changed, and the deploy does not say so: {' '.join(one)}")
        yield Figure(f"{title}: files changed without a word", len(unsaid), 0, unit="")

"""Full disks: who has no room left says so, loses nothing, and goes on by itself when there is room again."""

import contextlib
import json
import time
from collections.abc import Iterator

from beowulf import backup
from beowulf.drill import drill
from beowulf.drill_lab import VIP, Lab
from beowulf.errors import Failure
from beowulf.figures import Figure
from beowulf.probe import TWICE

LEASES = "/var/lib/kea"
COPIES = "/var/backups"
ALONE = 20
"""Seconds that the other DHCP server serves alone, from when it knows: who asked before asks once more meanwhile."""


@contextlib.contextmanager
def small(lab: Lab, node: str, folder: str, services: str = "", megabytes: int = 8) -> Iterator[None]:
    """Give a folder a small file system of its own while the body runs, with what is in it; what is in it at the end stays.

    `services` are stopped meanwhile: who has files open there, and who has mounts of its own and would not see this one.
    """
    stop, start = (f"systemctl {word} {services}" if services else ":" for word in ("stop", "start"))
    aside = f"{folder}.drill"
    there = f"mount -t tmpfs -o size={megabytes}m tmpfs {folder} && cp -a {aside}/. {folder}/ && rm -r {aside}"
    lab.run(node, f"{stop}; cp -a {folder} {aside} && {there}; {start}")
    try:
        yield
    finally:
        free(lab, node, folder)
        back = f"find {folder} -mindepth 1 -delete; cp -a {aside}/. {folder}/ && rm -r {aside}"
        lab.run(node, f"{stop}; cp -a {folder} {aside} && umount {folder} && {{ {back} ; }}; {start}")


def fill(lab: Lab, node: str, folder: str, kilobytes: int = 0) -> None:
    """Leave no byte of a small file system, or some kilobytes."""
    if lab.run(node, f"stat --file-system --format=%T {folder}") != "tmpfs":
        raise Failure(f"{node}: {folder} is no file system of its own")
    lab.run(node, f"dd if=/dev/zero of={folder}/.full bs=1k status=none; test $(df --output=avail {folder} | tail -n 1) = 0", check=False)
    if kilobytes:
        lab.run(node, f"truncate --size=-{kilobytes}k {folder}/.full")


def free(lab: Lab, node: str, folder: str) -> None:
    """Give the space back."""
    lab.run(node, f"rm -f {folder}/.full")


def paired(lab: Lab, node: str) -> str:
    """Return the state of a DHCP server in its pair."""
    answer = lab.kea(node, "status-get")
    return answer["arguments"]["high-availability"][0]["ha-servers"]["local"]["state"]


def mixed_rows(lab: Lab, node: str) -> int:
    """Count the rows of the file of leases that have more fields than its head: of two leases, of which none can be read."""
    return int(lab.run(node, f"awk -F, 'NR == 1 {{n = NF}} NF > n' {LEASES}/kea-leases4.csv | wc -l"))


@drill()
def full_disk_of_leases(lab: Lab):
    """The disk of the active DHCP server is full: the other one leases, and it goes on when there is room"""
    active = lab.dhcp_server()
    other = lab.peer(active)
    with small(lab, active, LEASES, "kea-dhcp4-server dhcp-room"):
        lab.until_healthy()
        before, mixed = lab.leased(active) | lab.leased(other), mixed_rows(lab, active)
        with lab.watching(lab.leases(), lab.looks_up(), lab.asks_vip()) as watch:
            fill(lab, active, LEASES)
            took = lab.until(lambda: paired(lab, other) == "partner-down", 60, f"{other} serves alone")
            time.sleep(ALONE)
            free(lab, active, LEASES)
            healed = lab.until(lambda: paired(lab, active) == paired(lab, other) == "hot-standby", 60, f"{active} serves again")
        lost = before - (lab.leased(active) & lab.leased(other))
        mixed = mixed_rows(lab, active) - mixed
    given = [sample[2] for sample in watch.answered("leases")]
    yield Figure("the other one serves alone after", took, 25, loose=True)
    yield Figure("longest wait for a new lease", watch.longest("leases"), 30, loose=True)
    yield Figure("addresses given twice", len([one for one in given if one.endswith(TWICE)]), 0, unit="")
    yield Figure("leases before", len(before), 1, unit="", least=True)
    yield Figure("leases lost", len(lost), 0, unit="")
    yield Figure("rows with two leases in one", mixed, 0, unit="")
    yield Figure("failed lookups", watch.failed("lookups"), 0, unit="")
    yield Figure("longest gap in DNS", watch.gap(VIP), 1.5, loose=True)
    yield Figure("both serve again after", healed, 30, loose=True)


@drill()
def full_disk_of_backups(lab: Lab):
    """A LAN server has no room for a new copy, then the deployer has none: both say so, lose nothing, and catch up"""
    deployer = lab.variables["rack_deployer"]["name"]
    full, other = lab.pair
    backup.create(lab.cluster)
    before = held(lab, full)
    with small(lab, full, COPIES, megabytes=room_for(lab, full)):
        # Room for the reason alone. Where there is none for that either, status has only the disk to name, which here it does not count.
        fill(lab, full, COPIES, kilobytes=64)
        failed = refused(lab)
        yield Figure("a backup without a word", float("file system would be left" not in failed), 0, unit="")
        copy = backup.on_node(lab.cluster, full)
        yield Figure("a refusal that nobody is told of", float("file system would be left" not in copy.refused), 0, unit="")
        yield Figure("archives that the full one lost", len(before - held(lab, full)), 0, unit="")
        yield Figure("archives that the other one lacks", len(held(lab, deployer) - held(lab, other)), 0, unit="")
        free(lab, full, COPIES)
    with small(lab, deployer, COPIES, megabytes=room_for(lab, deployer)):
        kept = held(lab, deployer)
        fill(lab, deployer, COPIES)
        failed = refused(lab)
        yield Figure("a backup of a full deployer without a word", float("No space left" not in failed), 0, unit="")
        free(lab, deployer, COPIES)
        backup.create(lab.cluster)
        yield Figure("archives that the deployer lost", len(kept - held(lab, deployer)), 0, unit="")
    yield Figure("archives that the full one lacks now", len(held(lab, deployer) - held(lab, full)), 0, unit="")
    yield Figure("refusals left", float(bool(backup.on_node(lab.cluster, full).refused)), 0, unit="")


def held(lab: Lab, node: str) -> set[str]:
    """Return the archives of a node's copy."""
    return set(json.loads(lab.run(node, f"cat {backup.REPOSITORY}/{backup.STORY}"))["archives"])


def room_for(lab: Lab, node: str) -> int:
    """Return the megabytes of a file system on which a node's backups have room, and once more as much."""
    return 16 + 3 * int(lab.run(node, f"du --summarize --block-size=1M {COPIES} | cut -f1"))


def refused(lab: Lab) -> str:
    """Make a backup that has to fail; return what was said."""
    try:
        backup.create(lab.cluster)
    except Failure as failure:
        return str(failure)
    return ""

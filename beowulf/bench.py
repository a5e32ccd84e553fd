"""What a run costs the controller, as ratios of commands that were measured in the same run: machines differ, and so do their hours."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from beowulf import inventory, lock, playbook
from beowulf.cluster import Cluster
from beowulf.errors import Failure, Refusal
from beowulf.process import INTERRUPTED, environment, run, tool

LOOP = 10_000_000
"""Additions of the loop whose time says how fast the machine is at the moment."""
SIZES = (10, 1_000, 10_000)
"""Nodes of the racks that are read."""
SILENT = {"ANSIBLE_CALLBACKS_ENABLED": "ansible.builtin.minimal", "BEOWULF_ARA_SCRIPT": ""}
"""Nothing is recorded."""
DEPLOYS: dict[str, Callable[[], dict[str, str]]] = {
    "as deploy does it": playbook.strategy,
    "not recorded": lambda: playbook.strategy() | SILENT,
    "Ansible's linear strategy, not recorded": lambda: dict(SILENT),
}
"""Ways to deploy what is deployed already, and their settings."""


def cost(command: list[str], **settings: str) -> dict[str, float]:
    """Run a command and return {"wall", "user", "sys": seconds}: its own, and those of all that it started and waited for.

    Raises Failure when it fails, KeyboardInterrupt when it is interrupted.
    """
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    code = run(command, environment(**settings), beside=lock.keep, stdout=subprocess.DEVNULL)
    after, ended = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        raise Failure(f"bench: this ended with {code}, so there is nothing to compare: {' '.join(command)}")
    return {
        "wall": round(ended - began, 2),
        "user": round(after.ru_utime - before.ru_utime, 2),
        "sys": round(after.ru_stime - before.ru_stime, 2),
    }


def loop() -> float:
    """Return the seconds that a fixed loop takes now."""
    began, total = time.monotonic(), 0
    for number in range(LOOP):
        total += number
    return round(time.monotonic() - began, 3)


def deploys(cluster: Cluster, repeat: int) -> dict[str, Any]:
    """Measure deploys that change nothing: {way: {"wall", "user", "sys": seconds of the fastest of `repeat`, "tasks", "changed", "loop"}}.

    Raises Failure when one fails or changes something: deploy first.
    """
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="beowulf-") as folder, lock.changing(cluster, "bench"):
        for way, settings in DEPLOYS.items():
            runs = []
            for number in range(repeat):
                summary = Path(folder) / f"{len(measured)}.{number}.json"
                shown = {"ANSIBLE_STDOUT_CALLBACK": "beowulf.cluster.progress", "BEOWULF_PROGRESS_SUMMARY": str(summary)}
                print(f"bench: deploy {cluster.name}, {way}, {number + 1} of {repeat} ...", flush=True)
                quick = loop()
                found = cost(playbook.command(cluster, "site"), **shown, **settings())
                said = json.loads(summary.read_text(encoding="utf-8"))
                changed = playbook.counts(said)["changed"]
                if changed:
                    raise Failure(f"bench: {changed} things were changed, so this was no deploy that changes nothing: once more.")
                runs.append(found | {"tasks": said["tasks"], "changed": changed, "loop": quick})
            measured[way] = min(runs, key=lambda one: one["wall"])
    return measured


def rack_of(size: int) -> dict[str, Any]:
    """Return a rack of so many nodes: those that every rack has, and compute nodes."""
    nodes = {
        name: {"type": kind, "address": f"10.64.0.{number}", "mac": f"02:00:00:00:00:{number:02x}"}
        for number, (name, kind) in enumerate(
            [("omega", "router"), ("psi", "deployer"), ("alpha", "lanservices"), ("beta", "lanservices")], start=1
        )
    }
    for number in range(size - len(nodes)):
        high, low = divmod(number, 250)
        nodes[f"node-{number}"] = {
            "type": "compute", "address": f"10.64.{high + 1}.{low + 1}", "mac": f"02:00:01:{high >> 8:02x}:{high & 255:02x}:{low:02x}",
        }  # fmt: skip
    network = {
        "subnet": "10.64.0.0/16", "gateway": "10.64.0.1", "vip": "10.64.0.5", "pool": "10.64.128.1-10.64.191.254",
        "forwarders": ["192.0.2.53"], "ntp": ["0.debian.pool.ntp.org"],
    }  # fmt: skip
    return {"plugin": "beowulf.cluster.rack", "cluster": "bench", "domain": "bench.internal", "network": network, "nodes": nodes}


def racks() -> dict[str, Any]:
    """Measure how long Ansible takes to read a rack file, and the same nodes as its own YAML inventory. (Both are JSON, which is YAML.)

    Returns {number of nodes: {"rack", "yaml": seconds}}.
    """
    measured = {}
    with tempfile.TemporaryDirectory(prefix="beowulf-") as folder:
        for size in SIZES:
            print(f"bench: read a rack of {size} nodes ...", flush=True)
            rack, plain = Path(folder) / f"{size}.rack.yml", Path(folder) / f"{size}.yml"
            rack.write_text(json.dumps(rack_of(size), indent=1), encoding="utf-8")
            ask = [tool("ansible-inventory"), "--list", "-i"]
            both = {"rack": cost([*ask, str(rack)], ANSIBLE_INVENTORY_ENABLED="beowulf.cluster.rack")["wall"]}
            listed = subprocess.run([*ask, str(rack)], env=environment(), capture_output=True, text=True, check=True)
            plain.write_text(json.dumps(as_yaml(json.loads(listed.stdout)), indent=1), encoding="utf-8")
            both["yaml"] = cost([*ask, str(plain)], ANSIBLE_INVENTORY_ENABLED="ansible.builtin.yaml")["wall"]
            measured[str(size)] = both
    return measured


def as_yaml(listed: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ansible-inventory lists as the structure of a YAML inventory."""
    groups = {name: entry.get("hosts", []) for name, entry in listed.items() if name != "_meta"}
    return inventory.nested(listed["_meta"]["hostvars"], groups)


def bench(cluster: Cluster, only: str = "", repeat: int = 1) -> dict[str, Any]:
    """Measure what is asked for: deploys, racks, or both."""
    chosen = [name for name in only.split(",") if name] or ["deploy", "rack"]
    for name in chosen:
        if name not in ("deploy", "rack"):
            raise Refusal(f"--only {only}: nothing of that name is measured. There are: deploy, rack.")
    if repeat < 1:
        raise Refusal(f"--repeat {repeat}: at least once.")
    found: dict[str, Any] = {"cpus": os.cpu_count(), "loop": loop()}
    if "deploy" in chosen:
        found["deploy"] = deploys(cluster, repeat)
    if "rack" in chosen:
        found["rack"] = racks()
    return found


def lines(found: Mapping[str, Any]) -> list[str]:
    """Write the figures as a table, with their ratios to the first of a kind."""
    shown = [f"{found['cpus']} processors; a loop of {LOOP:,} additions takes {found['loop']:g} s"]
    if deployed := found.get("deploy"):
        first = next(iter(deployed.values()))
        shown += ["", f"{'a deploy that changes nothing':<44}{'wall s':>8}{'ratio':>7}{'CPU s':>8}{'ratio':>7}{'tasks':>7}{'loop s':>8}"]
        for way, one in deployed.items():
            used, of_first = one["user"] + one["sys"], first["user"] + first["sys"]
            shown.append(
                f"{way:<44}{one['wall']:>8.1f}{one['wall'] / first['wall']:>7.2f}{used:>8.1f}{used / of_first:>7.2f}"
                f"{one['tasks']:>7}{one['loop']:>8.2f}"
            )
    if read := found.get("rack"):
        shown += ["", f"{'nodes':>7}{'rack file s':>13}{'YAML inventory s':>18}{'ratio':>7}"]
        shown += [f"{size:>7}{one['rack']:>13.2f}{one['yaml']:>18.2f}{one['yaml'] / one['rack']:>7.2f}" for size, one in read.items()]
    return shown

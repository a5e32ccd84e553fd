"""What a drill may do to a lab, and what its client sees meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from beowulf import COLLECTIONS, kea, lock, playbook, ssh
from beowulf.cluster import INVENTORY, Cluster, load_rack
from beowulf.errors import Failure
from beowulf.figures import INFINITE, Figure
from beowulf.pki import identity
from beowulf.process import ROOT, environment, output
from beowulf.status import gather

VIP = "dns through the floating address"
"""Name of the stream of questions to the floating address."""
BASELINE = 1.5
"""Seconds that the client asks before anything is broken."""
SLOW = 4
"""Seconds from which on it is told what was missing until the cluster was healthy."""
HEALTHY = 90
"""Seconds that a healed cluster gets until all is as it was."""


@dataclass
class Watch:
    """The samples of a client: {stream: [[asked at, seconds until the answer or None, detail], …]}."""

    samples: dict[str, list[list[Any]]] = field(default_factory=dict)

    def answered(self, stream: str) -> list[list[Any]]:
        """Return the samples that were answered."""
        return [sample for sample in self.samples[stream] if sample[1] is not None]

    def failed(self, stream: str) -> int:
        """Count those that were not."""
        return len(self.samples[stream]) - len(self.answered(stream))

    def errors(self) -> list[str]:
        """Return a line for each stream with questions that failed for a reason that was given: how many, when, and the reasons."""
        lines = []
        for stream, samples in self.samples.items():
            if failed := [sample for sample in samples if sample[1] is None and sample[2]]:
                span = f"{failed[0][0] - samples[0][0]:.1f} s to {failed[-1][0] - samples[0][0]:.1f} s"
                lines.append(f"{stream}: {len(failed)} failed, {span} after it began: {', '.join(sorted({str(one[2]) for one in failed}))}")
        return lines

    def gaps(self, stream: str) -> list[tuple[float, float]]:
        """Return (when, how long) for the time between each answer and the next, with the ends of the watch as answers."""
        times = [sample[0] for sample in self.answered(stream)]
        if not times:
            first, last = self.samples[stream][0][0], self.samples[stream][-1][0]
            return [(first, last - first)]
        ends = [self.samples[stream][0][0], *times, self.samples[stream][-1][0]]
        return [(before, after - before) for before, after in itertools.pairwise(ends)]

    def gap(self, stream: str) -> float:
        """Return the longest time without an answer, in seconds; infinite when there was none any more at the end."""
        _since, silence = self.gaps(stream)[-1]
        if silence >= BASELINE or not self.answered(stream):
            return INFINITE
        return max(length for _when, length in self.gaps(stream))

    def longest(self, stream: str) -> float:
        """Return the longest time that anyone waited for an answer, in seconds; infinite when one got none, or nobody asked."""
        return max((sample[1] if sample[1] is not None else INFINITE for sample in self.samples[stream]), default=INFINITE)


def unnoticed(watch: Watch) -> Iterator[Figure]:
    """Yield that a client went on resolving names, and the floating address answering, as if nothing had happened."""
    yield Figure("failed lookups", watch.failed("lookups"), 0, unit="")
    yield Figure("longest gap in DNS", watch.gap(VIP), 1.5, loose=True)


class Lab:
    """A cluster that may be broken: commands on its nodes, power, cables, and clients that watch."""

    def __init__(self, cluster: Cluster, say: Callable[[str], None] = print) -> None:
        self.cluster = cluster
        self.variables = cluster.variables
        self.say = say
        self.vip = str(cluster.rack.network.vip)
        self.domain = cluster.rack.domain
        self.pair = [one["name"] for one in self.variables["rack_lanservices"]]
        self.address = {name: str(node.address) for name, node in cluster.rack.nodes.items()}
        self.client = next(name for name, node in cluster.rack.nodes.items() if node.type == "compute")
        self.off: set[str] = set()
        self.cuts = itertools.count(1)

    def run(self, node: str, command: str, check: bool = True, limit: float = 60) -> str:
        """Run a shell command on a node as root; return what it printed. Raises Failure when it fails, unless told not to check."""
        result = output(self.ssh(node, command, root=True), timeout=limit)
        if check and result.returncode:
            raise Failure(f"{node}: {command!r} ended with {result.returncode}: {(result.stderr or result.stdout).strip()}")
        return result.stdout.strip()

    def ssh(self, node: str, argv: str | Sequence[str], root: bool = False) -> list[str]:
        """Return the command that runs another one on a node, as ssh.command does, over a connection that stays open."""
        return ssh.command(self.cluster, node, argv, root=root, options=self.kept())

    def kept(self) -> list[str]:
        """Return the options of the connections that stay open."""
        control = ROOT / ".beowulf" / self.cluster.rack.cluster / "drill-%C"
        settings = ("ServerAliveInterval=2", "ServerAliveCountMax=2", "ControlMaster=auto", f"ControlPath={control}", "ControlPersist=30")
        return [word for setting in settings for word in ("-o", setting)]

    def admits(self, node: str, certificate: Path) -> bool:
        """Say whether a node lets this controller in with a certificate. Raises Failure when it does not answer."""
        own = str(identity.own_certificate(self.cluster))
        result = output([word.replace(own, str(certificate)) for word in ssh.command(self.cluster, node, ["true"], options=ssh.FRESH)], 20)
        if result.returncode and "Permission denied" not in result.stderr:
            raise Failure(f"{node} does not answer: {result.stderr.strip()}")
        return result.returncode == 0

    def peer(self, node: str) -> str:
        """Return the other LAN server."""
        return next(name for name in self.pair if name != node)

    def holders(self) -> list[str]:
        """Return the LAN servers that hold the floating address."""
        question = f"ip -oneline -4 address show to {self.vip}"
        return [name for name in self.pair if name not in self.off and self.run(name, question, check=False)]

    def holder(self) -> str:
        """Return the one that does."""
        if len(found := self.holders()) != 1:
            raise Failure(f"the floating address is held by {' and '.join(found) or 'nobody'}")
        return found[0]

    def dhcp_server(self) -> str:
        """Return the LAN server that leases."""
        return next(one["name"] for one in self.variables["rack_dhcp_servers"] if one["role"] == "primary")

    def interface(self, node: str) -> str:
        """Return a node's interface on the LAN."""
        return self.run(node, f"ip -oneline -4 address show to {self.address[node]} | cut -d' ' -f2")

    def power_off(self, *nodes: str) -> None:
        """Take the power away at once: nothing is stopped or written."""
        self.off |= set(nodes)
        self.podman("kill", "--signal", "KILL", *(self.cluster.container(node) for node in nodes))

    def power_on(self, *nodes: str) -> None:
        """Give the power back."""
        self.podman("start", *(self.cluster.container(node) for node in nodes))
        self.off -= set(nodes)
        for node in nodes:
            self.hang_up(node)

    def hang_up(self, node: str) -> None:
        """End the connection to a node that is another machine now."""
        ssh.hang_up(self.cluster, node, self.kept())

    def freeze(self, node: str) -> None:
        """Stop the clockwork of a node without a word to anyone."""
        self.podman("pause", self.cluster.container(node))

    def thaw(self, node: str) -> None:
        """Let it go on as if nothing had happened."""
        self.podman("unpause", self.cluster.container(node))

    def podman(self, *arguments: str) -> None:
        """Call the container engine."""
        result = output(["podman", *arguments], timeout=60)
        if result.returncode:
            raise Failure(f"podman {' '.join(arguments)}: {result.stderr.strip()}")

    def python(self, node: str, program: str, limit: float = 60) -> Any:
        """Run a Python program on a node as root, with what module_utils/dhcp.py defines; return the JSON that it prints."""
        return json.loads(self.run(node, shlex.join(python_with_dhcp(program)), limit=limit))

    @contextlib.contextmanager
    def cut(self, node: str, *others: str, loss: int = 100) -> Iterator[None]:
        """Let a node and others lose frames (percent) from each other while the body runs: whatever they carry, ARP like IP.

        Each drops what it receives; a sender cannot tell whom a broadcast reaches.
        """
        chance = "" if loss == 100 else f"numgen random mod 100 < {loss} "
        table = f"drill_{next(self.cuts)}"
        mac = {name: str(each.mac) for name, each in self.cluster.rack.nodes.items()}
        with contextlib.ExitStack() as cut:
            for receiver, senders in [(node, others), *((other, [node]) for other in others)]:
                hook = f'type filter hook ingress device "{self.interface(receiver)}" priority -300'
                chain = f"chain ingress {{ {hook}; ether saddr {{ {', '.join(mac[name] for name in senders)} }} {chance}drop; }};"
                self.run(receiver, f"nft {shlex.quote(f'table netdev {table} {{ {chain} }}')}")
                cut.callback(self.run, receiver, f"nft delete table netdev {table}")
            yield

    @contextlib.contextmanager
    def watching(self, *streams: Mapping[str, Any]) -> Iterator[Watch]:
        """Let the client ask while the body runs; its answers are in the watch afterwards."""
        watch = Watch()
        program = Path(__file__).with_name("probe.py").read_text(encoding="utf-8")
        command = python_with_dhcp(program, json.dumps({"streams": streams}))
        child = subprocess.Popen(
            self.ssh(self.client, command, root=True), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace",
            env=environment(),
        )  # fmt: skip
        try:
            if child.stdout.readline().strip() != "asking":
                raise Failure(f"the probe on {self.client} does not start: {child.stderr.read().strip()[-500:]}")
            time.sleep(BASELINE)
            yield watch
            time.sleep(BASELINE)
            shown, complaint = child.communicate("", timeout=90)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        if child.returncode:
            raise Failure(f"the probe on {self.client} ended with {child.returncode}: {complaint.strip()[-500:]}")
        watch.samples = json.loads(shown)
        for line in watch.errors():
            self.say(f"  {line}")

    def play(self, command: Sequence[str], variables: Mapping[str, Any] | None = None) -> tuple[int, dict[str, Any] | None]:
        """Run playbooks without progress, and alone: a drill is one more who changes the cluster. Return as playbook.run does."""
        with lock.changing(self.cluster, "drill"):
            return playbook.run(command, "drill", quiet=True, variables=variables)

    @contextlib.contextmanager
    def other_rack(self, change: Callable[[dict[str, Any]], object]) -> Iterator[Path]:
        """Give the path of a rack file beside that of the cluster, in which `change` has changed something, while the body runs."""
        said = yaml.safe_load(self.cluster.path.read_text(encoding="utf-8"))
        change(said)
        path = INVENTORY / f"{self.cluster.name}.drill.rack.yml"
        path.write_text(yaml.safe_dump(said, sort_keys=False), encoding="utf-8")
        try:
            load_rack(path)
            yield path
        finally:
            path.unlink()

    # Streams of questions

    def asks_vip(self) -> dict[str, Any]:
        """The floating address is asked for a name of the cluster every 50 ms."""
        return {"name": VIP, "kind": "dns", "server": self.vip, "question": f"{self.client}.{self.domain}"}

    def looks_up(self) -> dict[str, Any]:
        """A name that is in no hosts file is resolved every 50 ms, by the client's own resolver with its own configuration."""
        return {"name": "lookups", "kind": "lookup", "question": f"vip.{self.domain}"}

    def asks_time(self, node: str) -> dict[str, Any]:
        """A LAN server is asked for the time twice a second, as a client does that has just started."""
        return {"name": "time", "kind": "ntp", "server": self.address[node], "interval": 0.5}

    def leases(self) -> dict[str, Any]:
        """One stranger after the other asks for a lease."""
        return {"name": "leases", "kind": "lease", "interface": self.interface(self.client)}

    # What the servers say

    def kea(self, node: str, command: str, **arguments: Any) -> dict[str, Any]:
        """Give a command to the DHCP server of a node over its control socket; return the answer."""
        return json.loads(self.run(node, shlex.join(kea.question(command, **arguments))))

    def leased(self, node: str) -> set[str]:
        """Return the addresses of the rack for which the DHCP server of a node knows a lease."""
        answer = self.kea(node, "lease4-get-all")
        known = {lease["ip-address"] for lease in answer.get("arguments", {}).get("leases", [])}
        return known & set(self.address.values())

    def setting(self, node: str, path: str, name: str) -> float:
        """Return a number that the configuration on a node gives a name."""
        found = re.search(rf'^\s*"?{re.escape(name)}"?:?\s+([0-9.]+)', self.run(node, f"cat {path}"), re.MULTILINE)
        if not found:
            raise Failure(f"{node}: {path} does not say {name}")
        return float(found[1])

    # Waiting

    def until(self, check: Callable[[], Any], seconds: float, what: str) -> float:
        """Wait until `check` says something true; return the seconds it took. Raises Failure after `seconds`, with the last failure."""
        began, reason = time.monotonic(), ""
        while True:
            try:
                if check():
                    return time.monotonic() - began
                reason = ""
            except Failure as failure:
                reason = f" ({failure})"
            if time.monotonic() - began > seconds:
                raise Failure(f"after {seconds:.0f} s still not: {what}{reason}")
            time.sleep(0.2)

    def until_healthy(self, seconds: float = HEALTHY) -> float:
        """Wait until the whole cluster is as it should be; return the seconds it took."""
        began, problems = time.monotonic(), []
        while True:
            state = gather(self.cluster)
            if state["healthy"]:
                if (took := time.monotonic() - began) > SLOW and problems:
                    self.say(f"  until {took:.1f} s: {'; '.join(problems)}")
                return took
            problems = state["problems"]
            if time.monotonic() - began > seconds:
                raise Failure(f"not healthy after {seconds:.0f} s: {'; '.join(problems)}")
            time.sleep(0.5)


def python_with_dhcp(program: str, *arguments: str) -> list[str]:
    """Return the command that runs a Python program with what module_utils/dhcp.py defines."""
    library = Path(COLLECTIONS, "ansible_collections/beowulf/cluster/plugins/module_utils/dhcp.py").read_text(encoding="utf-8")
    parts = [("dhcp", library), ("__main__", program)]
    source = f"n = {{}}\nfor n['__name__'], text in {parts!r}:\n    exec(compile(text, n['__name__'], 'exec'), n)"
    return ["python3", "-c", source, *arguments]

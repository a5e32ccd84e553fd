"""Break something on purpose, watch it from a client, heal it, and compare what the client saw with what the configuration promises.

The drills are functions in tests/drills/, one file for each function of the cluster. This module runs them: it watches
(beowulf/probe.py on a compute node), injects and heals through `Lab`, judges, repeats, and writes the report.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import itertools
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from beowulf import COLLECTIONS, drill_report, lock, playbook
from beowulf.cluster import INVENTORY, Cluster, load_rack
from beowulf.errors import Failure, Refusal
from beowulf.figures import INFINITE, Figure, summarise, verdict
from beowulf.health.queries import KEA_SOCKET
from beowulf.process import ROOT, environment, output
from beowulf.status import gather

VIP = "dns through the floating address"
"""Name of the stream of questions to the floating address."""
FOLDER = ROOT / "tests" / "drills"
BASELINE = 1.5
"""Seconds that the client asks before anything is broken."""
SLOW = 4
"""Seconds from which on it is told what was missing until the cluster was healthy."""
HEALTHY = 90
"""Seconds that a healed cluster gets until all is as it was."""


@dataclass(frozen=True)
class Drill:
    """A fault: what it does, which line of the fault list it is, and whether it is in the quick set."""

    name: str
    row: str
    quick: bool
    body: Callable[[Lab], Iterable[Figure]]

    @property
    def title(self) -> str:
        """Return the first line of what its function says."""
        return (inspect.getdoc(self.body) or "").splitlines()[0]


DRILLS: dict[str, Drill] = {}


def drill(row: str, quick: bool = False) -> Callable[[Callable[[Lab], Iterable[Figure]]], Callable[[Lab], Iterable[Figure]]]:
    """Register a function as a drill, under its name with a dash for each underscore."""

    def register(body: Callable[[Lab], Iterable[Figure]]) -> Callable[[Lab], Iterable[Figure]]:
        name = body.__name__.replace("_", "-")
        DRILLS[name] = Drill(name, row, quick, body)
        return body

    return register


def load() -> dict[str, Drill]:
    """Return all drills, in the order of their files."""
    for path in sorted(FOLDER.glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"drills_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return DRILLS


def choose(names: Sequence[str], quick: bool) -> list[Drill]:
    """Return the drills of these names; all, or the quick ones, for none."""
    known = load()
    if unknown := [name for name in names if name not in known]:
        raise Refusal(f"There is no drill {', '.join(unknown)}. There are: {', '.join(known)}.")
    return [known[name] for name in names] or [one for one in known.values() if one.quick or not quick]


# What a client saw


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


# What a drill may do


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
        result = output([*self.ssh(node), f"sudo sh -c {shlex.quote(command)}"], timeout=limit)
        if check and result.returncode:
            raise Failure(f"{node}: {command!r} ended with {result.returncode}: {(result.stderr or result.stdout).strip()}")
        return result.stdout.strip()

    def ssh(self, node: str) -> list[str]:
        """Return the command that reaches a node over a connection that stays open."""
        control = ROOT / ".beowulf" / self.cluster.rack.cluster / "drill-%C"
        command = self.cluster.ssh(node)
        command[1:1] = ["-o", "BatchMode=yes", "-o", "LogLevel=ERROR"]
        command[1:1] = ["-o", "ControlMaster=auto", "-o", f"ControlPath={control}", "-o", "ControlPersist=30"]
        command[1:1] = ["-o", "ServerAliveInterval=2", "-o", "ServerAliveCountMax=2"]
        return command

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
            output(["ssh", "-O", "exit", *self.ssh(node)[1:]], timeout=5)

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
        return json.loads(self.run(node, python_with_dhcp(program), limit=limit))

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
        command = f"sudo {python_with_dhcp(program)} {shlex.quote(json.dumps({'streams': streams}))}"
        child = subprocess.Popen(
            [*self.ssh(self.client), command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
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
        question = json.dumps({"command": command, **({"arguments": arguments} if arguments else {})})
        program = (
            f"import socket; s = socket.socket(socket.AF_UNIX); s.settimeout(3); s.connect('{KEA_SOCKET}');"
            f"s.sendall({question.encode()!r}); s.shutdown(1); print(b''.join(iter(lambda: s.recv(65536), b'')).decode())"
        )
        return json.loads(self.run(node, f"python3 -c {shlex.quote(program)}"))

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


# Running them


def python_with_dhcp(program: str) -> str:
    """Return the shell command that runs a Python program with what module_utils/dhcp.py defines."""
    library = Path(COLLECTIONS, "ansible_collections/beowulf/cluster/plugins/module_utils/dhcp.py").read_text(encoding="utf-8")
    parts = [("dhcp", library), ("__main__", program)]
    source = f"n = {{}}\nfor n['__name__'], text in {parts!r}:\n    exec(compile(text, n['__name__'], 'exec'), n)"
    return f"python3 -c {shlex.quote(source)}"


def run_one(lab: Lab, one: Drill) -> tuple[list[Figure], str]:
    """Run a drill once; return its figures and, when it went wrong, the reason. Whatever was broken is whole again afterwards."""
    try:
        lab.until_healthy()
        figures = list(one.body(lab))
        return [*figures, Figure("healthy again", lab.until_healthy())], ""
    except (Failure, Refusal) as error:
        return [], str(error)
    except (OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
        # A drill that trips over what it finds has failed, and the others are still to come.
        return [], f"{type(error).__name__}: {error}"
    finally:
        if lab.off:
            with contextlib.suppress(Failure):
                lab.power_on(*lab.off)


def drills(cluster: Cluster, names: Sequence[str], repeat: int, quick: bool, as_json: bool) -> None:
    """Run drills, write the report, and fail when one of them did."""
    chosen = choose(names, quick)
    if not cluster.is_lab:
        raise Refusal(f"The nodes of {cluster.name} are no containers: drills take power away, and here nothing could give it back.")
    if repeat < 1:
        raise Refusal(f"--repeat {repeat}: at least 1.")
    if cluster.running_containers() != set(cluster.rack.nodes):
        raise Failure("Not all nodes of the lab run: ./bootstrap deploy")
    lab = Lab(cluster, say=lambda line: print(line, file=sys.stderr, flush=True))
    began, results = time.time(), []
    for one in chosen:
        runs: list[list[Figure]] = []
        reasons: list[str] = []
        for number in range(1, repeat + 1):
            lab.say(f"{one.name} {number}/{repeat}: {one.title}")
            figures, reason = run_one(lab, one)
            runs.append(figures)
            reasons += [reason] if reason else []
            told = reason or ", ".join(f"{figure.name} {figure.value:.2f} {figure.unit}".rstrip() for figure in figures)
            print(f"{one.name} {number}/{repeat}: {told}", file=sys.stderr if as_json else sys.stdout, flush=True)
        summary = summarise([run for run in runs if run])
        kept = all(verdict(figure, quick) != "FAILED" for figure in summary.values())
        results.append({"name": one.name, "row": one.row, "title": one.title, "repeat": repeat, "figures": summary,
                        "failures": reasons, "ok": kept and not reasons})  # fmt: skip
    changed, trouble = redeploy(lab)
    conclude(cluster, {"cluster": cluster.name, "started": began, "seconds": time.time() - began, "quick": quick, "changed": changed,
                       "trouble": trouble, "drills": results,
                       "ok": all(one["ok"] for one in results) and changed == 0}, as_json)  # fmt: skip


def redeploy(lab: Lab) -> tuple[int | None, str]:
    """Deploy once more; return how much it changed (nothing, when the drills left all as it was), or None and why it could not."""
    try:
        code, summary = lab.play(playbook.command(lab.cluster, "site"))
    except (Failure, Refusal) as error:
        return None, str(error)
    if code or summary is None:
        return None, f"the deploy after the drills failed ({code}): ./bootstrap deploy"
    changed = playbook.counts(summary)["changed"]
    told = "; ".join(f"{one['node']}: {one['task']}" for one in summary["changes"])
    return changed, f"the deploy after the drills changed {changed}: {told}" if changed else ""


def conclude(cluster: Cluster, result: dict[str, Any], as_json: bool) -> None:
    """Write the report, tell the figures, and raise unless all bounds were kept."""
    path = drill_report.write(cluster.state / "drills", result)
    if as_json:
        print(drill_report.as_json(result))
    else:
        print("\n" + "\n".join(drill_report.table(result)))
        print(f"\n{result['trouble'] or 'after the drills a deploy changed ' + str(result['changed'])}\nreport: {path}")
    if not result["ok"]:
        bad = [one["name"] for one in result["drills"] if not one["ok"]]
        raise Failure(
            ""
            if as_json
            else f"drill {cluster.name}: FAILED: {', '.join(bad) or result['trouble'] or 'the deploy afterwards changed something'}"
        )

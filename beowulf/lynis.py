"""How Lynis rates the nodes, and for every point that is missing, why.

The program comes from Debian's package by way of this machine and is run from a folder on the node: a vanilla node needs no network for
it, nothing is installed, and nothing stays.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beowulf import inventory, ssh
from beowulf.cluster import Cluster
from beowulf.errors import Failure, Refusal
from beowulf.process import output

LIMIT = 900.0
WANTED = 80
"""The index without what a container cannot have that every deployed node has to reach. This project's own target: Lynis sets none."""
MARK = "/etc/security/limits.d/60-hardening.conf"
"""What the last role of a deploy, hardening, makes: a node without it was not deployed."""
AUDIT = f"""
set -e
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
tar -x -C "$folder"
cd "$folder"
mkdir plugins
systemd-detect-virt --container || :
if test -e {MARK}; then echo deployed; else echo vanilla; fi
./lynis audit system --quick --quiet --no-colors --profile ./default.prf --logfile log --report-file report >/dev/null 2>&1 || :
cat log
"""
"""Runs as root, with the program as an archive at standard input; the first two lines are what kind of container this is, or `none`,
and `deployed` or `vanilla`."""

CONTAINER = {
    "ACCT-9628": "there is one audit daemon, that of the host",
    "FILE-6310": "a container has one file system",
    "FILE-6344": "/proc is mounted by the engine",
    "FILE-6374": "/dev is mounted by the engine",
    "KRNL-6000:dev": "a setting of the host",
    "KRNL-6000:fs": "a setting of the host",
    "KRNL-6000:kernel": "a setting of the host",
    "KRNL-6000:net.core": "a setting of the host",
    "MACF-6290": "AppArmor is the host's",
    "USB-3000": "a container has no USB",
}
"""What a container cannot have, whoever sets it up: the beginning of a check's name, and why."""

DECIDED = {
    "ACCT-9622": "the accounts of a node are its services; who came in, and with which certificate, is in the journal",
    "ACCT-9628": "writes to the card without end; who came in, and with which certificate, is in the journal",
    "AUTH-9230": "there are no passwords",
    "AUTH-9262": "there are no passwords",
    "AUTH-9286": "there are no passwords, and one that has aged keeps out whoever has a certificate, too",
    "AUTH-9328": "with umask 027 other users could not read what a role's commands make for them",
    "AUTH-9408": "there are no passwords",
    "DBS-1884": "the password is that of the user `default`, by its checksum; Lynis looks for requirepass",
    "DBS-1886": "an ACL takes what an admin does from the user `default`; Lynis looks for rename-command",
    "DEB-0280": "ranks of MPI and ccache find each other in /tmp; services have a private one",
    "DEB-0810": "for those who upgrade by hand",
    "DEB-0811": "for those who upgrade by hand",
    "DEB-0831": "for those who upgrade by hand",
    "DEB-0880": "there are no passwords, and sshd keeps out who fails often by itself (PerSourcePenalties)",
    "FILE-6310": "one card, one file system: a node is made anew rather than repaired",
    "FILE-6344": "hidepid keeps systemd's own services from their work",
    "FINT-4350": "reads the whole card for it; a node is made anew from its rack file rather than trusted again",
    "HRDN-7220": "compiling together is what distcc is for",
    "HRDN-7222": "compiling together is what distcc is for",
    "HRDN-7230": "there is no mail and no foreign file to look through",
    "KRNL-5820": "a limit that nobody may raise is in limits.d; /etc/profile need not say it once more",
    "KRNL-6000:kernel.core_uses_pid": "there are no core dumps",
    "KRNL-6000:kernel.ctrl-alt-del": "systemd decides what the keys do",
    "KRNL-6000:kernel.modules_disabled": "a module may be needed later: a USB key, NFS",
    "KRNL-6000:kernel.sysrq": "Debian's choice of keys lets somebody at the board end it cleanly",
    "KRNL-6000:kernel.unprivileged_bpf_disabled": "Debian's 2 says the same, and lets root take it back",
    "KRNL-6000:kernel.yama.ptrace_scope": "ranks of MPI on one node read each other's memory",
    "KRNL-6000:net.ipv4.conf.all.forwarding": "the router and k3s forward",
    "LOGG-2154": "the journal of a node is on the node",
    "MALW-3280": "there is no mail and no foreign file to look through",
    "PKGS-7370": "a node is made anew from its rack file rather than trusted again",
    "PKGS-7420": "compilers and servers have to be of one version on all nodes: the admin upgrades, one node after the other",
    "SSH-7408:AllowTcpForwarding": "the router is the way to the nodes behind it; back to the client nothing is forwarded",
    "SSH-7408:MaxSessions": "the controller does its work over one connection",
    "SSH-7408:Port": "another port hides nothing",
    "TOOL-5190": "the cluster has no second reader for its logs",
    "USB-1000": "a USB key takes a copy of the backups",
    "USB-3000": "whoever plugs a key in stands at the board",
}
"""What is left as it is on purpose, and why."""


@dataclass(frozen=True)
class Rating:
    """What Lynis says of a node: for each check, the points it gave and those it could have given."""

    version: str
    container: bool
    deployed: bool
    checks: Mapping[str, tuple[int, int]]

    def index(self, without_limits: bool = False) -> int:
        """Return the hardening index, 0 to 100, as Lynis counts it; or as if nobody asked for the points that a container cannot have."""
        given, most = (sum(column) for column in zip(*self.checks.values(), strict=True))
        unfair = sum(points for name, points in self.missing.items() if self.limit(name)) if without_limits else 0
        return 100 * given // max(1, most - unfair)

    def limit(self, check: str) -> str:
        """Return why this node cannot have all points of a check; nothing if it could."""
        return reason(CONTAINER, check) if self.container else ""

    @property
    def missing(self) -> dict[str, int]:
        """Return the points that each check did not give."""
        return {name: most - given for name, (given, most) in self.checks.items() if given < most}


def reason(known: Mapping[str, str], check: str) -> str:
    """Return what is said of a check, or of those that begin as it does."""
    return next((said for name, said in known.items() if check == name or check.startswith((f"{name}.", f"{name}:"))), "")


def read(log: str, container: bool, deployed: bool) -> Rating:
    """Read the log of an audit."""
    version, check, detail, total = "", "", "", (0, 0)
    checks: dict[str, tuple[int, int]] = {}
    for line in log.splitlines():
        if found := re.search(r"Program version:\s+(\S+)", line):
            version = found[1]
        elif found := re.search(r"Performing test ID (\S+)", line):
            check, detail = found[1], ""
        elif found := re.search(r"Result: sysctl key (\S+) |Test: Checking (\w+) in ", line):
            detail = found[1] or found[2]
        elif found := re.search(r"Currently having (\d+) points \(out of (\d+)\)", line):
            name = f"{check}:{detail}" if check in ("KRNL-6000", "SSH-7408") else check
            now, before = (int(found[1]), int(found[2])), checks.get(name, (0, 0))
            checks[name] = (before[0] + now[0] - total[0], before[1] + now[1] - total[1])
            total = now
    if not total[1]:
        raise ValueError("no audit")
    return Rating(version, container, deployed, checks)


def program(package: Path) -> bytes:
    """Return an archive with the program, for root alone, out of Debian's package."""
    with tempfile.TemporaryDirectory(prefix="beowulf-") as folder:
        unpacked = output(["dpkg-deb", "--extract", str(package), folder])
        if unpacked.returncode:
            raise Failure(f"{package.name} cannot be unpacked: {unpacked.stderr.strip()}")
        root, packed = Path(folder), io.BytesIO()
        parts = {"lynis": "usr/sbin/lynis", "default.prf": "etc/lynis/default.prf"}
        parts |= {name: f"usr/share/lynis/{name}" for name in ("include", "db")}
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for name, path in parts.items():
                archive.add(root / path, name, filter=_of_root)
        return packed.getvalue()


def _of_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mode &= 0o750
    return member


def fetch(folder: Path) -> Path:
    """Return Debian's package of Lynis, fetched into a folder unless it is there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (there := sorted(folder.glob("lynis_*.deb"))):
        got = output(["apt-get", "download", "--quiet", "lynis"], timeout=120, cwd=folder)
        if not (there := sorted(folder.glob("lynis_*.deb"))):
            raise Failure(f"Debian's package of Lynis cannot be had ({got.stderr.strip()[-300:]}). Put it into {folder}/.")
    return there[-1]


def audit(way: Sequence[str], archive: bytes) -> Rating:
    """Audit a node that a command reaches, given the way to run a shell's program as root there; a failure says why."""
    done = output(way, timeout=LIMIT, text=archive)
    kind, state, log = [*done.stdout.split("\n", 2), "", ""][:3]
    try:
        return read(log, container=kind.strip() not in ("", "none"), deployed=state.strip() == "deployed")
    except ValueError:
        raise Failure(done.stderr.strip()[-300:] or f"no audit; exit code {done.returncode}") from None


def ways(cluster: Cluster, nodes: Iterable[str], console: bool) -> dict[str, list[str]]:
    """Return how each node is reached: by SSH, or on the console of its container."""
    if console:
        return {node: ["podman", "exec", "--interactive", cluster.container(node), "sh", "-c", AUDIT] for node in nodes}
    return {node: ssh.command(cluster, node, AUDIT, root=True, may_ask=True) for node in nodes}


def rows(ratings: Mapping[str, Rating], types: Mapping[str, str]) -> list[str]:
    """Return the index of every node, as a table for documents."""
    lines = ["| node | type | index | without what a container cannot have |", "| --- | --- | ---: | ---: |"]
    return lines + [f"| {node} | {types[node]} | {one.index()} | {one.index(without_limits=True)} |" for node, one in ratings.items()]


def items(ratings: Mapping[str, Rating]) -> list[str]:
    """Return each check that did not give all points, those that cost most first, with the nodes and the reason; as a table."""
    cost: dict[str, dict[str, int]] = {}
    for node, one in ratings.items():
        for name, points in one.missing.items():
            cost.setdefault(name, {})[node] = points
    lines = ["| check | points | nodes | why |", "| --- | ---: | --- | --- |"]
    for name, nodes in sorted(cost.items(), key=lambda pair: (-max(pair[1].values()), pair[0])):
        limits = {ratings[node].limit(name) for node in nodes}
        why = f"container: {limits.pop()}" if limits != {""} and len(limits) == 1 else reason(DECIDED, name) or "open"
        lines.append(f"| {name} | {max(nodes.values())} | {'all' if len(nodes) == len(ratings) else ', '.join(nodes)} | {why} |")
    return lines


def as_data(ratings: Mapping[str, Rating], types: Mapping[str, str]) -> dict[str, Any]:
    """Return all of it for machines."""
    return {
        node: {"type": types[node], "lynis": one.version, "container": one.container, "deployed": one.deployed, "index": one.index(),
               "index_without_limits": one.index(without_limits=True), "missing": one.missing}
        for node, one in ratings.items()
    }  # fmt: skip


def rate(cluster: Cluster, limit: str = "", console: bool = False, as_json: bool = False) -> None:
    """Audit nodes and print how they are rated; fail when one could not be audited, or was deployed and has less than it has to have."""
    if console and not cluster.is_lab:
        raise Refusal(f"--console: the nodes of {cluster.name} are no containers of this machine.")
    nodes = inventory.select(cluster.path, limit) if limit else list(cluster.rack.nodes)
    archive = program(fetch(cluster.state / "lynis"))
    ratings: dict[str, Rating] = {}
    failed: dict[str, str] = {}
    with ThreadPoolExecutor(max_workers=16) as pool:
        asked = {node: pool.submit(audit, way, archive) for node, way in ways(cluster, nodes, console).items()}
        for node, answer in asked.items():
            try:
                ratings[node] = answer.result()
            except Failure as error:
                failed[node] = str(error)
    types = {node: cluster.rack.nodes[node].type for node in nodes}
    if as_json:
        print(json.dumps(as_data(ratings, types), indent=1))
    elif ratings:
        print(f"Lynis {next(iter(ratings.values())).version}", *rows(ratings, types), "", *items(ratings), sep="\n")
        if vanilla := [node for node, one in ratings.items() if not one.deployed]:
            print(f"\nNot judged, because no deploy has come to its end there: {', '.join(vanilla)}")
    problems = [f"{node} could not be audited: {said}" for node, said in failed.items()]
    problems += [
        f"{node} has an index of {index} without what a container cannot have; it has to be {WANTED} or more"
        for node, one in ratings.items()
        if one.deployed and (index := one.index(without_limits=True)) < WANTED
    ]
    if problems:
        raise Failure("\n".join(f"lynis {cluster.name}: {problem}" for problem in problems))

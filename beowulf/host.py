"""Can this machine carry the lab? What is missing is said with the way to get it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from beowulf.errors import Failure
from beowulf.process import ROOT

GIB = 1024**3
DISK = 6
MEMORY = 2.5
"""GiB that have to be free before the nodes run: eight that are set up hold about 1.5."""
CGROUPS = Path("/sys/fs/cgroup")

Missing = tuple[str, str]


def cgroup_version(root: Path = CGROUPS) -> int:
    """Return 2 where control groups are unified, 1 for the old and the hybrid layout."""
    return 2 if (root / "cgroup.controllers").exists() else 1


def runtime(version: int) -> str:
    """Return the container runtime that fits: crun refuses the hybrid layout, runc is behind with version 2."""
    return "crun" if version == 2 else "runc"


def memory(text: str) -> int:
    """Return the bytes of memory that /proc/meminfo says can be had."""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return int(fields.get("MemAvailable", fields.get("MemTotal", "0 kB")).split()[0]) * 1024


def check_programs(version: int) -> list[Missing]:
    """Look for the programs that make and run the nodes."""
    packages = {
        "podman": "podman", runtime(version): runtime(version), "netavark": "netavark", "aardvark-dns": "aardvark-dns",
        "mmdebstrap": "mmdebstrap", "ip": "iproute2", "iptables": "iptables", "nft": "nftables",
    }  # fmt: skip
    # The last two folders are where podman keeps the programs that it alone calls.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", "/usr/lib/podman", "/usr/libexec/podman"])
    return [
        (f"the program {program}", f"apt-get install --no-install-recommends {package}")
        for program, package in packages.items()
        if not shutil.which(program, path=path)
    ]


def check_space(folder: Path, needed: int = DISK) -> list[Missing]:
    """Look at the space that images and containers get."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / GIB
    if free < needed:
        return [(f"{needed} GiB of space at {folder} ({free:.1f} are free)", "podman system prune --all, or a larger disk")]
    return []


def check_memory(text: str, needed: float = MEMORY) -> list[Missing]:
    """Look at the memory."""
    free = memory(text) / GIB
    if free < needed:
        return [(f"{needed:g} GiB of memory ({free:.1f} are free)", "close something large, or take a larger machine")]
    return []


def check_cgroups(root: Path = CGROUPS) -> list[Missing]:
    """Look whether containers with systemd can have control groups of their own."""
    folder = root if cgroup_version(root) == 2 else root / "systemd"
    if not os.access(folder, os.W_OK):
        return [(f"control groups that can be written ({folder})", "in a container: run it with --privileged and --cgroupns=host")]
    return []


def check_links() -> list[Missing]:
    """Try to make what the nodes' network is made of: a bridge and a cable."""
    names = {"bridge": f"bw-b{os.getpid() % 100000}", "veth": f"bw-v{os.getpid() % 100000}"}
    missing = []
    for kind, name in names.items():
        peer = ["peer", "name", f"{name}p"] if kind == "veth" else []
        made = _ip("add", name, "type", kind, *peer)
        if made is not None:
            missing.append((f"the right to make a {kind} ({made})", "run as root; in a container: with the capability NET_ADMIN"))
        else:
            _ip("delete", name)
    return missing


def _ip(*arguments: str) -> str | None:
    """Run `ip link`; return the reason when it fails."""
    try:
        result = subprocess.run(["ip", "link", *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if result.returncode == 0 else (result.stderr.strip() or "no reason given")


def missing_for_lab(running: bool = False) -> list[Missing]:
    """Return what this machine lacks for the lab, each with how to get it; empty when it lacks nothing. A lab that runs has its room."""
    if os.geteuid() != 0:
        return [("root", "sudo ./bootstrap …, as the lab makes containers and a bridge")]
    programs = check_programs(cgroup_version())
    links = [] if any("program ip" in what for what, _how in programs) else check_links()
    short = [] if running else check_room()
    return [*programs, *check_cgroups(), *links, *short]


def check_room() -> list[Missing]:
    """Look at the space and the memory."""
    free = Path("/proc/meminfo").read_text(encoding="ascii")
    return [*check_space(Path("/var/lib/containers")), *check_space(ROOT, 1), *check_memory(free)]


def require_lab(running: bool = False) -> None:
    """Fail with all that is missing."""
    if missing := missing_for_lab(running):
        lines = [f"  {what}: {how}" for what, how in missing]
        raise Failure("\n".join(["This machine cannot run the lab. It needs", *lines]))

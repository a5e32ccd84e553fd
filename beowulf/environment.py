"""What the checks need on top of the controller's environment, installed when they are first used."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from beowulf.errors import Failure
from beowulf.process import ROOT, environment, output

DEVELOPMENT = ROOT / "requirements" / "dev.txt"
HEADER = "# Made from {name}.in by `./bootstrap dev.lock`, which needs uv: every version with the hashes of its files.\n"


PROGRAMS = {"borg": "borgbackup", "pass": "pass", "redis-server": "redis-server"}
"""Programs that the checks start themselves, and the Debian packages that have them."""


def ensure_programs() -> None:
    """Install the host packages that the checks need and this machine lacks."""
    missing = [package for program, package in PROGRAMS.items() if not shutil.which(program)]
    if not missing:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if os.geteuid():
        raise Failure(f"The checks need {' '.join(missing)}: sudo {' '.join(command)}")
    print(f"Installing {' '.join(missing)} ... ", end="", file=sys.stderr, flush=True)
    # In runlevel 1 a package does not start its service (invoke-rc.d(8)): the tests start their own.
    env = environment(DEBIAN_FRONTEND="noninteractive", RUNLEVEL="1")
    for step in (command, ["apt-get", "update"], command):
        result = subprocess.run(step, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if step is command and not result.returncode:
            print("done", file=sys.stderr)
            return
    print("FAILED", file=sys.stderr)
    raise Failure(f"{' '.join(missing)} cannot be installed:\n{result.stderr[-1500:].strip()}")


def ensure_development() -> None:
    """Install what the checks need, programs of the host and requirements/dev.txt, unless that was done."""
    ensure_programs()
    stamp = Path(sys.prefix) / ".development"
    wanted = hashlib.sha256(DEVELOPMENT.read_bytes()).hexdigest()
    if _holds(stamp, wanted):
        return
    with Path(sys.prefix, ".development.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _holds(stamp, wanted):
            return
        stamp.unlink(missing_ok=True)
        began = time.monotonic()
        print("Installing the tools of the checks ... ", end="", file=sys.stderr, flush=True)
        result = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--prefer-binary",
             "--require-hashes", "-r", str(DEVELOPMENT)],
            env=environment(), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if result.returncode:
            print("FAILED", file=sys.stderr)
            raise Failure(f"The tools of the checks cannot be installed:\n{result.stderr[-1500:].strip()}")
        print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
        stamp.write_text(wanted, encoding="ascii")


def _holds(stamp: Path, wanted: str) -> bool:
    return stamp.exists() and stamp.read_text(encoding="ascii") == wanted


def lock() -> None:
    """Write requirements/*.txt anew from requirements/*.in, for every Python from 3.11 on and every machine."""
    for name in ("controller", "dev"):
        command = ["uv", "pip", "compile", "--universal", "--python-version=3.11", "--generate-hashes", "--upgrade"]
        command += ["--no-header", "--quiet", f"{name}.in", f"--output-file={name}.txt"]
        result = output(command, timeout=600, cwd=DEVELOPMENT.parent)
        if result.returncode:
            raise Failure(f"The versions of {name}.in cannot be locked: {result.stderr.strip()}")
        path = DEVELOPMENT.with_name(f"{name}.txt")
        path.write_text(HEADER.format(name=name) + path.read_text(encoding="utf-8"), encoding="utf-8")

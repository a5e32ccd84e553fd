"""What the checks need on top of the controller's environment, installed when they are first used."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
import time
from pathlib import Path

from beowulf.errors import Failure
from beowulf.process import ROOT, environment, output

DEVELOPMENT = ROOT / "requirements" / "dev.txt"
HEADER = "# Made from {name}.in by `./bootstrap dev.lock`, which needs uv: every version with the hashes of its files.\n"


def ensure_development() -> None:
    """Install requirements/dev.txt into this environment unless that was done."""
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

"""Run other programs: argument lists, never a shell; Ctrl-C ends them in their own way."""

from __future__ import annotations

import locale
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INTERRUPTED = 130
PATIENCE = 15


def tool(name: str) -> str:
    """Return the path of a command that was installed beside this Python."""
    return str(Path(sys.executable).parent / name)


def environment(**extra: str) -> dict[str, str]:
    """Return the environment for Ansible and the like: this project's configuration and this Python's commands."""
    env = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
    if locale.getencoding().lower() not in ("utf-8", "utf8"):
        env["LC_ALL"] = "C.UTF-8"  # Ansible refuses any other encoding
    return env | extra


def run(command: Sequence[str], env: Mapping[str, str] | None = None, **options: object) -> int:
    """Run a command in the project's folder and return its exit code; INTERRUPTED when it was ended by Ctrl-C."""
    child = subprocess.Popen(list(command), cwd=ROOT, env=dict(env or environment()), **options)
    interrupted = False
    while True:
        try:
            code = child.wait(PATIENCE if interrupted else None)
            return INTERRUPTED if interrupted or code == -signal.SIGINT else code
        except KeyboardInterrupt:
            # A terminal tells the child, too; whoever signals this process alone does not.
            if not interrupted and not sys.stdin.isatty():
                child.send_signal(signal.SIGINT)
            interrupted = True
        except subprocess.TimeoutExpired:
            child.kill()


def output(
    command: Sequence[str], timeout: float = 60, env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it said; a missing program or no end in time is a failure like any other."""
    try:
        return subprocess.run(
            list(command), cwd=cwd, env=dict(env or environment()), capture_output=True, text=True,
            timeout=timeout, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except OSError as error:
        return subprocess.CompletedProcess(list(command), 127, "", f"{command[0]}: {error.strerror}")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(list(command), 124, "", f"{command[0]}: no answer in {timeout:g} s")

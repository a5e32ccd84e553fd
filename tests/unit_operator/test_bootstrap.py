from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BOOTSTRAP = str(ROOT / "bootstrap")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd="/")


def on_system(release: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run ./bootstrap where /etc/os-release has this content, in a mount namespace of its own."""
    (folder / "os-release").write_text(release)
    script = f'mount --bind "$1" "$(readlink -f /etc/os-release)" && exec "{BOOTSTRAP}" --version'
    return run("unshare", "--mount", "bash", "-c", script, "-", str(folder / "os-release"))


@as_root
@pytest.mark.parametrize(
    ("release", "words"),
    [
        ("ID=fedora\nVERSION_ID=43\n", "needs Debian 12, Debian 13 or a system made from one; this is fedora"),
        ('ID=debian\nVERSION_ID="11"\n', "needs Debian 12 or newer; this is debian 11"),
        ('ID=raspbian\nID_LIKE=debian\nVERSION_ID="11"\n', "this is raspbian 11"),
        ("", "this is unknown"),
    ],
)
def test_other_systems_are_refused_in_one_line(release, words, tmp_path):
    result = on_system(release, tmp_path)
    assert result.returncode == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


@as_root
@pytest.mark.parametrize("release", ['ID=debian\nVERSION_ID="13"\n', 'ID=raspbian\nID_LIKE=debian\nVERSION_ID="12"\n', "ID=debian\n"])
def test_debian_and_its_children_are_accepted(release, tmp_path):
    result = on_system(release, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Invoke ")


@as_root
def test_a_user_is_told_how_to_become_root():
    # In a folder that every user may read, as root's own is not.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        own = shutil.copy(BOOTSTRAP, folder)
        result = run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", own, "--version")
    assert result.returncode == 2
    assert "needs root for the lab: sudo ./bootstrap" in result.stderr


def test_the_second_call_installs_nothing_and_is_fast():
    assert run(BOOTSTRAP, "--version").returncode == 0
    began = time.monotonic()
    result = run(BOOTSTRAP, "--version")
    assert time.monotonic() - began < 1.5
    assert result.stderr == ""


def test_what_is_not_understood_is_code_2():
    assert run(BOOTSTRAP, "no.such.task").returncode == 2


def test_without_a_task_the_contents_are_shown():
    assert "rack.check" in run(BOOTSTRAP).stdout

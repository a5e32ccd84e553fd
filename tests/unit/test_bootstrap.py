from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_values import place

# Stands for Python: `-m venv FOLDER` makes another one there, all else ends well; the last call prints with which umask it is run.
PYTHON = """#!/bin/sh
case "$*" in
  *version_info*) echo 3.11 ;;
  "-m venv "*) mkdir -p "$3/bin" && cat "$0" >"$3/bin/python" && chmod +x "$3/bin/python" ;;
  "-m beowulf.wheel "*) mkdir -p "$5" && touch "$5/made" ;;
  "-P -c"*) umask ;;
esac
"""
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


@pytest.mark.parametrize("letter", " '\"`$;&|<>(){}[]*?!\\#%:,\n\x1b")
def test_a_folder_that_ssh_cannot_use_is_refused_in_one_line(letter, tmp_path):
    folder = tmp_path / f"a{letter}b"
    folder.mkdir()
    result = run(shutil.copy(BOOTSTRAP, folder), "--version")
    assert result.returncode == 2
    assert "cannot use the path" in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.strip().isprintable()
    assert list(folder.iterdir()) == [folder / "bootstrap"]
    # The inventory and the tasks go by the same rule.
    assert place(str(folder)) == letter


def test_a_name_in_any_language_is_a_good_folder(tmp_path):
    folder = tmp_path / "für_ñandú-1.0@x+y=z~"
    folder.mkdir()
    assert "cannot use the path" not in run(shutil.copy(BOOTSTRAP, folder), "--version").stderr
    assert place(str(folder)) is None


@as_root
def test_the_environment_is_for_every_user_whatever_the_umask(tmp_path):
    """With stubs for what installs; the state is for nobody else."""
    shutil.copy(BOOTSTRAP, tmp_path)
    for name in ("requirements", "collections", "beowulf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "ansible_collections"))
    python = tmp_path / "bin/python3.11"
    python.parent.mkdir()
    python.write_text(PYTHON)
    python.chmod(0o755)
    script = (tmp_path / "bootstrap").read_text().replace("for candidate in /usr/bin/python3 ", f"for candidate in {python} ")
    (tmp_path / "bootstrap").write_text(script)
    result = run("sh", "-c", f"umask 077; {tmp_path}/bootstrap --version")
    assert (result.returncode, result.stdout) == (0, "0077\n"), result.stderr
    made = [path for top in (".venvs", ".ansible") for path in (tmp_path / top, *(tmp_path / top).rglob("*"))]
    assert {".complete", "collections.stamp", "python"} <= {path.name for path in made}
    assert [str(path) for path in made if path.stat().st_mode & 0o044 != 0o044] == []
    assert (tmp_path / ".beowulf").stat().st_mode & 0o077 == 0


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

"""The tasks secrets.…, and what stops a deploy before any node: in a copy of the project, so that no cluster's own secrets are touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from ansible_collections.beowulf.cluster.plugins.plugin_utils.secret_store import SecretStore
from beowulf import deploy, secrets
from beowulf.cluster import Cluster
from beowulf.errors import Refusal
from beowulf.process import tool

ROOT = Path(__file__).resolve().parents[2]
NAMES = "redis, ara_admin, ara_secret_key, ca, backup, k3s, k3s_agent"
LIMIT = 3.0
"""Seconds until a vault that does not open has stopped everything."""


@pytest.fixture
def project(tmp_path):
    root = tmp_path / "project"
    for part in ("beowulf", "collections", "inventory", "playbooks"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__", "tests"))
    for part in ("tasks.py", "ansible.cfg"):
        shutil.copy(ROOT / part, root / part)
    # A deploy gives its commit to the deployer, and looks first whether there is one.
    for step in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "--message=x"]):
        git = ["git", "-C", str(root), "-c", "user.name=x", "-c", "user.email=x@example.org", *step]
        subprocess.run(git, check=True)
    return root


@pytest.fixture
def env(project, tmp_path):
    """No store of pass's, no recording, and the settings of the copy."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {
        "PASSWORD_STORE_DIR": str(tmp_path / "none"), "BEOWULF_ARA_SCRIPT": "", "ANSIBLE_CALLBACKS_ENABLED": "ansible.builtin.minimal",
        "LC_ALL": "C.UTF-8", "PATH": path, "ANSIBLE_CONFIG": str(project / "ansible.cfg"),
    }  # fmt: skip


@pytest.fixture
def task(project, env):
    """Run a task as a user does."""

    def run(*arguments):
        code = "import sys; sys.path.insert(0, sys.argv[1]); from beowulf.__main__ import main; main(sys.argv[2:])"
        command = [sys.executable, "-P", "-c", code, str(project), *arguments]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=env, stdin=subprocess.DEVNULL)
        assert "Traceback" not in result.stderr
        return result

    return run


@pytest.fixture
def state(project, env, monkeypatch):
    monkeypatch.setenv("PASSWORD_STORE_DIR", env["PASSWORD_STORE_DIR"])
    return project / ".beowulf" / "lab"


def soonest(run):
    """Run it up to three times; return what came of the last one, and the shortest time by the clock, on a machine of its own.

    A machine that has other things to do is slow, and as slow for a loop that only counts; what hangs is so every time, and alone.
    """
    took = []
    while len(took) < 3 and min(took, default=LIMIT) >= LIMIT:
        before, began = slowness(), time.monotonic()
        result = run()
        took.append((time.monotonic() - began) / max(before, slowness()))
    return result, min(took)


def slowness():
    """Return how much longer than its time on the processor a program takes right now: 1 on a machine of its own."""
    clock, processor = time.monotonic(), time.process_time()
    while time.process_time() - processor < 0.2:
        pass
    return (time.monotonic() - clock) / (time.process_time() - processor)


def spoil(state, how):
    """Make the password of a vault a wrong one in some way."""
    path = state / "vault-password"
    if how == "missing":
        path.unlink()
    elif how == "wrong":
        path.write_text("wrong\n")
    else:
        path.chmod(0o644)


SPOILT = [("wrong", "The password of the secrets of lab is wrong"), ("missing", "but its password is not"), ("open", "its mode is 0644")]


def test_init_makes_them_once_and_shows_no_value(task, state):
    first = task("secrets.init")
    assert first.returncode == 0, first.stderr
    assert f"generated: {NAMES}\n" in first.stdout
    content = (state / "secrets.yml").read_bytes()
    second = task("secrets.init")
    assert f"there before: {NAMES}\n" in second.stdout
    assert "generated" not in second.stdout
    assert (state / "secrets.yml").read_bytes() == content
    password = (state / "vault-password").read_text().strip()
    assert task("secrets.show", "redis").stdout == values(state)["redis"] + "\n"
    for value in values(state).values():
        for shown in (first, second):
            assert value not in shown.stdout + shown.stderr
            assert password not in shown.stdout + shown.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["secrets.show", "bakup"], "There is no secret 'bakup'. Did you mean backup? There are: redis,"),
        (["secrets.rotate", "bakup"], "There is no secret 'bakup'. Did you mean backup?"),
        (["secrets.rotate", "k3s"], "k3s is not rotated: the keys in the datastore of k3s are encrypted with it"),
        (["secrets.rotate", "--name", "redis", "--name", "backup"], "the backups are encrypted with backup"),
        (["secrets.rotate", "redis", "--password"], "leave the names out"),
        (["secrets.show"], "did not receive required positional arguments: 'name'"),
    ],
)
def test_mistakes_are_refused_and_change_nothing(task, state, arguments, said):
    SecretStore(state, "lab").create()
    before = {path.name: path.read_bytes() for path in state.iterdir()}
    result = task(*arguments)
    assert result.returncode == 2
    assert said in result.stderr
    assert {path.name: path.read_bytes() for path in state.iterdir()} == before


def values(state):
    return dict(SecretStore(state, "lab").read())


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [([], {"redis", "ara_admin", "ara_secret_key", "k3s_agent"}), (["redis"], {"redis"}), (["--password"], set())],
)
def test_rotation_changes_these_and_says_what_follows(task, state, arguments, changed):
    SecretStore(state, "lab").create()
    before, password = values(state), (state / "vault-password").read_text()
    result = task("secrets.rotate", *arguments)
    assert result.returncode == 0, result.stderr
    after = values(state)
    assert {name for name in after if after[name] != before[name]} == changed
    assert ((state / "vault-password").read_text() != password) == (arguments == ["--password"])
    assert "./bootstrap deploy" in result.stdout
    assert not any(value in result.stdout for value in [*before.values(), *after.values()])


@pytest.mark.parametrize(("how", "said"), SPOILT)
def test_a_deploy_stops_before_anything_is_done(task, state, how, said):
    SecretStore(state, "lab").create()
    spoil(state, how)
    before = sorted(path.name for path in state.iterdir())
    result, took = soonest(lambda: task("deploy"))
    assert took < LIMIT
    assert result.returncode == 2
    assert said in result.stderr
    assert sorted(path.name for path in state.iterdir() if path.name != "lock") == before
    assert result.stdout == ""


@pytest.fixture
def site(project, env, tmp_path):
    """Run site.yml with a router that only leaves a trace: the first node that would be touched."""
    trace = tmp_path / "touched"
    play = "- hosts: router\n  gather_facts: false\n  connection: local\n  become: false\n  tasks:\n"
    play += f"    - ansible.builtin.command: touch {trace}\n      tags: dns\n"
    (project / "playbooks" / "router.yml").write_text(play)
    site = yaml.safe_load((project / "playbooks" / "site.yml").read_text())
    for name in {one["ansible.builtin.import_playbook"] for one in site} - {"vault_check.yml", "router.yml"}:
        (project / "playbooks" / name).write_text("- hosts: none_of_them\n  tasks: []\n")

    def run(*options):
        here = "ansible_python_interpreter={{ ansible_playbook_python }}"
        command = [tool("ansible-playbook"), "playbooks/site.yml", "-e", here, *options]
        return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False), trace.exists()

    return run


@pytest.mark.parametrize("options", [[], ["--limit=omega"], ["--check", "--tags=dns"]])
def test_ansible_itself_makes_them_on_the_first_run(site, state, options):
    result, touched = site(*options)
    assert touched == ("--check" not in options)
    assert result.returncode == 0, result.stdout + result.stderr
    modes = [stat.S_IMODE((state / name).stat().st_mode) for name in ("secrets.yml", "vault-password")]
    assert modes == [0o600, 0o600]


@pytest.mark.parametrize(("how", "said"), SPOILT)
@pytest.mark.parametrize("options", [[], ["--limit=omega", "--tags=dns"]])
def test_ansible_itself_stops_before_any_node(site, state, how, said, options):
    SecretStore(state, "lab").create()
    spoil(state, how)
    (result, touched), took = soonest(lambda: site(*options))
    assert took < LIMIT
    assert result.returncode != 0
    assert said in " ".join(result.stdout.split())
    assert not touched


def test_the_first_deploy_makes_them_before_the_lab(monkeypatch):
    """A deploy asks for the secrets before it asks whether this machine can carry a lab."""

    def refuse(cluster):
        raise Refusal(f"the secrets of {cluster.name}")

    monkeypatch.setattr(secrets, "preflight", refuse)
    monkeypatch.setattr(deploy.lock, "here", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(deploy.host, "require_lab", lambda: pytest.fail("it went on"))
    with pytest.raises(Refusal, match="the secrets of lab"):
        deploy.deploy(Cluster("lab"))

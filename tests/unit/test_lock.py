"""One at a time: the lock is a real one, taken by the command that a controller gives the deployer."""

import contextlib
import fcntl
import json
import os
import pwd
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from beowulf import backup, deploy, k3s, lock, playbook
from beowulf import cluster as clusters
from beowulf.errors import Refusal
from beowulf.pki import rotation
from beowulf.process import ROOT

ME = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "own" / "lock")


def take(path, who="{}"):
    return subprocess.Popen(["sh", "-c", lock.holding(path, who)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def holder(path):
    who = {"user": "ada", "host": "desk", "task": "deploy", "since": "2026-01-02 03:04:05 UTC", "process": 7}
    child = take(path, json.dumps(who))
    assert child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.wait()


def test_the_second_is_refused_at_once_and_told_who_it_is(holder, path):
    began = time.monotonic()
    second = take(path)
    shown, _ = second.communicate(timeout=10)
    assert time.monotonic() - began < 2
    assert second.returncode == lock.TAKEN
    assert lock.told(shown) == "ada@desk runs deploy since 2026-01-02 03:04:05 UTC (process 7)"


def test_the_refused_one_does_not_take_the_name_of_the_holder_away(holder, path):
    for _ in range(2):
        shown, _ = take(path).communicate(timeout=10)
    assert "ada" in shown


def test_the_lock_ends_with_the_one_who_holds_it(holder, path):
    holder.communicate("", timeout=10)
    third = take(path)
    assert third.stdout.readline() == "held\n"
    third.communicate("", timeout=10)


def test_the_lock_of_one_who_was_killed_is_no_lock(path):
    """What holds it is what notices that the connection is gone."""
    child = subprocess.Popen(["sh", "-c", lock.holding(path, "{}")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "held\n"
    child.stdin.close()  # as sshd does for a client that died
    child.wait(timeout=10)
    again = take(path)
    assert again.stdout.readline() == "held\n"
    again.communicate("", timeout=10)


@pytest.mark.parametrize("text", ["", "{}", "no json", "[1]"])
def test_a_holder_that_did_not_say_who_it_is_holds_it_all_the_same(text):
    assert "somebody else" in lock.told(text)


@pytest.fixture
def desk(monkeypatch, tmp_path):
    """Make controllers of the cluster `lab`, each with a clone of its own; the lock of all is on the deployer, which answers."""
    monkeypatch.setattr(lock, "FILE", str(tmp_path / "own" / "lock-{cluster}"))
    monkeypatch.setattr(clusters, "is_own", lambda address: address == "127.0.0.1")

    def one(name, deployer="127.0.0.1", ssh="exit 255"):
        (tmp_path / "ssh").write_text(f"#!/bin/sh\n{ssh}\n")
        (tmp_path / "ssh").chmod(0o755)
        variables = {"rack_deployer": {"name": "psi", "address": deployer}, "rack_ssh_user": ME, "rack_k3s_servers": ["gamma"]}
        rack = SimpleNamespace(cluster="lab", nodes={})
        return SimpleNamespace(
            name="lab", rack=rack, variables=variables, state=tmp_path / name / "state", ssh=lambda _node: [str(tmp_path / "ssh")]
        )

    return one


@contextlib.contextmanager
def another_process(cluster, task):
    """Hold the lock of a clone in another process, until it is killed."""
    program = (
        "import sys, time, pathlib, types; from beowulf import lock\n"
        "cluster = types.SimpleNamespace(name='lab', state=pathlib.Path(sys.argv[1]))\n"
        "with lock.here(cluster, sys.argv[2]): print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(cluster.state), task], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert child.stdout.readline() == "held\n"
        yield child
    finally:
        child.kill()
        child.wait()


def refusal(take, cluster, task):
    """Be refused a lock, at once; return why."""
    began = time.monotonic()
    with pytest.raises(Refusal) as refused, take(cluster, task):
        pytest.fail("both change the cluster")
    assert time.monotonic() - began < 2
    assert refused.value.code == 2
    return str(refused.value)


def test_another_controller_is_refused_by_the_deployer(desk):
    path = Path(lock.FILE.format(cluster="lab", user=ME))
    path.parent.mkdir()
    with path.open("w+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps({"user": "ada", "host": "psi", "task": "ca.renew", "since": "2026", "process": 7}))
        file.flush()
        assert "deploy lab: refused, ada@psi runs ca.renew since 2026 (process 7)" in refusal(lock.changing, desk("one"), "deploy")
    with lock.changing(desk("one"), "deploy"):
        pass


@pytest.mark.parametrize("deployer", ["127.0.0.1", "10.77.0.10"])
def test_another_process_is_refused_whether_or_not_there_is_a_deployer(desk, deployer):
    cluster = desk("one", deployer)
    with another_process(cluster, "lab.up") as other:
        said = refusal(lock.changing, cluster, "deploy")
        assert re.search(rf"deploy lab: refused, .+@.+ runs lab\.up since 2.*\(process {other.pid}\)", said)
        assert "lab.up" in refusal(lock.here, cluster, "lab.down"), "the one that was refused took the name of the holder away"
        # However it ends: a lock that is left over is no lock.
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        with lock.changing(cluster, "deploy"):
            pass


# A run whose work is a program that says its number and goes on until nobody holds its standard input any more.
WORKS = """
import pathlib, sys, types
from beowulf import cluster as clusters, deploy, lock, playbook
lock.FILE, clusters.is_own = sys.argv[2], lambda _address: True
deployer = {'name': 'psi', 'address': '127.0.0.1'}
cluster = types.SimpleNamespace(name='lab', state=pathlib.Path(sys.argv[1]), rack=types.SimpleNamespace(cluster='lab'),
                                variables={'rack_deployer': deployer, 'rack_ssh_user': sys.argv[3]})
with lock.changing(cluster, 'ca.renew'):
    playbook.run([sys.executable, '-c', 'import os, sys; print(os.getpid(), flush=True); sys.stdin.read()'], 'ca.renew')
"""


def test_both_locks_are_held_until_the_program_has_ended_that_does_the_work(desk, tmp_path):
    """Whoever kills the process that the refusal names leaves ansible-playbook behind."""
    cluster = desk("one")
    command = [sys.executable, "-c", WORKS, str(cluster.state), lock.FILE, ME]
    run = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        works = int(run.stdout.readline())
        run.kill()
        run.wait()
        # It has none of them itself, and so has nothing that it leaves behind: a master of ssh's, say, which stays for a minute.
        assert not [name for path in Path(f"/proc/{works}/fd").iterdir() if (name := os.readlink(path)).startswith(str(tmp_path))]
        assert re.search(rf"runs ca\.renew since .*\(process {run.pid}\)", refusal(lock.here, cluster, "deploy"))
        other = desk("two")
        assert "runs ca.renew" in refusal(lock.changing, other, "deploy")
    finally:
        run.kill()
        run.stdin.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        later = take(lock.FILE.format(cluster="lab", user=ME))
        later.communicate("", timeout=10)
        if later.returncode != lock.TAKEN:
            break
        time.sleep(0.1)
    for one in (cluster, other):
        with lock.changing(one, "deploy"):
            pass


def test_a_task_that_calls_another_one_does_not_refuse_itself(desk):
    cluster = desk("one")
    with lock.here(cluster, "deploy"), lock.changing(cluster, "lab.up"):
        pass
    with lock.changing(cluster, "backup.restore"):
        with lock.changing(cluster, "deploy"), lock.here(cluster, "lab.up"):
            assert json.loads((cluster.state / "lock").read_text())["task"] == "backup.restore"
        # What is inside does not let go what is around it.
        assert take(lock.FILE.format(cluster="lab", user=ME)).wait(timeout=10) == lock.TAKEN
        assert "backup.restore" in (cluster.state / "lock").read_text()
    assert (cluster.state / "lock").read_text() == ""
    assert take(lock.FILE.format(cluster="lab", user=ME), "{}").stdout.readline() == "held\n"


def test_the_deployer_is_asked_again_when_it_was_not_there_at_first(desk):
    with lock.changing(desk("one", "10.77.0.10"), "backup.restore"), lock.changing(desk("one"), "deploy"):
        assert take(lock.FILE.format(cluster="lab", user=ME)).wait(timeout=10) == lock.TAKEN


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("echo 'flock: cannot open lock file: Read-only file system' >&2; exit 73", "ended with 73 and said: flock: cannot open lock file"),
        ("echo 'sh: 1: flock: not found' >&2; exit 127", "ended with 127 and said: sh: 1: flock: not found"),
        ("echo Welcome; exit 0", "ended with 0 and said: Welcome"),
        ("kill -9 $$", "ended with -9 and said: nothing"),
    ],
)
def test_a_deployer_that_answers_without_giving_the_lock_is_no_reason_to_go_on(desk, answer, said):
    text = refusal(lock.changing, desk("one", "10.77.0.10", answer), "deploy")
    assert said in text
    assert "psi answers and does not give the lock" in text


def test_a_lock_that_cannot_be_opened_is_told(desk):
    cluster = desk("one")
    (cluster.state / "lock").mkdir(parents=True)
    assert f"the lock {cluster.state / 'lock'} cannot be opened: Is a directory" in refusal(lock.here, cluster, "deploy")


def test_who_changes_a_cluster_takes_its_lock_before_anything_else(desk, monkeypatch):
    cluster = desk("one")
    cluster.is_lab = True
    chosen = backup.Copy("alpha", {"archive": "lab-1", "archives": ["lab-1"], "time": "2026-01-01T00:00:00+00:00"})
    monkeypatch.setattr(backup, "choose", lambda *_: chosen)
    for module, name in ((playbook, "run"), (deploy.host, "require_lab"), (deploy.secrets, "preflight")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("it went on"))
    with another_process(cluster, "ca.renew"):
        for task, does in (
            ("deploy", lambda: deploy.deploy(cluster)),
            ("lab.up", lambda: deploy.lab(cluster, "lab.up")),
            ("lab.down", lambda: deploy.lab(cluster, "lab.down")),
            ("backup.restore", lambda: backup.restore(cluster)),
            ("ca.renew", lambda: rotation.renew(cluster)),
            ("backup.create", lambda: backup.create(cluster)),
            ("k3s.remove", lambda: k3s.remove(cluster, "gamma")),
            ("k3s.snapshot", lambda: k3s.snapshot(cluster)),
            ("k3s.restore", lambda: k3s.restore(cluster, __file__)),
        ):
            with pytest.raises(Refusal, match=rf"^{task} lab: refused, .* runs ca\.renew"):
                does()


SOMEBODY = pwd.getpwnam("nobody")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="not root")


@as_root
def test_a_service_of_the_deployer_cannot_hold_the_lock_or_say_who_does(tmp_path):
    for folder in (tmp_path, *tmp_path.parents[:-2]):  # all below /tmp
        folder.chmod(0o755)
    path = str(tmp_path / "own" / "lock")
    take(path).communicate("", timeout=10)
    assert Path(path).exists()
    hold = f"import fcntl; file = open({path!r}); fcntl.flock(file, fcntl.LOCK_EX)"
    service = subprocess.run(["runuser", "-u", "nobody", "--", "python3", "-c", hold], capture_output=True, text=True, check=False)
    assert "Permission denied" in service.stderr
    assert service.returncode


@as_root
@pytest.mark.parametrize("first", ["root", "the user"])
def test_root_on_the_deployer_and_the_user_there_exclude_each_other_and_shut_nobody_out(desk, tmp_path, monkeypatch, first):
    """Whoever of them came first leaves a file that the other one can take, too."""
    for folder in (tmp_path, *tmp_path.parents[:-2]):  # all below /tmp
        folder.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, SOMEBODY.pw_uid, SOMEBODY.pw_gid)
    monkeypatch.setattr(lock, "FILE", str(home / "state" / "{cluster}.lock"))
    cluster = desk("one")
    cluster.variables["rack_ssh_user"] = "nobody"
    path = lock.FILE.format(cluster="lab", user="nobody")
    as_user = ["runuser", "-u", "nobody", "--", "sh", "-c", lock.holding(path, json.dumps({"user": "the user"}))]

    def user():
        return subprocess.Popen(as_user, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def by_root():
        with lock.changing(cluster, "deploy"):
            assert user().wait(timeout=10) == lock.TAKEN

    def by_user():
        child = user()
        assert child.stdout.readline() == "held\n"
        assert "somebody else" in refusal(lock.changing, cluster, "deploy")
        child.communicate("", timeout=10)

    for one in (by_root, by_user) if first == "root" else (by_user, by_root):
        one()


@as_root
def test_root_in_the_clone_of_a_user_leaves_that_one_the_lock_of_it(desk):
    cluster = desk("one")
    cluster.state.mkdir(parents=True)
    os.chown(cluster.state, SOMEBODY.pw_uid, SOMEBODY.pw_gid)
    with lock.here(cluster, "deploy"):
        pass
    assert (cluster.state / "lock").stat().st_uid == SOMEBODY.pw_uid


def test_what_stands_in_the_file_steers_no_terminal():
    who = {"user": "\x1b]0;owned\x07ada\x9b2J", "host": "desk", "task": "deploy", "since": "2026", "process": 7}
    assert lock.told(json.dumps(who)) == "]0;ownedada2J@desk runs deploy since 2026 (process 7)"

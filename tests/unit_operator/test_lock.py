"""One at a time: the lock is a real one, taken by the command that a controller gives the deployer."""

import json
import subprocess
import time
from types import SimpleNamespace

import pytest

from beowulf import cluster as clusters
from beowulf import lock
from beowulf.errors import Refusal


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "lock")


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


def test_the_second_touches_nothing_and_ends_with_2(monkeypatch, tmp_path):
    monkeypatch.setattr(lock, "FILE", str(tmp_path / "lock-{cluster}"))
    monkeypatch.setattr(clusters, "is_own", lambda _address: True)
    deployer = {"name": "psi", "address": "127.0.0.1"}
    lab = SimpleNamespace(name="lab", rack=SimpleNamespace(cluster="lab"), variables={"rack_deployer": deployer})
    said = r"deploy lab: refused, .+@.+ runs ca\.renew since 2"
    began = time.monotonic()
    with lock.changing(lab, "ca.renew"), pytest.raises(Refusal, match=said) as refused, lock.changing(lab, "deploy"):
        pytest.fail("both change the cluster")
    assert refused.value.code == 2
    assert time.monotonic() - began < 2

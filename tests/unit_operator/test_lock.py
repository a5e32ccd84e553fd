"""One at a time: the lock is a real one, taken by the command that a controller gives the deployer."""

import json
import subprocess
import time

import pytest

from beowulf import lock


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

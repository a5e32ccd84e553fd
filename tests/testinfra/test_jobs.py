"""What one node of the herd writes into the shared folder is there for all the others, for nobody else, and locks hold between nodes."""

from __future__ import annotations

import json
import shlex
import uuid

import pytest

testinfra_hosts = ["ansible://jobs"]

FOLDER = "/srv/jobs"
PORTS = (2049, 24010)

# Takes the lock of a file and holds it for some seconds.
HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
time.sleep(float(sys.argv[2]))
"""
TRY = """
import fcntl, sys
try:
    fcntl.lockf(open(sys.argv[1], "w"), fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("free")
except BlockingIOError:
    print("taken")
"""
KNOCK = """
import socket
answers = {{}}
for port in {ports}:
    try:
        socket.create_connection(({address!r}, port), 2).close()
        answers[port] = "open"
    except TimeoutError:
        answers[port] = "silent"
    except ConnectionRefusedError:
        answers[port] = "refused"
print(json.dumps(answers))
"""


def as_user(host, command):
    """Standard output of a command of the user of the herd's programs, or a failed test: nobody waits for a server that is not there."""
    result = host.run(f"timeout 30 sudo -u mpi sh -c {shlex.quote(command)}")
    assert result.rc == 0, result.stderr + result.stdout
    return result.stdout.strip()


@pytest.fixture
def path(host):
    name = f"{FOLDER}/test-{uuid.uuid4().hex}"
    yield name
    as_user(host, f"rm -rf {name}")


@pytest.fixture
def others(host, nodes, node, chosen):
    found = [node(name) for name in nodes("jobs") if name in chosen and name != host.backend.host]
    if not found:
        pytest.skip("no other node shares the folder")
    return found


def test_it_is_one_folder_and_no_local_one(host, rack):
    kind = host.check_output("findmnt --noheadings --output FSTYPE --target %s | tail -1", FOLDER)
    local = rack["rack_jobs_server"]["name"] == host.backend.host and not kind.startswith("fuse")
    assert local or kind in ("nfs4", "fuse.glusterfs"), kind
    assert host.check_output("stat --format='%%u:%%g %%a' %s", FOLDER) == "2001:2001 755"


def test_what_one_node_writes_the_others_read_at_once(host, others, path):
    for number in range(5):
        text = f"{number}-" + "x" * number * 10_000
        for other in others:
            # Asked for before it is there, and read before it is changed: neither answer may be remembered.
            other.run(f"timeout 30 sudo -u mpi cat {path}")
        as_user(host, f"umask 027; echo {text} > {path}")
        for other in others:
            assert as_user(other, f"stat --format='%U:%G %a' {path}; cat {path}") == f"mpi:mpi 640\n{text}"


def test_root_of_a_client_is_not_root_there(host, others, path):
    as_user(host, f"touch {path}")
    for client in (host, *others):
        assert client.run(f"sudo chown root {path}").rc != 0
    assert as_user(host, f"stat --format=%U {path}") == "mpi"
    # What root makes is the user's.
    for number, client in enumerate(others):
        client.check_output(f"sudo touch {path}.{number}")
        try:
            assert as_user(host, f"stat --format=%U {path}.{number}") == "mpi"
        finally:
            as_user(host, f"rm {path}.{number}")


def test_a_lock_of_one_node_holds_on_the_others(host, others, path):
    hold, ask = (f"python3 -c {shlex.quote(program)} {path}" for program in (HOLD, TRY))
    as_user(host, f"touch {path}")
    unit = f"test-jobs-{uuid.uuid4().hex[:8]}"
    assert as_user(others[0], ask) == "free"
    host.check_output(f"sudo systemd-run --quiet --collect --unit={unit} --uid=mpi {hold} 60")
    try:
        taken = [ask_until(other, ask, "taken") for other in others]
    finally:
        host.check_output(f"sudo systemctl stop {unit}")
    assert taken == ["taken"] * len(others)
    assert [ask_until(other, ask, "free") for other in others] == ["free"] * len(others)


def ask_until(host, ask, wanted):
    """Ask for the lock up to ten times, as the other side may just be starting or ending; return the last answer."""
    for _attempt in range(10):
        if (answer := as_user(host, ask)) == wanted:
            break
        host.check_output("sleep 0.5")
    return answer


def test_a_node_of_another_type_is_not_let_in(host, rack, node, nodes, chosen, python):
    if rack["rack_jobs_server"]["name"] != host.backend.host:
        pytest.skip("not the server")
    strangers = [name for name in (*nodes("lanservices"), *nodes("deployer"), *nodes("router")) if name in chosen]
    if not strangers:
        pytest.skip("no node of another type takes part")
    ask = KNOCK.format(ports=PORTS, address=rack["rack_jobs_server"]["address"])
    for name in strangers:
        assert python(node(name), ask) == {str(port): "silent" for port in PORTS}, name


def test_a_node_of_the_herd_is_let_in(host, rack, python):
    """Else the test of the strangers would pass where nobody serves."""
    answers = python(host, KNOCK.format(ports=PORTS, address=rack["rack_jobs_server"]["address"]))
    assert "open" in answers.values(), json.dumps(answers)

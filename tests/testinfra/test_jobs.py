"""What one compute node writes into the shared folder is there for all the others, for nobody else, and locks hold between nodes."""

from __future__ import annotations

import base64
import json
import shlex
import uuid
from concurrent.futures import ThreadPoolExecutor

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
PLACES = 4
TURNS = 250
# Waits until all who take turns on a file are there.
GATHER = """
import fcntl, os, sys, time
path, kind, number, size = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
lock = getattr(fcntl, kind)
os.close(os.open(f"{path}.{number}", os.O_CREAT | os.O_WRONLY))
while not all(os.path.exists(f"{path}.{other}") for other in range(size)):
    time.sleep(0.05)
"""
# Adds one to the numbers at several places of a file, a page or more apart, so many times, in turns with others who do the same: each
# turn under a lock, all of them on one open file. Prints how often the numbers were not the same.
TAKE_TURNS = f"""{GATHER}
torn = 0
file = os.open(path, os.O_RDWR)
for _ in range({TURNS}):
    lock(file, fcntl.LOCK_EX)
    found = [int(os.pread(file, 16, 10000 * place) or 0) for place in range({PLACES})]
    torn += len(set(found)) > 1
    for place in range({PLACES}):
        os.pwrite(file, b"%016d" % (found[place] + 1), 10000 * place)
    lock(file, fcntl.LOCK_UN)
print(torn)
"""
# Adds lines to a file that stays open in append mode, each under a lock and at the end that the file has then.
APPEND = f"""{GATHER}
file = os.open(path, os.O_RDWR | os.O_APPEND)
for turn in range({TURNS}):
    lock(file, fcntl.LOCK_EX)
    os.lseek(file, 0, os.SEEK_END)
    os.write(file, b"%d %d\\n" % (number, turn))
    lock(file, fcntl.LOCK_UN)
"""
# Says what became of a file that another node has replaced, extended or removed.
LOOK = """
import os, sys
try:
    found = os.stat(sys.argv[1])
    print(found.st_size, oct(found.st_mode)[-3:], open(sys.argv[1]).read())
except FileNotFoundError:
    print("none")
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


def as_user(host, command, limit=30):
    """Standard output of a command of the user that programs run as, or a failed test: nobody waits for a server that is not there."""
    result = host.run(f"timeout {limit} sudo -u mpi sh -c {shlex.quote(command)}")
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


def script(program, *words):
    """The command that runs a Python program with words as its arguments."""
    encoded = base64.b64encode(program.encode()).decode()
    return shlex.join(["python3", "-c", f"import base64; exec(base64.b64decode('{encoded}'))", *map(str, words)])


def together(hosts, program, path, kind):
    """Run a program on several nodes at the same time; return what each prints."""
    as_user(hosts[0], f"truncate --size=0 {path}")
    with ThreadPoolExecutor(len(hosts)) as pool:
        jobs = [pool.submit(as_user, one, script(program, path, kind, number, len(hosts)), 240) for number, one in enumerate(hosts)]
        answers = [job.result() for job in jobs]
    as_user(hosts[0], f"rm {path}.*")
    return answers


@pytest.fixture
def server_alone(host, rack):
    """Once for the compute nodes."""
    if rack["rack_jobs_server"]["name"] != host.backend.host:
        pytest.skip("not the server")


@pytest.mark.parametrize("kind", ["lockf", "flock"])
def test_who_takes_turns_by_a_lock_finds_what_the_others_wrote(server_alone, host, others, path, kind):
    hosts = [*others, host]
    torn = together(hosts, TAKE_TURNS, path, kind)
    numbers = [int(as_user(hosts[0], f"tail --bytes=+{10000 * place + 1} {path} | head --bytes=16")) for place in range(PLACES)]
    assert numbers == [TURNS * len(hosts)] * PLACES
    assert torn == ["0"] * len(hosts)


def test_lines_that_are_added_under_a_lock_are_all_there(server_alone, host, others, path):
    hosts = [*others, host]
    together(hosts, APPEND, path, "lockf")
    wanted = sorted(f"{number} {turn}" for number in range(len(hosts)) for turn in range(TURNS))
    assert sorted(as_user(hosts[0], f"cat {path}").splitlines()) == wanted


def test_what_became_of_a_file_is_seen_at_once(server_alone, host, others, path):
    changes = {
        f"printf one > {path}": "3 644 one",
        f"chmod 600 {path}; printf two >> {path}": "6 600 onetwo",
        f"printf three > {path}.new; mv {path}.new {path}": "5 644 three",
        f"rm {path}": "none",
    }
    for change, wanted in changes.items():
        as_user(host, f"umask 022; {change}")
        assert [as_user(other, script(LOOK, path)) for other in others] == [wanted] * len(others), change


def test_a_program_of_another_user_there_runs_as_who_calls_it(server_alone, host, others, path):
    """Root of the server writes what root of a client may not."""
    store = host.check_output("findmnt --noheadings --output FSTYPE --target %s | tail -1", FOLDER).startswith("fuse")
    own = path.replace(FOLDER, "/var/lib/jobs") if store else path
    host.check_output(f"sudo install --mode=4755 --owner=root /usr/bin/id {own}")
    try:
        for other in others:
            assert "euid=0" not in as_user(other, path)
            assert set(other.check_output(f"findmnt --noheadings --output OPTIONS {FOLDER} | tail -1").split(",")) >= {"nosuid", "nodev"}
    finally:
        host.check_output(f"sudo rm {own}")


def test_a_node_of_another_type_is_not_let_in(host, rack, node, nodes, chosen, python):
    if rack["rack_jobs_server"]["name"] != host.backend.host:
        pytest.skip("not the server")
    strangers = [name for name in (*nodes("lanservices"), *nodes("deployer"), *nodes("router")) if name in chosen]
    if not strangers:
        pytest.skip("no node of another type takes part")
    ask = KNOCK.format(ports=PORTS, address=rack["rack_jobs_server"]["address"])
    with ThreadPoolExecutor(len(strangers)) as pool:
        answers = list(pool.map(lambda name: python(node(name), ask), strangers))
    assert answers == [{str(port): "silent" for port in PORTS}] * len(strangers), strangers


def test_a_compute_node_is_let_in(host, rack, python):
    """Else the test of the strangers would pass where nobody serves."""
    answers = python(host, KNOCK.format(ports=PORTS, address=rack["rack_jobs_server"]["address"]))
    assert "open" in answers.values(), json.dumps(answers)

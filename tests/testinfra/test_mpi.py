"""Parallel programs see each other on all compute nodes, whichever node starts them."""

from __future__ import annotations

import base64
import json
import shlex
import uuid
from pathlib import Path

import pytest

testinfra_hosts = ["ansible://mpi"]
# Ranks that wait do so at full speed: two jobs at a time would wait for each other.
pytestmark = pytest.mark.xdist_group("mpi")

# Every rank contributes a megabyte, so that the answer has really crossed the network.
PYTHON_PROGRAM = """
import json
import numpy
from mpi4py import MPI

world = MPI.COMM_WORLD
total = numpy.empty(131072)
world.Allreduce(numpy.full(131072, world.rank + 1.0), total)
names = world.gather(MPI.Get_processor_name())
if world.rank == 0:
    library = MPI.Get_library_version()
    print(json.dumps({"size": world.size, "names": names, "totals": sorted(set(total)), "library": library}))
"""

C_PROGRAM = r"""
#include <mpi.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    int rank, size, length, total;
    char name[MPI_MAX_PROCESSOR_NAME];

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Get_processor_name(name, &length);
    rank++;
    MPI_Allreduce(&rank, &total, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    printf("%d %s %d\n", size, name, total);
    MPI_Finalize();
    return 0;
}
"""

# Every rank talks to every other one, and then says which sockets its account has on its node: [[state, own port, port there], ...].
# In /proc/net/tcp (proc_net_tcp of the kernel's documentation) words are: number, own address, address there, state, ..., account.
PORTS_PROGRAM = """
import json
import os
from mpi4py import MPI

world = MPI.COMM_WORLD
for other in range(world.size):
    world.sendrecv(None, other, source=other)
found = []
for name in ("tcp", "tcp6"):
    with open("/proc/net/" + name) as lines:
        for words in map(str.split, list(lines)[1:]):
            if int(words[7]) == os.getuid():
                found.append([words[3], *(int(address.partition(":")[2], 16) for address in words[1:3])])
world.Barrier()  # the others read, too, before anyone leaves
sockets = world.gather((MPI.Get_processor_name(), found))
if world.rank == 0:
    print(json.dumps(dict(sockets)))
"""
STRIDED_PROGRAM = (Path(__file__).resolve().parents[1] / "support" / "strided.py").read_text(encoding="utf-8")

SHARED_PROGRAM = """
from mpi4py import MPI

world = MPI.COMM_WORLD
window = MPI.Win.Allocate_shared(100_000_000 if world.rank == 0 else 0, 1, comm=world)
memory = window.Shared_query(0)[0]
if world.rank == 1:
    memory[:] = b"x" * len(memory)
world.Barrier()
print(bytes(memory[-1:]).decode(), len(memory))
window.Free()
"""

CONNECTED, LISTENS = "01", "0A"
SSH = 22


def members(host):
    """Names of the nodes on which ranks are to run."""
    return [node["name"] for node in host.ansible.get_variables()["rack_mpi_hosts"]]


def as_user(host, command):
    """Standard output of a command that the user of MPI gives in a login shell."""
    result = host.run("timeout 60 sudo -u mpi -i sh -c %s || exit 1", command)
    assert result.rc == 0, result.stderr + result.stdout
    return result.stdout


def launch(host, command):
    """Run one rank on each compute node."""
    return as_user(host, f"mpiexec -ppn 1 -n {len(members(host))} {command}")


def encoded(source):
    return base64.b64encode(source.encode()).decode()


def launch_python(host, program):
    """Run a Python program as one rank on each compute node; return what it prints as JSON."""
    return json.loads(launch(host, f"python3 -c 'import base64; exec(base64.b64decode(\"{encoded(program)}\"))'"))


def test_python_ranks_compute_together_on_every_node(host):
    nodes = members(host)
    answer = launch_python(host, PYTHON_PROGRAM)
    assert answer["size"] == len(nodes)
    assert sorted(answer["names"]) == sorted(nodes)
    assert answer["totals"] == [sum(range(1, len(nodes) + 1))]
    assert "MPICH" in answer["library"]


def test_c_ranks_compute_together_on_every_node(host):
    nodes = members(host)
    program = f"/tmp/test_mpi.{host.backend.get_pytest_id().rpartition('/')[2]}"
    compiler = f"echo {encoded(C_PROGRAM)} | base64 -d | mpicc -x c -o {program} -"
    try:
        launch(host, f"sh -c '{compiler}'")
        lines = [line.split() for line in launch(host, program).splitlines()]
    finally:
        launch(host, f"rm -f {program}")
    total = sum(range(1, len(nodes) + 1))
    assert sorted(lines) == sorted([str(len(nodes)), node, str(total)] for node in nodes)


def test_ranks_fill_the_slots_of_a_node_before_the_next(host):
    first, second = host.ansible.get_variables()["rack_mpi_hosts"][:2]
    names = as_user(host, f"mpiexec -n {first['slots'] + 1} hostname").split()
    assert sorted(names) == sorted([first["name"]] * first["slots"] + [second["name"]])


def test_a_command_over_ssh_needs_no_login_shell(host):
    """What a person types as ``ssh node mpiexec …`` reads no profile."""
    nodes = members(host)
    peer = next(node for node in nodes if node != host.check_output("hostname"))
    names = as_user(host, f"ssh {peer} mpiexec -ppn 1 -n {len(nodes)} hostname").split()
    assert sorted(names) == sorted(nodes)


def test_messages_take_the_lan_and_nothing_else(host):
    address = host.ansible.get_variables()["rack_address"]
    devices = json.loads(host.check_output("ip -json -4 address show to %s", address))
    own = host.check_output("hostname")
    log = f"/tmp/test_mpi.log.{own}"
    try:
        # One file for each node (%h): ranks that share an output interrupt each other.
        launch(host, f"env UCX_LOG_LEVEL=info UCX_LOG_FILE={log}.%h python3 -c 'from mpi4py import MPI; MPI.COMM_WORLD.Barrier()'")
        lines = host.check_output("cat %s", f"{log}.{own}").splitlines()
    finally:
        launch(host, f"sh -c 'rm -f {log}.*'")
    transports = [line.partition("inter-node cfg")[2] for line in lines if "inter-node cfg" in line]
    assert transports, lines
    assert all(f"(tcp/{devices[0]['ifname']})" in line and line.count("/") == line.count("tcp/") for line in transports), transports


def test_strided_files_in_the_shared_folder_are_right(host, nodes):
    if host.backend.host not in nodes("jobs"):
        pytest.skip("no shared folder")
    path = f"/srv/jobs/test-{uuid.uuid4().hex}"
    ranks = 2 * len(members(host))
    # Without data sieving each number is a write of its own.
    program = f"python3 -c 'import base64; exec(base64.b64decode(\"{encoded(STRIDED_PROGRAM)}\"))' {path} 200"
    try:
        wrong = json.loads(as_user(host, f"mpiexec -ppn 2 -n {ranks} {program}"))
        assert not wrong, json.dumps(wrong)
    finally:
        as_user(host, f"rm -f {path}.*")


def test_a_rank_writes_back_nothing_of_others_where_that_is_not_safe(host, nodes):
    """docs/shared-files.md: on GlusterFS data sieving has lost writes."""
    if host.backend.host not in nodes("jobs"):
        pytest.skip("no shared folder")
    path = f"/srv/jobs/test-{uuid.uuid4().hex}"
    mode = "MPI.MODE_CREATE | MPI.MODE_RDWR | MPI.MODE_DELETE_ON_CLOSE"
    program = f"from mpi4py import MPI; print(MPI.File.Open(MPI.COMM_SELF, {path!r}, {mode}).Get_info().get({'romio_ds_write'!r}))"
    said = as_user(host, f"mpiexec -n 1 -hosts {host.check_output('hostname')} python3 -c {shlex.quote(program)}")
    kind = host.check_output("findmnt --noheadings --output FSTYPE --target /srv/jobs | tail -1")
    assert said.split()[0] == ("disable" if kind == "fuse.glusterfs" else "automatic")


def test_a_job_is_watched_while_it_runs(host):
    """The brackets keep the question from finding itself in the command line of the launcher."""
    found = as_user(host, f"mpiexec -n 1 -hosts {host.check_output('hostname')} pgrep --full --list-full 'mpi-watch[.]py'")
    assert found.startswith(tuple("123456789")), found


def test_ranks_of_a_node_share_memory(host):
    program = f"python3 -c 'import base64; exec(base64.b64decode(\"{encoded(SHARED_PROGRAM)}\"))'"
    result = as_user(host, f"mpiexec -n 2 -hosts {host.check_output('hostname')} {program}")
    assert result.splitlines() == ["x 100000000"] * 2


def ports(host):
    """The first and the last port of a job, as its launcher is told."""
    first, last = as_user(host, "printenv MPIEXEC_PORT_RANGE").strip().split(":")
    return int(first), int(last)


def test_a_job_keeps_to_the_ports_that_are_open_for_it(host):
    nodes, (first, last) = members(host), ports(host)
    ours = range(first, last + 1)
    sockets = launch_python(host, PORTS_PROGRAM)
    assert sorted(sockets) == sorted(nodes)
    for node, found in sockets.items():
        listening = [own for state, own, _there in found if state == LISTENS]
        connected = [(own, there) for state, own, there in found if state == CONNECTED and SSH not in (own, there)]
        assert listening, f"{node} has no rank, or it talks in another way"
        assert [port for port in listening if port not in ours] == [], node
        assert [pair for pair in connected if not set(pair) & set(ours)] == [], node
        assert len(nodes) == 1 or connected, f"{node} is connected to nobody"


def test_no_other_port_is_open_to_the_compute_nodes(host, node, knock):
    rack = host.ansible.get_variables()
    peer = next((name for name in members(host) if name != rack["rack_name"]), None)
    if peer is None:
        pytest.skip("there is one compute node")
    first, last = ports(host)
    found = {port: knock(node(peer), rack["rack_address"], port) for port in (first - 1, first, last, last + 1)}
    assert [port for port, answer in found.items() if answer == "silent"] == [first - 1, last + 1], found

"""The herd compiles: what comes back is what the client would have made, and nothing but compilers can be run."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path

import pytest

testinfra_hosts = ["ansible://distcc"]

FILES = 6

CLIENT = (Path(__file__).resolve().parents[1] / "distcc_job.py").read_text(encoding="utf-8")
PORT = 3632


def herd(host):
    return host.ansible.get_variables()["rack_distcc_hosts"]


def neighbours(host):
    own = host.ansible.get_variables()["rack_address"]
    return [node for node in herd(host) if node["address"] != own]


def at(host, node):
    """Another node, reached the way this one is."""
    return host.get_host(f"ansible://{node['name']}", ansible_inventory=host.backend.ansible_inventory, ssh_config=host.backend.ssh_config)


def jobs(host, mark):
    """The jobs of one test that this node's distccd has finished well."""
    log = host.check_output("journalctl --unit distcc --since -5min --output cat --no-pager")
    return [line for line in log.splitlines() if mark in line and "COMPILE_OK" in line]


def ask(host, compiler, source="", server=""):
    """Ask the distccd of a node, this one if none is given, to run a compiler on a small file."""
    own = host.ansible.get_variables()["rack_address"]
    return host.check_output("python3 -c %s %s %s %s %s", CLIENT, server or own, str(PORT), source or own, compiler)


@contextlib.contextmanager
def sources(host):
    """A folder on a node with sources that have not been compiled before, by anyone."""
    mark = f"distcc{uuid.uuid4().hex}"
    folder = f"/tmp/{mark}"
    host.check_output("install -d -o nobody %s", folder)
    try:
        for number in range(FILES):
            source = f'#include <stdio.h>\nint {mark}_{number}(int n) {{ return n ? printf("%d", n) : {number}; }}\n'
            host.check_output("printf %%s %s > %s/%s_%s.c", source, folder, mark, str(number))
        yield folder, mark
    finally:
        host.check_output("rm -rf %s", folder)


@pytest.fixture
def project(host):
    """Such a folder on this node."""
    with sources(host) as made:
        yield made


def build(host, folder, command):
    """Compile every source of a folder with a command, at once; as nobody, whose home does not exist."""
    script = f"cd {folder} && export HOME={folder} && {{ ls *.c | xargs -P {FILES} -I% {command}; }}"
    return host.run("timeout 120 sudo -u nobody bash -lc %s || exit 1", script)


def objects(host, folder):
    """Checksums of the objects, by name; takes them away."""
    lines = host.check_output("cd %s && sha256sum *.o && rm *.o", folder).splitlines()
    return {name: checksum for checksum, name in map(str.split, lines)}


def test_objects_of_the_neighbours_equal_own_ones(host, project):
    folder, mark = project
    result = build(host, folder, "/usr/bin/gcc -O2 -c %")
    assert result.rc == 0, result.stderr
    own = objects(host, folder)
    assert len(own) == FILES

    servers = neighbours(host)
    hosts = " ".join(f"{node['address']}/{node['jobs']}" for node in servers)
    remote = f"env DISTCC_HOSTS='{hosts}' DISTCC_FALLBACK=0 DISTCC_LOG={folder}/log DISTCC_VERBOSE=1 distcc gcc -O2 -c %"
    result = build(host, folder, remote)
    log = host.check_output("cat %s/log", folder)
    assert result.rc == 0, log
    assert objects(host, folder) == own
    assert log.count(" compiled on localhost") == 0
    assert sum(log.count(f" compiled on {node['address']} in") for node in servers) == FILES
    assert sum(len(jobs(at(host, node), mark)) for node in servers) == FILES


def test_a_build_in_a_login_shell_is_shared_and_remembered(host, project):
    """No word about distcc or ccache on the command line."""
    folder, mark = project
    result = build(host, folder, "env DISTCC_FALLBACK=0 gcc -O2 -c %")
    assert result.rc == 0, result.stderr
    first = objects(host, folder)
    assert sum(len(jobs(at(host, node), mark)) for node in herd(host)) == FILES

    result = build(host, folder, "env DISTCC_FALLBACK=0 gcc -O2 -c %")
    assert result.rc == 0, result.stderr
    assert objects(host, folder) == first
    assert sum(len(jobs(at(host, node), mark)) for node in herd(host)) == FILES, "compiled again instead of from the cache"


def test_what_is_compiled_on_the_deployer_is_made_by_others(host, rack):
    """And remembered there; the deployer itself takes no jobs."""
    deployer = at(host, rack["rack_deployer"])
    with sources(deployer) as (folder, mark):
        for _time in range(2):
            result = build(deployer, folder, "env DISTCC_FALLBACK=0 gcc -O2 -c %")
            assert result.rc == 0, result.stderr
            assert len(objects(deployer, folder)) == FILES
            made = sum(len(jobs(at(host, node), mark)) for node in herd(host))
            assert made == FILES, "not made by the herd, or made again instead of taken from the cache"
    assert deployer.check_output("ss --no-header --listening --tcp 'sport = :%s'", str(PORT)) == ""
    assert deployer.run("systemctl is-enabled distcc").stdout.strip() != "enabled"


def test_every_node_takes_jobs(host):
    for node in herd(host):
        assert ask(host, "gcc", server=node["address"]) == "object", node


@pytest.mark.parametrize("program", ["sh", "/bin/sh", "/usr/bin/python3", "/opt/gcc", "../../bin/gcc", "/usr/lib/distcc/../../bin/sh"])
def test_what_is_no_compiler_is_refused(host, program):
    # A real compiler under that name: it would do the job, if only it were started.
    host.check_output("install -m 0755 /dev/null /opt/gcc && printf '#!/bin/sh\\nexec /usr/bin/gcc \"$@\"\\n' > /opt/gcc")
    try:
        assert ask(host, "gcc") == "object"
        assert ask(host, program) == "nothing"
    finally:
        host.check_output("rm -f /opt/gcc")


def test_a_client_outside_the_lan_is_refused(host):
    """An address of the documentation's network, on this node's own loopback."""
    stranger = "192.0.2.1"
    host.check_output("ip address add %s/32 dev lo", stranger)
    try:
        assert ask(host, "gcc") == "object"
        assert ask(host, "gcc", source=stranger) == "nothing"
    finally:
        host.check_output("ip address del %s/32 dev lo", stranger)


def test_only_the_lan_address_listens(host):
    own = host.ansible.get_variables()["rack_address"]
    listening = host.check_output("ss --no-header --listening --tcp --numeric 'sport = :%s'", str(PORT)).splitlines()
    assert [line.split()[3] for line in listening] == [f"{own}:{PORT}"]


def test_compilers_of_the_herd_and_of_the_deployer_are_the_same(host, rack):
    question = "gcc -dumpmachine && gcc -dumpfullversion && gcc -Q --help=target | grep -- -march="
    compilers = {node["name"]: at(host, node).check_output(question) for node in [*herd(host), rack["rack_deployer"]]}
    assert len(set(compilers.values())) == 1, compilers


def test_the_service_comes_back_by_itself(host):
    before = host.check_output("systemctl show --property MainPID --value distcc")
    host.check_output("systemctl kill --kill-whom main --signal KILL distcc")
    after = host.check_output(
        "for i in $(seq 100); do sleep 0.2; pid=$(systemctl show --property MainPID --value distcc);"
        ' [ "$pid" != 0 ] && [ "$pid" != %s ] && break; done; echo "$pid"',
        before,
    )
    assert after not in ("0", before)
    assert ask(host, "gcc") == "object"

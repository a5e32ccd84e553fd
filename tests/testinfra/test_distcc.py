"""The compute nodes compile: what comes back is what the client would have made, and nothing but compilers can be run."""

from __future__ import annotations

import contextlib
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

testinfra_hosts = ["ansible://distcc"]

FILES = 6

CLIENT = (Path(__file__).resolve().parents[1] / "support" / "distcc_job.py").read_text(encoding="utf-8")
PORT = 3632


def members(host):
    return host.ansible.get_variables()["rack_distcc_hosts"]


def neighbours(host):
    own = host.ansible.get_variables()["rack_address"]
    return [node for node in members(host) if node["address"] != own]


def at(host, node):
    """Another node, reached the way this one is."""
    return host.get_host(f"ansible://{node['name']}", ansible_inventory=host.backend.ansible_inventory, ssh_config=host.backend.ssh_config)


def jobs(host, mark):
    """The jobs of one test that this node's distccd has finished well."""
    log = host.check_output("journalctl --unit distcc --since -5min --output cat --no-pager")
    return [line for line in log.splitlines() if mark in line and "COMPILE_OK" in line]


def ask(host, compiler, *options, source="", server=""):
    """Ask the distccd of a node, this one if none is given, to run a compiler on a small file."""
    own = host.ansible.get_variables()["rack_address"]
    words = [server or own, str(PORT), source or own, compiler, *options]
    return host.check_output("python3 -c %s" + " %s" * len(words), CLIENT, *words)


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
    assert sum(len(jobs(at(host, node), mark)) for node in members(host)) == FILES

    result = build(host, folder, "env DISTCC_FALLBACK=0 gcc -O2 -c %")
    assert result.rc == 0, result.stderr
    assert objects(host, folder) == first
    assert sum(len(jobs(at(host, node), mark)) for node in members(host)) == FILES, "compiled again instead of from the cache"


@pytest.mark.parametrize("who", ["root", "nobody"])
def test_nobody_else_compiles_what_the_deployer_compiles_or_root(host, rack, who):
    """Whoever compiles for others chooses what their programs do."""
    nodes = [at(host, rack["rack_deployer"])] + ([host] if who == "root" else [])
    for node in nodes:
        shown = node.check_output("cd / && sudo -H -u %s bash -lc %s", who, 'echo "$PATH $CCACHE_PREFIX"; command -v gcc cc; true')
        assert "distcc" not in shown, (node, shown)
        assert "ccache" not in shown, (node, shown)


@pytest.mark.parametrize("name", ["cc", "gcc", "x86_64-linux-gnu-gcc", "c++", "g++"])
def test_every_name_of_a_compiler_is_shared(host, project, name):
    """Whichever package was configured first."""
    if not host.exists(name):
        pytest.skip(f"this node's compilers have no name {name}")
    folder, mark = project
    result = build(host, folder, f"env DISTCC_FALLBACK=0 {name} -O2 -x c -c %")
    assert result.rc == 0, result.stderr
    assert sum(len(jobs(at(host, node), mark)) for node in members(host)) == FILES


def test_what_is_for_this_processor_stays_on_this_node(host, project):
    folder, mark = project
    result = build(host, folder, f"env HERD_LOG={folder}/log gcc -O2 -mtune=native -c %")
    assert result.rc == 0, result.stderr
    assert host.check_output("sort -u %s/log", folder) == "home\t1\t-mtune=native, the processor of this node"
    assert sum(len(jobs(at(host, node), mark)) for node in members(host)) == 0


def test_every_node_takes_jobs(host):
    for node in members(host):
        assert ask(host, "gcc", server=node["address"]) == "object", node


@pytest.mark.parametrize("program", ["sh", "/bin/sh", "/usr/bin/python3", "as", "gcc-ar", "/usr/lib/distcc/../../bin/sh", "../../bin/sh"])
def test_what_is_no_compiler_is_refused(host, program):
    assert ask(host, "gcc") == "object"
    assert ask(host, program) == "nothing"


@pytest.mark.parametrize("program", ["/opt/gcc", "../../opt/gcc", "/usr/bin/gcc"])
def test_a_compiler_is_the_one_of_the_node_whatever_its_path(host, program):
    host.check_output("install -m 0755 /dev/null /opt/gcc && printf '#!/bin/sh\\nexit 1\\n' > /opt/gcc")
    try:
        assert ask(host, program) == "object"
    finally:
        host.check_output("rm -f /opt/gcc")


OPTIONS = [
    "-wrapper /usr/bin/env",
    "-B/usr/bin",
    "@/dev/null",
    "-fplugin=x",
    "-specs=x",
    "-iplugindir=/tmp",
    "-save-temps",
    "-dumpdir /tmp/",
    "-aux-info /tmp/x",
    "-fstack-usage",
    "-fdump-tree-all",
    "-MMD -MF /tmp/x",
    "-Wa,-a=/tmp/x",
    "-Wp,-MMD,/tmp/x",
    "-march=native",
    "-mcpu=native",
    "-mtune=native",
]
# Asks like CLIENT, the first argument, for each of many options: once with a harmless one, then with those. Prints both answers to each.
ASK_ALL = """
import json, subprocess, sys
client, server, port, source, *options = sys.argv[1:]
def ask(*words):
    command = [sys.executable, "-c", client, server, port, source, "gcc", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
print(json.dumps({words: [ask("-O2"), ask(*words.split())] for words in options}))
"""


@pytest.fixture(scope="module")
def answers():
    """What a node's distccd answers another one to all of OPTIONS, asked once: {options: [to a harmless one before, to them]}."""
    known = {}

    def ask_all(node, server):
        own = node.ansible.get_variables()["rack_address"]
        if (own, server) not in known:
            words = [CLIENT, server, str(PORT), own, *OPTIONS]
            known[own, server] = json.loads(node.check_output("python3 -c %s" + " %s" * len(words), ASK_ALL, *words))
        return known[own, server]

    return ask_all


@pytest.mark.parametrize("words", OPTIONS)
def test_an_option_that_is_not_known_to_be_harmless_is_refused_to_compute_nodes_themselves(host, answers, words):
    own = host.ansible.get_variables()["rack_address"]
    for node in (host, *(at(host, node) for node in neighbours(host)[:1])):
        harmless, answer = answers(node, own)[words]
        assert harmless == "object"
        assert answer in ("refused", "nothing"), words  # distccd itself refuses some


def test_a_compiler_that_was_tricked_finds_no_other_program_and_can_make_none(host):
    pid = host.check_output("systemctl show --property MainPID --value distcc")
    inside = f"nsenter --target {pid} --mount /usr/bin/dash -c"
    assert host.run(f"{inside} '/usr/bin/gcc --version'").rc == 0
    for program in ("/usr/bin/id", "/usr/bin/python3 -c 0", "/usr/bin/env"):
        assert host.run(f"{inside} %s", program).rc == 126, program
    for path in ("/etc/x", "/usr/x", "/var/x", "/srv/x"):
        assert host.run(f"{inside} %s", f"(: >{path})").rc != 0, path
    assert host.run(f"{inside} 'for name in /srv/* /home/* /root/*; do ! test -e $name || exit 3; done'").rc == 0


def test_a_node_that_is_no_compute_node_is_refused(host, rack, chosen):
    """Asked by all at once: the rules leave them waiting for an answer."""
    own = host.ansible.get_variables()["rack_address"]
    others = [rack["rack_deployer"], *(server for server in rack["rack_lanservices"] if server["name"] in chosen)]
    with ThreadPoolExecutor(len(others)) as pool:
        asked = [pool.submit(ask, at(host, other), "gcc", server=own, source=other["address"]) for other in others]
    answers = {other["name"]: one.result() for other, one in zip(others, asked, strict=True)}
    assert answers == dict.fromkeys(answers, "nothing")


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


def test_compilers_of_the_compute_nodes_are_the_same(host):
    question = "gcc -dumpmachine && gcc -dumpfullversion && gcc -Q --help=target | grep -- -march="
    compilers = {node["name"]: at(host, node).check_output(question) for node in members(host)}
    assert len(set(compilers.values())) == 1, compilers


@pytest.mark.disturbs("distcc")
def test_the_service_comes_back_by_itself(host):
    before = host.check_output("systemctl show --property MainPID --value distcc")
    host.check_output("systemctl kill --kill-whom main --signal KILL distcc")
    after = host.check_output(
        "for i in $(seq 100); do sleep 0.2; pid=$(systemctl show --property MainPID --value distcc);"
        ' [ "$pid" != 0 ] && [ "$pid" != %s ] && ss --no-header --listening --tcp "sport = :%s" | grep -q . && break; done; echo "$pid"',
        before,
        str(PORT),
    )
    assert after not in ("0", before)
    assert ask(host, "gcc") == "object"

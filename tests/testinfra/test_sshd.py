"""A certificate of the cluster's authority opens the doors, and nothing else does; hosts are believed for theirs alone."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from pathlib import Path

import pytest

from beowulf.cluster import Cluster
from beowulf.pki import certificates
from beowulf.process import ROOT, environment, tool

pytestmark = pytest.mark.disturbs("deploys")

OPTIONS = (
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "IdentitiesOnly=yes",
    "IdentityAgent=none",
    "ControlPath=none",
    "ConnectTimeout=10",
)


@pytest.fixture(scope="module")
def cluster():
    return Cluster(os.environ.get("BEOWULF_CLUSTER", "lab"))


@pytest.fixture
def key(tmp_path):
    """A key that nobody knows."""
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def public(key: Path) -> Path:
    return key.with_name(key.name + ".pub")


@pytest.fixture
def signed(cluster, key):
    """Signs the key and returns the certificate: signed(principals, hours, since)."""

    def make(*principals: str, name: str = "test", hours: float = 1, since: str = "-5m") -> Path:
        place = key.with_name("certificate.pub")
        certificates.sign(cluster, public(key), name, hours, principals, place, since=since)
        return place

    return make


def command(cluster, node, key, certificate="none", proxy="", alias="", believe="", word="hostname", extra=()):
    """The way in from this machine with a key and a certificate, and what it is to believe; through another node, whose address the
    server then sees: one that fails thrice is kept out for a while, whoever comes from there (PerSourcePenalties)."""
    options = [
        *OPTIONS,
        f"CertificateFile={certificate}",
        f"HostKeyAlias={alias or f'{node}.{cluster.rack.domain}'}",
        "UserKnownHostsFile=none",
    ]
    options += [f"GlobalKnownHostsFile={believe or cluster.state / 'ca' / 'known_hosts'}"]
    if proxy:
        options += [f"ProxyCommand={proxy}"]
    flags = [part for option in (*options, *extra) for part in ("-o", option)]
    user = cluster.variables["rack_ssh_user"]
    return ["ssh", "-F", "none", *flags, "-i", str(key), "-l", user, str(cluster.rack.nodes[node].address), word]


def over(cluster, node):
    """A ProxyCommand that goes through a node."""
    way = cluster.ssh(node)
    return " ".join([*way[:-1], "-o", "BatchMode=yes", "-W", "%h:%p", way[-1]])


def try_it(*arguments, **options):
    return subprocess.run(command(*arguments, **options), capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def others(cluster, chosen):
    """The chosen nodes without the one that they are tried from."""
    return [name for name in cluster.rack.nodes if name in chosen and name != cluster.variables["rack_router"]["name"]]


@pytest.fixture(scope="module")
def door(cluster):
    return over(cluster, cluster.variables["rack_router"]["name"])


def refused(result):
    assert result.returncode == 255, result.stdout
    assert "Permission denied (publickey)." in result.stderr


def test_every_host_is_believed_for_its_certificate_and_admits_one_of_the_authority(cluster, chosen, key, signed):
    certificate = signed(cluster.variables["rack_ssh_user"])
    for node in chosen:
        result = try_it(cluster, node, key, certificate)
        assert (result.returncode, result.stdout.strip()) == (0, node), result.stderr


def test_a_certificate_for_a_type_opens_its_nodes_alone(cluster, key, signed, chosen, others, door):
    certificate = signed("compute")
    [inside, *_] = [node for node in others if cluster.rack.nodes[node].type == "compute"]
    assert try_it(cluster, inside, key, certificate, door).stdout.strip() == inside
    outside = next(node for node in others if cluster.rack.nodes[node].type != "compute")
    refused(try_it(cluster, outside, key, certificate, door))


def test_a_plain_key_is_refused_even_where_it_is_authorised(cluster, node, key, others, door):
    home = f"/home/{cluster.variables['rack_ssh_user']}/.ssh"
    target = node(others[-1])
    target.check_output("install -d %s && cp -p %s/authorized_keys /tmp/kept 2>/dev/null || : ; echo %s >>%s/authorized_keys",
                        home, home, public(key).read_text().strip(), home)  # fmt: skip
    try:
        refused(try_it(cluster, others[-1], key, proxy=door))
    finally:
        target.check_output("sed -i '$d' %s/authorized_keys", home)


def test_a_certificate_of_another_authority_is_refused(cluster, key, others, door, tmp_path):
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    user = cluster.variables["rack_ssh_user"]
    subprocess.run(["ssh-keygen", "-q", "-s", str(other), "-I", "test", "-n", user, "-V", "-5m:+1h", str(public(key))], check=True)
    refused(try_it(cluster, others[0], key, tmp_path / "key-cert.pub", door))


def test_a_certificate_that_has_ended_is_refused(cluster, key, signed, others, door):
    certificate = signed(cluster.variables["rack_ssh_user"], hours=-1, since="-2h")
    refused(try_it(cluster, others[1], key, certificate, door))


def test_a_password_is_not_even_asked_for(cluster, key, others, door):
    refused(try_it(cluster, others[2], key, proxy=door, extra=["PreferredAuthentications=password,keyboard-interactive,publickey"]))


def test_a_host_is_not_believed_for_the_certificate_of_another(cluster, key, signed, others, door):
    """A node that was taken over cannot pass for another one."""
    certificate = signed(cluster.variables["rack_ssh_user"])
    result = try_it(cluster, others[0], key, certificate, door, alias=f"{others[1]}.{cluster.rack.domain}")
    assert result.returncode == 255
    assert "Host key verification failed." in result.stderr


def test_a_changed_host_key_ends_the_connection_without_a_question(cluster, key, signed, others, node):
    """A server with a key of its own answers in the place of the node."""
    certificate = signed(cluster.variables["rack_ssh_user"])
    router = cluster.variables["rack_router"]["name"]
    host = node(router)
    folder = host.check_output("mktemp -d /run/changed.XXXXXX")
    try:
        host.check_output("ssh-keygen -q -t ed25519 -N '' -f %s/key", folder)
        host.check_output("printf 'HostKey %s/key\\n' >%s/config", folder, folder)
        way = cluster.ssh(router)
        server = " ".join([*way, "-o", "BatchMode=yes", f"sudo /usr/sbin/sshd -i -f {folder}/config"])
        for believe in ("", str(cluster.state / "ssh" / "known_hosts")):  # for the authority; for the key that the console showed
            result = try_it(cluster, others[0], key, certificate, server, believe=believe)
            assert result.returncode == 255
            assert "Host key verification failed." in result.stderr, result.stderr
    finally:
        host.check_output("rm -r %s", folder)


def test_a_revoked_certificate_is_refused_by_every_node(cluster, key, signed, chosen, others, door):
    user = cluster.variables["rack_ssh_user"]
    name = f"revoked-by-a-test-{uuid.uuid4().hex[:12]}"
    certificate = signed(user, name=name)
    assert try_it(cluster, others[0], key, certificate, door).returncode == 0
    invoke(cluster, "ca.revoke", name)
    for node in others:
        refused(try_it(cluster, node, key, certificate, door))
    assert try_it(cluster, others[0], key, signed(user, name="another"), door).returncode == 0


def invoke(cluster, *words):
    """What a task prints, as a person would run it: pytest's own environment knows another inventory."""
    env = {name: value for name, value in environment().items() if name != "ANSIBLE_INVENTORY_ENABLED"}
    command = [tool("invoke"), *words, "--cluster", cluster.name]
    return subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True).stdout


def test_what_a_controller_signs_by_itself_is_in_the_list_until_it_is_revoked_and_as_revoked_then(cluster, key):
    name = f"listed-by-a-test-{uuid.uuid4().hex[:12]}"
    said = invoke(cluster, "ca.user", name, "--hours", "1", "--key", str(public(key)))

    def listed():
        return [one for one in json.loads(invoke(cluster, "ca.list", "--json")) if one["name"] == name]

    [one] = listed()
    assert f"serial {one['serial']}" in said
    assert "revoked" not in one
    assert f"{name}, serial {one['serial']}, would have been good for 1.0 h more" in invoke(cluster, "ca.revoke", name)
    assert [one["revoked"] for one in listed()] == ["yes"]


def test_a_limited_deploy_of_a_controller_with_old_state_takes_no_revocation_back(cluster, key, signed, others, door, node):
    folder = cluster.state / "ca"
    names = ("revoked", "revoked.krl", "user_ca.pub", "host_ca.pub", "known_hosts")
    old = {name: (folder / name).read_bytes() for name in names}
    name = f"revoked-by-a-test-{uuid.uuid4().hex[:12]}"
    certificate = signed(cluster.variables["rack_ssh_user"], name=name)
    invoke(cluster, "ca.revoke", name)
    new = {name: (folder / name).read_bytes() for name in names}
    target = others[-1]
    before = node(target).check_output("find /etc/ssh/cluster -type f -exec sha256sum {} +")
    try:
        for name, content in old.items():
            (folder / name).write_bytes(content)
        invoke(cluster, "deploy", "--limit", target, "--tags", "sshd")
        assert node(target).check_output("find /etc/ssh/cluster -type f -exec sha256sum {} +") == before
        assert {name: (folder / name).read_bytes() for name in names} == new
    finally:
        for name, content in new.items():
            (folder / name).write_bytes(content)
    refused(try_it(cluster, target, key, certificate, door))


def test_a_host_whose_key_is_revoked_is_not_believed_by_this_controller(cluster, others, node, tmp_path):
    """With a list of the test's own in the place of the cluster's."""
    target = others[0]
    (tmp_path / "lines").write_text(f"key: {node(target).check_output('cat /etc/ssh/ssh_host_ed25519_key.pub')}\n")
    subprocess.run(["ssh-keygen", "-q", "-k", "-s", "none", "-f", str(tmp_path / "krl"), str(tmp_path / "lines")], check=True)
    for krl, good in ((str(cluster.state / "ca" / "revoked.krl"), True), (str(tmp_path / "krl"), False)):
        way = [part.replace(str(cluster.state / "ca" / "revoked.krl"), krl) for part in cluster.ssh(target)]
        way[1:1] = ["-o", "BatchMode=yes", "-o", "ControlPath=none"]
        result = subprocess.run([*way, "true"], capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
        assert (result.returncode == 0) is good, result.stderr
        assert good or "revoked by file" in result.stderr


def test_a_reload_that_a_killed_run_has_not_done_is_made_up_for(cluster, others, node):
    """The file is newer than what the server has read: the next run sees that, and the one after it has nothing to do."""
    host = node(others[-1])
    host.check_output("touch /etc/ssh/sshd_config.d/10-cluster.conf")
    newer = "find /etc/ssh/sshd_config.d/10-cluster.conf -newer /run/sshd.pid"
    assert host.check_output(newer)
    invoke(cluster, "deploy", "--limit", others[-1], "--tags", "sshd")
    assert not host.check_output(newer)
    assert ", 0 changed" in invoke(cluster, "deploy", "--limit", others[-1], "--tags", "sshd")


def test_the_private_keys_of_the_authority_are_encrypted_wherever_they_are(cluster, node):
    host = node(cluster.variables["rack_deployer"]["name"])
    keys = host.check_output("find /var/lib/cluster-ca/ssh -name '*_ca.*' ! -name '*.pub'").splitlines()
    keys += host.check_output("find /var/lib/cluster-ca/tls -name '*.key'").splitlines()
    # One for users and one for hosts, a root and an intermediate, and the links to these.
    assert len(keys) >= 6
    for path in keys:
        # testinfra takes 255, with which ssh-keygen fails, for a failure of its own connection.
        assert host.run("ssh-keygen -y -P '' -f %s || exit 1", path).rc == 1, path
    assert subprocess.run(
        ["ssh-keygen", "-y", "-P", "", "-f", str(cluster.state / "ca" / "user_ca")], capture_output=True, check=False
    ).returncode


def test_every_host_offers_the_algorithms_of_the_hardening_guide_and_no_others(cluster, chosen, node):
    """As ssh-audit sees it from here, without its test of many connections: whoever makes them is kept out for a while."""
    for name in sorted(chosen):
        release = node(name).system_info.release.partition(".")[0]
        options = ["-j", "--skip-rate-test", "--timeout=10", f"--policy={ROOT / f'tests/ssh_audit/debian-{release}.txt'}"]
        audit = [tool("ssh-audit"), *options, str(cluster.rack.nodes[name].address)]
        done = subprocess.run(audit, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (name, done.stdout, done.stderr)
        assert json.loads(done.stdout)["passed"], (name, done.stdout)

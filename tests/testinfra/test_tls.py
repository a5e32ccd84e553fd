"""TLS between the servers of the LAN: each proves who it is, by a chain that ends at the cluster's own root."""

import os
import subprocess

import pytest

from beowulf import secrets
from beowulf.cluster import Cluster

testinfra_hosts = ["ansible://dhcp"]
FOLDER = "/etc/kea/tls"
PORT = 8001


def test_the_chain_is_good_for_the_name_and_the_address_of_the_node(host):
    mine = host.ansible.get_variables()
    files = f"-CAfile {FOLDER}/root.crt -untrusted {FOLDER}/node.crt"
    for purpose in ("sslserver", "sslclient"):
        for name in (f"-verify_hostname {mine['rack_fqdn']}", f"-verify_ip {mine['rack_address']}"):
            assert host.check_output(f"openssl verify -purpose {purpose} {name} {files} {FOLDER}/node.crt").endswith(": OK")
    assert host.run(f"openssl verify -verify_hostname psi.example.org {files} {FOLDER}/node.crt").rc != 0


def test_nobody_else_may_read_the_key(host):
    key = host.file(f"{FOLDER}/node.key")
    assert (key.user, key.group, key.mode) == ("root", "_kea", 0o640)


def test_the_authority_knows_what_it_would_take_back(host, node, rack):
    """The serial number, as on the list of what is revoked."""
    serial = int(host.check_output(f"openssl x509 -noout -serial -in {FOLDER}/node.crt").partition("=")[2], 16)
    given = node(rack["rack_deployer"]["name"]).check_output(f"sudo cat /var/lib/cluster-ca/tls/issued/{host.backend.host}")
    assert str(serial) in given.split()


def test_a_node_shows_what_the_authority_has_signed_for_it_and_nothing_else(host, node, rack):
    """What is revoked with a node is what the authority remembers."""
    record = f"sudo cat /var/lib/cluster-ca/tls/issued/{host.backend.host}.crt"
    given = node(rack["rack_deployer"]["name"]).check_output(record)
    assert host.check_output(f"cat {FOLDER}/node.crt").startswith(given.strip())
    mine = host.ansible.get_variables()
    shown = host.check_output(
        f"openssl x509 -in {FOLDER}/node.crt -noout -subject -ext subjectAltName,extendedKeyUsage,keyUsage,basicConstraints"
    )
    assert f"CN = {mine['rack_fqdn']}" in shown or f"CN={mine['rack_fqdn']}" in shown
    assert f"DNS:{mine['rack_fqdn']}, IP Address:{mine['rack_address']}\n" in f"{shown}\n"
    assert "CA:TRUE" not in shown


def hello(host, peer, proof):
    """The first answer of the peer's DHCP server to its partner, or the complaint of TLS."""
    question = '{"command": "ha-heartbeat"}'
    ask = f"POST / HTTP/1.0\\r\\nContent-Type: application/json\\r\\nContent-Length: {len(question)}\\r\\n\\r\\n{question}"
    client = f"openssl s_client -quiet -verify_return_error -CAfile {FOLDER}/root.crt {proof} -connect {peer}:{PORT}"
    return host.run(f"(printf '{ask}'; sleep 1) | timeout 10 {client} 2>&1").stdout


def test_the_pair_talks_to_whoever_has_a_certificate(host):
    peer = host.ansible.get_variables()["rack_peers"][0]["address"]
    assert '"result": 0' in hello(host, peer, f"-cert {FOLDER}/node.crt -cert_chain {FOLDER}/node.crt -key {FOLDER}/node.key")


def test_the_pair_does_not_talk_to_anyone_else(host):
    peer = host.ansible.get_variables()["rack_peers"][0]["address"]
    answer = hello(host, peer, "")
    assert "result" not in answer
    assert "alert" in answer


@pytest.mark.parametrize(("name", "good"), [("node", True), ("outside", False)])
def test_the_intermediate_cannot_vouch_for_names_outside_the_domain(node, rack, name, good):
    """Issued with its very key, as somebody would who has taken over the deployer."""
    cluster = Cluster(os.environ.get("BEOWULF_CLUSTER", "lab"))
    host = node(rack["rack_deployer"]["name"])
    subject = f"issued.{rack['rack_domain']}" if good else "www.example.org"
    authority = "/var/lib/cluster-ca/tls"
    folder = host.check_output("mktemp -d")
    try:
        host.check_output(f"openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={subject} "
                          f"-keyout {folder}/key -out {folder}/request 2>/dev/null")  # fmt: skip
        host.check_output(f"printf 'subjectAltName=DNS:{subject}' >{folder}/ext")
        # Over a pipe, so that neither a list of processes nor a journal knows it.
        sign = (f"sudo openssl x509 -req -in {folder}/request -CA {authority}/intermediate.crt -CAkey {authority}/intermediate.key "
                f"-passin stdin -days 1 -extfile {folder}/ext -out {folder}/made")  # fmt: skip
        passphrase = secrets.store_of(cluster).get("ca")
        made = subprocess.run(
            [*cluster.ssh(rack["rack_deployer"]["name"]), sign], input=f"{passphrase}\n", capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, made.stderr
        checked = host.run(
            f"openssl verify -CAfile /var/lib/cluster-ca/tls/root.crt -untrusted /var/lib/cluster-ca/tls/intermediate.crt {folder}/made"
        )
        assert (checked.rc == 0) is good
        assert good or "permitted subtree violation" in checked.stderr + checked.stdout
    finally:
        host.check_output(f"rm -r {folder}")

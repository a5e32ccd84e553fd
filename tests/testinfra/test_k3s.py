"""k3s, asked by its own servers: all nodes are ready, of one version, and run pods that reach each other; secrets stay secret."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

testinfra_hosts = ["ansible://k3s"]

KUBECTL = "k3s kubectl --kubeconfig /etc/rancher/k3s/k3s.yaml"
# Owned by root and readable for nobody else
SECRETS = [
    "/etc/rancher/k3s/agent-token",
    "/etc/rancher/k3s/config.yaml",
    "/etc/rancher/k3s/k3s.yaml",
    "/etc/rancher/k3s/token",
    "/var/lib/rancher/k3s/server/token",
]


@pytest.fixture(autouse=True, scope="module")
def installed(node, nodes):
    """A lab has no k3s unless its release can be had; then there is nothing to ask, and a deploy said so."""
    if node(nodes("k3s_server")[0]).run("systemctl cat k3s").rc != 0:
        pytest.skip("k3s is not installed: its release could not be had when this cluster was deployed")


@pytest.fixture(scope="module")
def api(node, nodes):
    """Ask the first server, as root."""

    def ask(command, *arguments):
        with_sudo = f"sudo {KUBECTL} {command}"
        return node(nodes("k3s_server")[0]).check_output(with_sudo, *arguments)

    return ask


@pytest.fixture(scope="module")
def members(api):
    return {one["metadata"]["name"]: one for one in json.loads(api("get nodes --output=json"))["items"]}


def program(host):
    """The version of the program that the node's unit starts."""
    return host.check_output("k3s --version").split()[2]


def test_every_node_is_ready_and_runs_the_version_that_is_installed(host, members):
    name = host.backend.host
    status = members[name]["status"]
    assert {one["type"]: one["status"] for one in status["conditions"]}["Ready"] == "True"
    assert status["nodeInfo"]["kubeletVersion"] == program(host)


def test_the_address_is_that_of_the_rack(host, hostvars, members):
    addresses = members[host.backend.host]["status"]["addresses"]
    assert [one["address"] for one in addresses if one["type"] == "InternalIP"] == [hostvars[host.backend.host]["rack_address"]]


def test_the_cluster_has_the_nodes_of_the_rack_and_no_other(members, nodes):
    assert set(members) == set(nodes("k3s"))


def test_secrets_are_for_root_alone_and_in_no_command_line(host):
    modes = {path: host.run("sudo stat --format='%%U %%a' %s", path).stdout.strip() for path in SECRETS}
    there = {path: mode for path, mode in modes.items() if mode}
    assert there
    assert set(there.values()) == {"root 600"}, there
    assert not re.search(r"K10[0-9a-f]{8}", host.check_output("ps -eo args ww"))


def test_nothing_is_left_of_joining(host):
    assert host.run("sudo ls /etc/rancher/k3s/join-token /etc/rancher/k3s/config.yaml.d/join.yaml").stdout == ""


JOIN = """
import base64, ssl, sys, urllib.error, urllib.request

request = urllib.request.Request(f"https://{sys.argv[1]}:6443/v1-k3s/client-kubelet.crt")
request.add_header("Authorization", "Basic " + base64.b64encode(f"node:{sys.stdin.read().strip()}".encode()).decode())
request.add_header("k3s-node-name", "nobody")
request.add_header("k3s-node-password", "x")
try:
    urllib.request.urlopen(request, timeout=10, context=ssl._create_unverified_context())
    print("taken")
except urllib.error.HTTPError as error:
    print("refused" if error.code in (401, 403) else error.code)
"""


def test_nobody_joins_with_a_wrong_token(host, nodes, hostvars):
    server = hostvars[nodes("k3s_server")[0]]["rack_address"]
    assert host.check_output("echo wrong | python3 -c %s %s", JOIN, server) == "refused"


def test_secrets_are_encrypted_in_the_datastore(node, nodes, api):
    host = node(nodes("k3s_server")[0])
    if host.run("sudo test -e /var/lib/rancher/k3s/server/db/etcd").rc == 0:
        pytest.skip("the datastore is etcd")
    api("delete secret beowulf-proof --ignore-not-found")
    api("create secret generic beowulf-proof --from-literal=word=plainwordofproof")
    try:
        found = 'sudo sh -c "cat /var/lib/rancher/k3s/server/db/state.db* | grep --text --count %s || true"'
        assert host.check_output(found, "k8s:enc:") != "0"
        assert host.check_output(found, "plainwordofproof") == "0"
    finally:
        api("delete secret beowulf-proof")


def test_who_did_what_is_logged_and_not_what_was_in_it(node, nodes, api, eventually):
    host = node(nodes("k3s_server")[0])
    api("create secret generic beowulf-audit --from-literal=word=plainwordofaudit")
    api("delete secret beowulf-audit")
    log = "sudo grep -c %s /var/lib/rancher/k3s/server/logs/audit.log"
    eventually(lambda: int(host.run(log, "beowulf-audit").stdout or 0) >= 2, 10)
    assert int(host.run(log, "plainwordofaudit").stdout or 0) == 0


def test_the_admins_kubeconfig_needs_no_name_server_and_is_for_nobody_else(rack, nodes, hostvars):
    path = Path(rack["rack_state_dir"]) / "kubeconfig"
    assert path.stat().st_mode & 0o777 == 0o600
    for server in nodes("k3s_server"):
        assert f"server: https://{hostvars[server]['rack_address']}:6443\n" in path.read_text()


def test_the_certificate_of_the_api_has_its_name_and_the_address_in_the_kubeconfig(host, rack, nodes, hostvars):
    server = hostvars[nodes("k3s_server")[0]]["rack_address"]
    ask = "import ssl,sys;print(ssl.get_server_certificate((sys.argv[1],6443),timeout=10))"
    names = host.check_output("python3 -c %s %s | openssl x509 -noout -ext subjectAltName", ask, server)
    assert f"DNS:k3s.{rack['rack_domain']}" in names
    assert f"IP Address:{server}" in names


@pytest.fixture
def everywhere(api, members, node, nodes):
    """A pod on each node that says over HTTP where it runs, and a service before them; yields the address of the service."""
    shown = [{name for image in one["status"].get("images", ()) for name in image["names"]} for one in members.values()]
    image = next((name for name in sorted(set.intersection(*shown)) if "busybox" in name and "@" not in name), None)
    if image is None:
        pytest.skip("no image with a shell is on all nodes: an air-gap folder brings one")
    limits = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True, "runAsUser": 65534}
    container = {
        "name": "web",
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", "mkdir -p /tmp/w; echo $NODE > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w"],
        "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "securityContext": limits,
    }
    pod = {"containers": [container], "terminationGracePeriodSeconds": 1, "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}}
    label, meta = {"app": "beowulf-proof"}, {"name": "beowulf-proof"}
    template = {"metadata": {"labels": label}, "spec": pod}
    daemons = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": meta,
        "spec": {"selector": {"matchLabels": label}, "template": template},
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {"selector": label, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    both = json.dumps({"apiVersion": "v1", "kind": "List", "items": [daemons, service]})
    host = node(nodes("k3s_server")[0])
    try:
        host.check_output("printf %%s %s | sudo " + KUBECTL + " apply --filename=-", both)
        api("rollout status daemonset beowulf-proof --timeout=120s")
        yield api("get service beowulf-proof --output=jsonpath={.spec.clusterIP}")
    finally:
        api("delete daemonset,service beowulf-proof --ignore-not-found")


def test_pods_run_on_every_node_and_every_node_reaches_them(everywhere, members, node, eventually):
    ask = "import sys,urllib.request as u;print(u.urlopen('http://'+sys.argv[1],timeout=3).read().decode().strip())"
    for name in members:
        seen = set()
        eventually(
            lambda name=name, seen=seen: (
                seen.add(node(name).run("python3 -c %s %s", ask, everywhere).stdout.strip()) or seen >= set(members)
            ),
            60,
        )

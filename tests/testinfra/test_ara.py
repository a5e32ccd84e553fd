"""The recorded runs on the deployer: shown and taken by TLS, to those who log in."""

import base64
import hashlib
import json
import os
import socket
import ssl
import subprocess
import urllib.request
import uuid
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from beowulf import recording, secrets
from beowulf.cluster import Cluster
from beowulf.process import environment, output, tool
from tests.testinfra import browser

testinfra_hosts = ["ansible://ara"]
PORT = 8137
ASK = """
import base64, json, ssl, urllib.error, urllib.request
url, login, data, root = {url!r}, {login!r}, {data!r}, {root!r}
headers = {{"Content-Type": "application/json"}}
if login:
    headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
request = urllib.request.Request(url, data=data.encode() or None, headers=headers)
tls = urllib.request.HTTPSHandler(context=ssl.create_default_context(cadata=root or None))
try:
    with urllib.request.build_opener(urllib.request.ProxyHandler({{}}), tls).open(request, timeout=10) as answer:
        print(json.dumps([answer.status, answer.read().decode(), dict(answer.headers)]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, "", dict(error.headers)]))
except OSError as error:
    print(json.dumps([0, str(error), {{}}]))
"""

PLAYBOOK = """
- name: Be recorded
  hosts: {hosts}
  connection: local
  gather_facts: false
  become: false
  tasks:
    - name: Say something
      ansible.builtin.debug:
        msg: said by {{{{ inventory_hostname }}}} for {word}
"""

TESTSSL = "testssl.sh bsdextrautils procps libproc2-0"
"""Debian's packages of testssl.sh, and what it calls that a small node may lack."""
SECTIONS = "--protocols --server-preference --server-defaults --std --fs --headers --vulnerable"
"""What testssl.sh looks at: all but how old browsers would fare, which takes as long again."""


@pytest.fixture(scope="module")
def cluster():
    return Cluster(os.environ["BEOWULF_CLUSTER"])


@pytest.fixture(scope="module")
def login(cluster):
    return f"admin:{secrets.store_of(cluster).get('ara_admin')}"


@pytest.fixture(scope="module")
def run(cluster, login, tmp_path_factory):
    """A run that this controller records, as a deploy does: its id, playbook and hosts, and a word in its results. Forgotten at the end."""
    word = f"word{uuid.uuid4().hex}"
    folder = tmp_path_factory.mktemp("ara")
    playbook, told = folder / f"{word}.yml", folder / "told.json"
    hosts = [name for name, node in cluster.rack.nodes.items() if node.type != "compute"]
    playbook.write_text(PLAYBOOK.format(word=word, hosts=json.dumps(hosts)), encoding="utf-8")
    # Recorded, although the runs of a check are not.
    env = environment(ANSIBLE_INVENTORY_ENABLED="beowulf.cluster.rack", ANSIBLE_CALLBACKS_ENABLED="beowulf.cluster.ara",
                      BEOWULF_ARA="auto", BEOWULF_ARA_TOLD_IN=str(told))  # fmt: skip
    done = output([tool("ansible-playbook"), "--inventory", str(cluster.path), str(playbook)], timeout=120, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    server, where = recording.deployers(cluster), json.loads(told.read_text(encoding="utf-8"))
    assert where["url"].startswith(f"{server.url}/playbooks/"), where
    number = int(where["url"].rpartition("/")[2].removesuffix(".html"))
    yield SimpleNamespace(id=number, playbook=playbook, word=word, hosts=hosts)
    token = base64.b64encode(login.encode()).decode()
    forget = urllib.request.Request(f"{server.url}/api/v1/playbooks/{number}", headers={"Authorization": f"Basic {token}"}, method="DELETE")
    tls = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=server.ca))
    with urllib.request.build_opener(urllib.request.ProxyHandler({}), tls).open(forget, timeout=10) as answer:
        assert answer.status == 204


@pytest.fixture
def ask(cluster):
    """Ask as a node does that believes our root alone, or what it believes anyway; return the code of HTTP, what came, and the headers.

    The program with the login in it is no argument there and no line of a log: it goes the way of SSH's standard input.
    """

    def run(host, url, login="", data="", root=None):
        known = (cluster.state / "ca" / "root.crt").read_text() if root is None else root
        program = ASK.format(url=url, login=login, data=data, root=known)
        command = [*cluster.ssh(host.backend.host), "python3", "-"]
        done = subprocess.run(command, input=program, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def names(rack):
    return [f"ara.{rack['rack_domain']}", f"{rack['rack_deployer']['name']}.{rack['rack_domain']}", rack["rack_deployer"]["address"]]


def test_its_certificate_is_good_for_every_name_it_has(client, rack, ask, login):
    for name in names(rack):
        status, text, headers = ask(client, f"https://{name}/api/v1/playbooks?limit=1", login)
        assert status == 200, (name, text)
        assert "results" in json.loads(text)
        assert "max-age" in headers["Strict-Transport-Security"]


def test_its_certificate_is_good_for_nothing_without_our_root(client, rack, ask):
    status, text, _headers = ask(client, f"https://{names(rack)[0]}/", root="")
    assert (status, "certificate verify failed" in text) == (0, True), text


@pytest.mark.parametrize("path", ["/", "/api/", "/api/v1/playbooks", "/api/v1/results", "/hosts", "/playbooks/1.html"])
def test_nobody_reads_without_the_login(client, rack, ask, path):
    for login in ("", "admin:wrong"):
        assert ask(client, f"https://{names(rack)[0]}{path}", login)[0] == 401


def test_nobody_writes_without_the_login(client, rack, ask):
    assert ask(client, f"https://{names(rack)[0]}/api/v1/labels", data='{"name": "x"}')[0] == 401


def test_on_loopback_it_wants_the_login_too(host, ask, login):
    url = f"http://127.0.0.1:{PORT}/api/v1/playbooks?limit=1"
    assert [ask(host, url)[0], ask(host, url, login)[0]] == [401, 200]


def test_gunicorn_is_not_there_for_other_nodes(client, rack):
    assert client.run("timeout 3 bash -c %s", f"exec 3<>/dev/tcp/{rack['rack_deployer']['address']}/{PORT}").rc != 0


def test_nothing_is_said_in_the_clear_but_where_to_go(client, rack):
    """As by hand, because a library would follow."""
    name = names(rack)[0]
    talk = f"exec 3<>/dev/tcp/{name}/80; printf 'GET /hosts HTTP/1.0\\r\\nHost: {name}\\r\\n\\r\\n' >&3; timeout 5 cat <&3"
    answer = client.check_output("bash -c %s", talk)
    assert answer.startswith("HTTP/1.1 301")
    assert f"Location: https://{name}/hosts" in answer


def test_its_certificate_says_where_the_list_of_the_revoked_is_and_that_is_good(client, host, rack):
    """Fetched and checked by a node, and the certificate against it."""
    certificate = host.check_output("sudo cat /etc/ssl/cluster/node.crt /etc/ssl/cluster/root.crt")
    folder = client.check_output("mktemp -d")
    try:
        client.check_output("printf '%%s\\n' %s > %s", certificate, f"{folder}/chain")
        url = client.check_output(
            f"openssl x509 -in {folder}/chain -noout -ext crlDistributionPoints | grep --only-matching 'http://[^ ]*'"
        )
        client.check_output(
            "python3 -c %s", f"import urllib.request as r; open('{folder}/crl','wb').write(r.urlopen('{url}', timeout=5).read())"
        )
        client.check_output(f"openssl crl -inform DER -in {folder}/crl -out {folder}/crl.pem")
        checked = f"openssl verify -crl_check -CRLfile {folder}/crl.pem -CAfile {folder}/chain -untrusted {folder}/chain {folder}/chain"
        assert client.check_output(checked).endswith(": OK")
    finally:
        client.check_output(f"rm -r {folder}")


@pytest.mark.parametrize("version", ["-tls1_1", "-tls1"])
def test_old_versions_of_tls_are_refused(client, rack, version):
    connect = f"openssl s_client -connect {rack['rack_deployer']['address']}:443"
    assert "Cipher is (NONE)" not in client.run(f"{connect} -tls1_2 </dev/null").stdout
    assert "Cipher is (NONE)" in client.run(f"{connect} {version} -cipher DEFAULT@SECLEVEL=0 </dev/null").stdout


@pytest.fixture
def testssl(client):
    """Return what testssl.sh on a node says of a server: {name of a check: (severity, finding)}.

    It is run from a folder, so that nothing is installed and nothing stays.
    """
    folder = client.check_output("mktemp -d")

    def run(name, address, root):
        fetch = f"apt-get download --quiet {TESTSSL}"
        client.check_output(f"cd {folder} && {{ {fetch} || {{ sudo apt-get update && {fetch}; }}; }} 2>&1")
        client.check_output(f"cd {folder} && for package in *.deb; do dpkg --extract $package .; done")
        client.check_output(f"printf '%%s\\n' %s >{folder}/root.crt", root)
        # A certificate is renewed when half of its 90 days are over: not before is its age worth a warning.
        settings = f"TESTSSL_INSTALL_DIR={folder}/etc/testssl DAYS2WARN1=40 DAYS2WARN2=20 PATH={folder}/usr/bin:$PATH"
        library = f"LD_LIBRARY_PATH=$(echo {folder}/usr/lib/*-linux-gnu*)"
        options = f"--quiet --color 0 --warnings batch --nodns min --ip {address} --add-ca {folder}/root.crt --jsonfile {folder}/found.json"
        done = client.run(f"cd {folder} && env {settings} {library} timeout 300 testssl {options} {SECTIONS} https://{name}/ </dev/null")
        assert done.rc < 128, done.stdout[-1000:]  # it says how many findings there were, or with a high number why there are none
        return {one["id"]: (one["severity"], one["finding"]) for one in json.loads(client.check_output(f"cat {folder}/found.json"))}

    yield run
    client.check_output(f"rm -r {folder}")


@pytest.mark.xdist_group("apt")
def test_testssl_finds_nothing_of_medium_severity_or_worse(rack, cluster, testssl):
    found = testssl(names(rack)[0], rack["rack_deployer"]["address"], (cluster.state / "ca" / "root.crt").read_text())
    assert {name: one for name, one in found.items() if one[0] in ("MEDIUM", "HIGH", "CRITICAL", "FATAL")} == {}
    # That it came to its end, and saw the server as a client does that believes our root.
    good = ("TLS1_2", "TLS1_3", "cert_trust", "cert_chain_of_trust", "heartbleed", "SWEET32", "LUCKY13", "RC4")
    assert {name: found.get(name, ("missing",))[0] for name in good} == dict.fromkeys(good, "OK")
    assert "HSTS_time" in found


@pytest.mark.xdist_group("recorded run")
def test_this_controller_finds_what_it_recorded_among_the_runs_of_its_cluster(cluster, run):
    server = recording.deployers(cluster)

    def found(name):
        runs = server.get(f"/api/v1/playbooks?label=cluster:{name}&path={run.playbook}")["results"]
        return [(one["id"], one["status"], one["items"]["hosts"]) for one in runs]

    assert found(cluster.rack.cluster) == [(run.id, "completed", len(run.hosts))]
    assert found(f"{cluster.rack.cluster}-not") == []


@pytest.mark.xdist_group("recorded run")
def test_old_runs_are_forgotten_by_a_timer_and_others_stay(client, host, rack, ask, login, run):
    host.check_output("systemctl is-enabled ara-prune.timer")
    server, path = f"https://{names(rack)[0]}/api/v1/playbooks", f"/{uuid.uuid4().hex}.yml"
    old = json.dumps({"ansible_version": "2.19", "status": "completed", "path": path, "started": "2020-01-01T00:00:00Z"})
    assert ask(client, server, login, old)[0] == 201

    def there(name):
        return json.loads(ask(client, f"{server}?path={name}", login)[1])["count"]

    assert (there(path), there(run.playbook)) == (1, 1)
    host.check_output("sudo systemctl start ara-prune")
    assert (there(path), there(run.playbook)) == (0, 1)


def pin_of(address, root):
    """Return the checksum of the key of a server that has proven to be the one at its address, as Chromium wants it."""
    context = ssl.create_default_context(cafile=root)
    with socket.create_connection((address, 443), 10) as plain, context.wrap_socket(plain, server_hostname=address) as secure:
        certificate = x509.load_der_x509_certificate(secure.getpeercert(binary_form=True))
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(key).digest()).decode()


@pytest.mark.xdist_group("recorded run")
def test_a_person_can_read_a_run(rack, cluster, login, run):
    """In a real browser, from the list of runs by its links to one result of one node; the pages complain of nothing."""
    if not (command := browser.program()):
        pytest.skip(f"no browser on this machine: none of {', '.join(browser.PROGRAMS)}")
    address = rack["rack_deployer"]["address"]
    pin = pin_of(address, str(cluster.state / "ca" / "root.crt"))
    node = rack["rack_deployer"]["name"]
    with browser.browsing(command, f"--ignore-certificate-errors-spki-list={pin}") as page:
        page.log_in(login)

        def read(url):
            page.open(url, width=1280, height=800)
            assert page.complaints == [], url
            return page.evaluate("document.body.innerText")

        def link(path, text=""):
            """Return where a link leads that is below a path, and in a row of a table that has a text; None if there is none."""
            rows = f"[...document.querySelectorAll('tr')].filter(row => row.innerText.includes({json.dumps(text)}))"
            return page.evaluate(f"{rows}.flatMap(row => [...row.querySelectorAll('a')]).find(a => a.pathname.startsWith('{path}'))?.href")

        read(f"https://{address}/?path={run.playbook}")
        assert link("/playbooks/", run.word) == f"https://{address}/playbooks/{run.id}.html"
        shown = read(f"https://{address}/playbooks/{run.id}.html")
        assert all(name in shown for name in [*run.hosts, "Say something"])
        assert link("/hosts/", node)
        shown = read(link("/results/", node))
        assert f"said by {node} for {run.word}" in shown


def test_its_secrets_are_for_its_user_alone(host):
    settings = host.file("/etc/beowulf/ara.yaml")
    assert (settings.user, settings.group, settings.mode) == ("root", "ara", 0o640)
    assert host.run("sudo -u nobody cat /etc/beowulf/ara.yaml").rc != 0
    assert host.run("sudo -u nobody cat /etc/ssl/cluster/node.key").rc != 0
    assert host.run("sudo test -e /var/lib/ara/settings.yaml").rc == 1, "ARA writes its key there when it has no settings"

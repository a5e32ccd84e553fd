"""Both LAN servers serve a page about themselves, out of a root that has nothing else."""

import json
from datetime import UTC, datetime

import pytest

from tests.testinfra import browser

testinfra_hosts = ["ansible://router"]
pytestmark = pytest.mark.usefixtures("host")

# Paths asked for as they are, without the cleaning that a browser does first.
FETCH = """
import socket

answers = {{}}
for path in {paths!r}:
    try:
        with socket.create_connection(({server!r}, 80), timeout=3) as connection:
            connection.sendall(f"GET {{path}} HTTP/1.0\\r\\nHost: status\\r\\n\\r\\n".encode())
            head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).decode().partition("\\r\\n\\r\\n")
        answers[path] = [int(head.split()[1]), head, body]
    except (OSError, IndexError) as error:
        answers[path] = [0, str(error), ""]
print(json.dumps(answers))
"""
EVERYTHING = "[...document.querySelectorAll('body *')]"
NOT_SERVED = [
    "/../etc/passwd",
    "/../../../../etc/passwd",
    "/%2e%2e/etc/passwd",
    "/..%2fetc/passwd",
    "//etc/passwd",
    "/etc/passwd",
    "/../etc/httpd.conf",
    "/../usr/bin/busybox",
    "/usr/bin/busybox",
    "/../proc/self/status",
    "/proc/self/status",
    "/httpd.conf",
    "/cgi-bin/status",
]


@pytest.fixture
def fetch(client, python):
    """Fetch paths from a server, as a client does: {path: [status, head, body]}; status 0 is no answer."""
    return lambda server, *paths: python(client, FETCH.format(server=server, paths=paths))


@pytest.fixture
def status(fetch):
    """Fetch the status from a server; None for want of one."""

    def ask(server):
        code, _, body = fetch(server, "/status.json")["/status.json"]
        return json.loads(body) if code == 200 else None

    return ask


def main_pid(host):
    return int(host.check_output("systemctl show --property MainPID --value httpd"))


def test_the_floating_address_names_its_holder(rack, node, status, eventually):
    vip = rack["rack_network"]["vip"]
    (holder,) = [
        server["name"]
        for server in rack["rack_lanservices"]
        if node(server["name"]).run(f"ip -oneline -4 address | grep -q 'inet {vip}/'").rc == 0
    ]
    through_name = status(f"status.{rack['rack_domain']}")
    assert through_name["server"] == holder
    # A page tells of the floating address as it was when the page was made.
    eventually(lambda: status(vip)["vip"] == {"address": vip, "held": True, "answered_by": holder}, 25)
    for server in rack["rack_lanservices"]:
        eventually(lambda server=server: status(server["address"])["vip"]["held"] == (server["name"] == holder), 25)


def test_both_servers_have_fresh_pages(rack, client, fetch, status):
    for server in rack["rack_lanservices"]:
        seen = status(server["address"])
        now = datetime.fromtimestamp(int(client.check_output("date +%s")), UTC)
        assert seen["server"] == server["name"]
        assert -5 < (now - datetime.fromisoformat(seen["made"])).total_seconds() < 30
        (code, head, body), (_, json_head, _) = fetch(server["address"], "/", "/status.json").values()
        assert code == 200
        assert "text/html" in head
        assert "application/json" in json_head
        assert server["name"] in body


@pytest.mark.parametrize("width", [360, 1280], ids=["phone", "desk"])
def test_a_person_can_read_it(rack, width):
    """In a real browser: it says who answers, fits the screen, is not too small to read, and complains of nothing."""
    if not (command := browser.program()):
        pytest.skip(f"no browser on this machine: none of {', '.join(browser.PROGRAMS)}")
    with browser.browsing(command) as page:
        page.open(f"http://{rack['rack_network']['vip']}/", width=width, height=800)
        shown = page.evaluate("document.body.innerText")
        assert any(server["name"] in shown for server in rack["rack_lanservices"])
        assert rack["rack_network"]["vip"] in shown
        assert page.evaluate("innerWidth") == width
        assert page.evaluate(f"{EVERYTHING}.filter(e => e.getBoundingClientRect().right > innerWidth + 1).length") == 0
        assert page.evaluate(f"Math.min(...{EVERYTHING}.map(e => parseFloat(getComputedStyle(e).fontSize)))") >= 12
        assert page.complaints == []


def test_tells_the_state_of_the_pair(rack, status):
    for server in rack["rack_lanservices"]:
        seen = status(server["address"])
        assert {"local", "partner", "leases"} == set(seen["dhcp"])
        assert None not in seen["dhcp"].values(), "Kea was not asked, or did not answer"
        assert seen["clock"]["stratum"] is not None
        assert seen["uptime"] > 0
        assert len(seen["load"]) == 3


def test_tells_the_serials_that_the_servers_have(rack, client, status, eventually):
    def serials():
        return {
            zone["name"]: {
                server["name"]: int(client.check_output(f"dig +time=2 +tries=1 +short @{server['address']} {zone['name']} SOA").split()[2])
                for server in rack["rack_lanservices"]
            }
            for zone in rack["rack_zones"]
        }

    for server in rack["rack_lanservices"]:
        eventually(lambda server=server: status(server["address"])["zones"] == serials(), 25)


def test_serves_nothing_but_its_pages(rack, fetch):
    for server in rack["rack_lanservices"]:
        for path, (code, _, body) in fetch(server["address"], *NOT_SERVED).items():
            assert code in (400, 403, 404), path
            assert "root:" not in body, path


def test_lists_no_folder(rack, node, fetch):
    for server in rack["rack_lanservices"]:
        this = node(server["name"])
        this.check_output("sudo mkdir /run/httpd/pages/listed && sudo touch /run/httpd/pages/listed/secret")
        try:
            code, _, body = fetch(server["address"], "/listed/")["/listed/"]
        finally:
            this.check_output("sudo rm -r /run/httpd/pages/listed")
        assert code == 404
        assert "secret" not in body


def test_runs_as_nobody_in_an_empty_root(rack, node):
    """What /proc says of the process. Its root is a mount of its own, which readlink would call / as well."""
    for server in rack["rack_lanservices"]:
        this = node(server["name"])
        process = f"/proc/{main_pid(this)}"
        assert this.check_output(f"stat -c %U {process}") == "httpd"
        fields = dict(line.split(":\t", 1) for line in this.check_output(f"cat {process}/status").splitlines() if ":\t" in line)
        assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 1 << 10, "more than CAP_NET_BIND_SERVICE"
        assert fields["NoNewPrivs"] == "1"
        root = f"{process}/root/"
        assert this.check_output(f"sudo stat -c %d:%i {root}") != this.check_output("sudo stat -c %d:%i /")
        files = this.check_output(f"sudo find {root} -type f -not -name '.*.new' -printf '%P\\n'").splitlines()
        assert set(files) == {"etc/httpd.conf", "pages/index.html", "pages/status.json", "usr/bin/busybox"}
        options = this.check_output(f"sudo awk '$5 == \"/\" {{print $6}}' {process}/mountinfo")
        assert "ro" in options.split(",")


@pytest.mark.disturbs("lan")
def test_comes_back_when_killed(rack, node, status, eventually):
    for server in rack["rack_lanservices"]:
        this = node(server["name"])
        first = main_pid(this)
        this.check_output(f"sudo kill -KILL {first}")
        eventually(lambda this=this, first=first: main_pid(this) not in (0, first), 5)
        eventually(lambda server=server: status(server["address"]), 5)

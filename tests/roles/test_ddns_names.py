from __future__ import annotations

import pytest

from beowulf.process import ROOT

REVERSE = {f"{number}.0.77.10.in-addr.arpa" for number in range(200, 240)}
ZONES = ["dyn.lab.internal"]
OWNER = "AAABdYCc2eMwsxVg5Z/QrTPIdLK6btrxH47F5rzQB5+jYuE="


@pytest.fixture(scope="module")
def ddns(load):
    return load(ROOT / "roles/ddns/files/usr/local/lib/beowulf/ddns-names.py")


def names(ddns, **told):
    """What dig tells when each name has this address, an owner, and its reverse."""
    lines = []
    for name, address in told.items():
        full = f"{name}.dyn.lab.internal."
        lines += [f"{full} 60 IN A {address}", f"{full} 60 IN DHCID {OWNER}", f"{ddns.pointer(address)}. 60 IN PTR {full}"]
    return ddns.parse("\n".join(lines))


def lease(address, name, state=0):
    return {"ip-address": address, "hostname": name, "state": state, "fqdn-fwd": True, "fqdn-rev": True}


def test_only_leases_of_these_zones_that_have_not_ended_should_have_a_name(ddns):
    answer = {"arguments": {"leases": [
        lease("10.77.0.201", "Late.dyn.lab.internal."),
        lease("10.77.0.202", "ended.dyn.lab.internal", state=2),
        lease("10.77.0.21", "gamma.lab.internal.dyn.lab.internal"),
        lease("10.77.0.203", "elsewhere.test"),
        lease("10.77.0.204", ""),
    ]}}  # fmt: skip
    assert ddns.leased(answer, ZONES, REVERSE) == {"10.77.0.201": "late.dyn.lab.internal"}
    assert ddns.leased({"result": 3}, ZONES, REVERSE) == {}


def test_what_agrees_is_left_alone(ddns):
    leases = {"10.77.0.201": "a.dyn.lab.internal"}
    assert ddns.missing(leases, names(ddns, a="10.77.0.201"), REVERSE) == []
    assert ddns.stale(leases, names(ddns, a="10.77.0.201"), REVERSE) == []


def test_a_lease_without_its_name_or_its_reverse_is_missing(ddns):
    leases = {"10.77.0.201": "a.dyn.lab.internal", "10.77.0.202": "b.dyn.lab.internal"}
    told = ddns.parse("a.dyn.lab.internal. 60 IN A 10.77.0.201")
    assert ddns.missing(leases, told, REVERSE) == ["10.77.0.201", "10.77.0.202"]
    assert ddns.missing(leases, told, set()) == ["10.77.0.202"]


def test_a_name_that_another_lease_has_is_not_asked_for_again_and_again(ddns):
    leases = {"10.77.0.201": "a.dyn.lab.internal", "10.77.0.202": "a.dyn.lab.internal"}
    assert ddns.missing(leases, names(ddns, a="10.77.0.201"), REVERSE) == []
    assert ddns.stale(leases, names(ddns, a="10.77.0.201"), REVERSE) == []


def test_a_name_whose_lease_has_ended_goes_with_its_owner(ddns):
    (gone,) = ddns.stale({}, names(ddns, a="10.77.0.201"), REVERSE)
    assert (gone.name, gone.address, gone.forward, gone.reverse) == ("a.dyn.lab.internal", "10.77.0.201", True, True)
    assert gone.owner == "00000175809CD9E330B31560E59FD0AD33C874B2BA6EDAF11F8EC5E6BCD0079FA362E1"


def test_a_name_that_moved_goes_first_and_comes_back_then(ddns):
    leases = {"10.77.0.205": "a.dyn.lab.internal"}
    assert [one.address for one in ddns.stale(leases, names(ddns, a="10.77.0.201"), REVERSE)] == ["10.77.0.201"]
    assert ddns.missing(leases, names(ddns), REVERSE) == ["10.77.0.205"]


def test_what_somebody_else_wrote_stays(ddns):
    told = ddns.parse("printer.dyn.lab.internal. 60 IN A 10.77.0.100\ndyn.lab.internal. 60 IN NS ns1.lab.internal.")
    assert ddns.stale({}, told, REVERSE) == []


def test_only_the_server_that_leases_does_anything(ddns):
    def status(state, scopes):
        return {"arguments": {"high-availability": [{"ha-servers": {"local": {"state": state, "scopes": scopes}}}]}}

    assert ddns.serves(status("hot-standby", ["alpha"]))
    assert ddns.serves(status("partner-down", ["alpha"]))
    assert not ddns.serves(status("hot-standby", []))
    assert not ddns.serves(status("syncing", ["alpha"]))

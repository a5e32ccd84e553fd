from __future__ import annotations

import subprocess

import pytest

from beowulf.process import ROOT

CONFIGURATION = """acl "lan" {
	10.77.0.0/24;
};
key "transfer" {
	algorithm "hmac-sha256";
};
server 10.77.0.12/32 {
	keys "transfer";
};
zone "lab.internal" {
	type primary;
	file "/var/lib/bind/lab.internal.zone";
	allow-transfer  {
		key "transfer";
	};
};
zone "localhost" {
	type primary;
	file "/usr/share/dns/db.local";
};
zone "dyn.lab.internal" {
	type primary;
	file "/var/lib/bind/dyn.lab.internal.dynamic";
	update-policy {
		grant "update" zonesub "ANY";
	};
	allow-transfer  {
		key "transfer";
		key "update";
	};
};
"""
SOA = "dyn.lab.internal. 60 IN SOA ns1.lab.internal. hostmaster.lab.internal. {} 300 60 2419200 60"
RECORDS = ["dyn.lab.internal. 60 IN NS ns1.lab.internal.", "a.dyn.lab.internal. 60 IN A 10.77.0.201"]


@pytest.fixture(scope="module")
def zones(load):
    return load(ROOT / "roles/dns/files/usr/local/lib/beowulf/dns-zones.py")


def transfer(serial, *records):
    return "\n".join([SOA.format(serial), *RECORDS, *records, SOA.format(serial)]) + "\n"


def copy(zones, serial, *records):
    return zones.parse_zones(transfer(serial, *records))["dyn.lab.internal"]


@pytest.fixture
def zone(zones, tmp_path, monkeypatch):
    """A dynamic zone whose journal BIND cannot read; `zone.base` is what it makes of the file alone."""
    monkeypatch.setattr(zones.shutil, "chown", lambda *_arguments: None)
    monkeypatch.setattr(zones.time, "time", lambda: 1000)
    broken = zones.Zone("dyn.lab.internal", tmp_path / "dyn.lab.internal.dynamic", True, "update")
    broken.base = None
    broken.journal.write_bytes(b"noise")
    begin = copy(zones, 1)
    monkeypatch.setattr(zones, "read_file", lambda _zone, path, *_options: begin if path == zones.BEGIN else broken.base)
    return broken


def test_the_configuration_tells_zones_servers_and_key(zones):
    found, peers, key = zones.parse_configuration(CONFIGURATION)
    assert [(one.name, one.primary, one.update_key) for one in found] == [("lab.internal", True, ""), ("dyn.lab.internal", True, "update")]
    assert (peers, key) == (["10.77.0.12"], "transfer")


@pytest.mark.parametrize(
    ("serials", "now", "wanted"),
    [
        ([], 1000, 1000),
        ([28, 149], 1000, 1000),
        ([2000], 1000, 2001),  # a board whose clock is behind
        ([2**32 - 1], 2**31 + 5, 1),  # 0 is none
        ([4294967290, 5], 4294967291, 6),  # one of them has come round
    ],
)
def test_a_serial_only_grows(zones, serials, now, wanted):
    assert zones.following(serials, now) == wanted


def test_a_transfer_that_was_cut_off_is_none(zones):
    assert zones.parse_zones(transfer(7).rsplit("\n", 2)[0]) == {}
    assert zones.serial_of(copy(zones, 7)) == 7


def test_a_broken_zone_begins_again_from_the_newest_copy(zones, zone):
    zone.base = copy(zones, 28)
    zones.repair(zone, [copy(zones, 140), copy(zones, 149, "b.dyn.lab.internal. 60 IN A 10.77.0.202")], check=False)
    assert "b.dyn.lab.internal." in zone.file.read_text()
    assert " 1000 300 " in zone.file.read_text()
    assert not zone.journal.exists()


def test_it_begins_from_its_own_file_when_that_is_newer_and_still_outruns_the_copies(zones, zone):
    zone.base = copy(zones, 2000, "c.dyn.lab.internal. 60 IN A 10.77.0.203")
    zones.repair(zone, [copy(zones, 1990)], check=False)
    assert "c.dyn.lab.internal." in zone.file.read_text()
    assert " 2001 300 " in zone.file.read_text()


def test_it_begins_empty_where_nobody_has_it(zones, zone):
    zones.repair(zone, [], check=False)
    assert zone.file.read_text().count(" A ") == 1  # that of the file to begin with
    assert " 1000 300 " in zone.file.read_text()


def test_a_static_zone_loses_its_journal_alone(zones, zone):
    zone.update_key, zone.base = "", copy(zones, 50)
    zones.repair(zone, [copy(zones, 50)], check=False)
    assert not zone.journal.exists()
    assert not zone.file.exists()  # nothing was written


def test_a_check_knows_the_zones_that_the_configuration_is_going_to_have(zones, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(zones, "BEGIN", tmp_path / "dynamic.begin")
    monkeypatch.setattr(zones, "answers", lambda server: False)
    monkeypatch.setattr(zones, "PATIENCE", 0)
    answer = subprocess.CompletedProcess([], 0, stdout=CONFIGURATION.replace("/var/lib/bind", str(tmp_path)), stderr="")
    monkeypatch.setattr(zones, "run", lambda *command, **_options: answer)
    monkeypatch.setattr(zones, "read_file", lambda zone, path, *_options: None if "new" in zone.name else [])
    zones.main("--files", "--check", "dyn.lab.internal", "new.dyn.lab.internal")
    assert [line.partition(" as ")[0] for line in capsys.readouterr().out.splitlines()] == ["new.dyn.lab.internal: begins again"]
    assert not list(tmp_path.iterdir())
    # A deploy goes by the configuration alone.
    zones.main("--files", "new.dyn.lab.internal")
    assert capsys.readouterr().out == ""


def test_a_check_writes_nothing(zones, zone, capsys):
    zones.repair(zone, [copy(zones, 149)], check=True)
    assert zone.journal.exists()
    assert not zone.file.exists()
    assert capsys.readouterr().out == "dyn.lab.internal: begins again as 1000 from a zone of another server\n"


def test_a_primary_that_is_behind_keeps_its_names_and_takes_the_others(zones, zone, monkeypatch):
    copies = {
        "127.0.0.1": transfer(28, "own.dyn.lab.internal. 60 IN A 10.77.0.204"),
        "10.77.0.12": transfer(149, "theirs.dyn.lab.internal. 60 IN A 10.77.0.205"),
    }
    sent = []

    def run(*command, given):
        sent.append((command[0], given))
        return zones.subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(zones, "dig", lambda server, *_others: copies[server])
    monkeypatch.setattr(zones, "run", run)
    zone.serials = {"127.0.0.1": 28, "10.77.0.12": 149}
    zones.agree(zone, ["10.77.0.12"], "transfer", check=False)
    ((program, orders),) = sent
    assert program == "nsupdate"
    assert [line for line in orders.splitlines() if line.startswith("update")] == [
        "update add dyn.lab.internal. 60 IN SOA ns1.lab.internal. hostmaster.lab.internal. 1000 300 60 2419200 60",
        "update add theirs.dyn.lab.internal. 60 IN A 10.77.0.205",
    ]


@pytest.mark.parametrize(
    ("primary", "serials", "behind"),
    [
        (True, {}, True),
        (True, {"127.0.0.1": 28, "10.77.0.12": 149}, True),
        (True, {"127.0.0.1": 28}, False),  # the other one is off
        (False, {"10.77.0.11": 28}, True),
        (False, {}, False),  # nobody could give it
        (False, {"127.0.0.1": 149, "10.77.0.11": 28}, False),  # the primary's to mend
    ],
)
def test_a_server_mends_what_it_lacks_itself(zones, zone, primary, serials, behind):
    zone.primary, zone.serials = primary, serials
    assert zones.is_behind(zone) is behind


@pytest.mark.parametrize(
    ("primary", "serials", "why"),
    [
        (True, {}, "lab.internal: not served; "),
        (True, {"127.0.0.1": 7, "10.77.0.12": 8}, "lab.internal: older than on 10.77.0.12; if that has been made the primary "),
        (False, {"127.0.0.1": 7, "10.77.0.11": 8}, "lab.internal: older than on 10.77.0.11, which does not hand it out; "),
    ],
)
def test_what_it_cannot_mend_is_said_with_the_server_that_is_ahead(zones, tmp_path, primary, serials, why):
    assert zones.why_late(zones.Zone("lab.internal", tmp_path / "lab.internal.zone", primary, serials=serials)).startswith(why)


def test_a_file_of_noise_that_is_shown_in_an_error_is_one_that_cannot_be_loaded(zones, tmp_path, monkeypatch):
    program = tmp_path / "bin" / "named-compilezone"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nprintf '%s: unknown RR type \\377\\376\\n' \"$0\" >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    zone = zones.Zone("dyn.lab.internal", tmp_path / "dyn.lab.internal.dynamic", True)
    zone.file.write_bytes(b"\xff\xfe")
    assert zones.read_file(zone, zone.file) is None


def test_bind_is_told_again_until_it_takes_commands(zones, monkeypatch):
    told = []

    def run(*command, **_options):
        told.append(command)
        return subprocess.CompletedProcess(command, 0 if len(told) == 3 else 1)

    monkeypatch.setattr(zones, "run", run)
    monkeypatch.setattr(zones.time, "sleep", lambda _seconds: None)
    zones.reload()
    assert told == [("rndc", "reload")] * 3


def test_what_dig_says_of_itself_is_no_serial(zones, monkeypatch):
    answer = (
        ";; communications error to 127.0.0.1#53: connection refused\n"
        "dyn.lab.internal. 60 IN SOA alpha.lab.internal. root.lab.internal. 7 60 60 60 60\n"
    )
    monkeypatch.setattr(zones, "dig", lambda *_arguments: answer)
    one = zones.Zone("dyn.lab.internal", zones.BEGIN, True)
    zones.ask_serials([one], [zones.HERE])
    assert one.serials == {zones.HERE: 7}


def test_a_zone_that_was_broken_while_its_repair_ran_is_looked_at_again(zones, zone, monkeypatch):
    looked, told = [], []

    def repair_files(found, *_arguments):
        looked.append([one.name for one in found])
        return bool(looked[1:])

    def settle(found, *_arguments):
        if told:
            zone.serials = {zones.HERE: 7}
        return [one for one in found if zones.HERE not in one.serials]

    monkeypatch.setattr(zones, "run", lambda *_command: subprocess.CompletedProcess([], 0, stdout=""))
    monkeypatch.setattr(zones, "parse_configuration", lambda _text: ([zone], [], "transfer"))
    monkeypatch.setattr(zones, "ask_serials", lambda *_arguments: None)
    monkeypatch.setattr(zones, "repair_files", repair_files)
    monkeypatch.setattr(zones, "settle", settle)
    monkeypatch.setattr(zones, "reload", lambda: told.append("reload"))
    zones.main("--check")
    assert (looked, told) == ([[zone.name]], [])
    looked.clear()
    zones.main()
    assert looked == [[zone.name], [zone.name]]
    assert told

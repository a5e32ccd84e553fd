from __future__ import annotations

import contextlib
import json
import os
import resource
import shlex
import sqlite3
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from beowulf import backup
from beowulf.cluster import Cluster
from beowulf.errors import Failure, Refusal

ROOT = Path(__file__).resolve().parents[2]
COPY_DATABASE = ROOT / "roles/backup/files/copy-database.py"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def story(day=1, cluster="lab", archives=2):
    names = [archive(day + number, cluster) for number in range(archives)]
    return {"cluster": cluster, "id": "e" * 64, "archive": names[-1], "time": f"2026-02-{day:02}T03:30:00.000000Z", "original": 5e6,
            "added": 1200, "repository": 3e6, "before": 1, "archives": names}  # fmt: skip


def archive(day, cluster="lab"):
    return f"{cluster}-2026-02-{day:02}T03:30:00Z"


def put(folder, told):
    folder.mkdir(parents=True)
    (folder / "backup.json").write_text(told if isinstance(told, str) else json.dumps(told))


@pytest.fixture
def lab(monkeypatch, tmp_path):
    """The lab, with a state of its own and nodes that have no copy."""
    monkeypatch.setattr(Cluster, "state", tmp_path / "state")
    # That of the real deployer, which somebody may hold, is none of a test's.
    monkeypatch.setattr(backup.lock, "changing", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(backup, "on_node", lambda cluster, node: backup.Copy(node, None, reason="no copy"))
    return Cluster("lab")


def holding(monkeypatch, **stories):
    monkeypatch.setattr(
        backup, "on_node", lambda cluster, node: backup.Copy(node, stories.get(node), reason="" if node in stories else "no copy")
    )


def test_the_paths_are_those_of_the_role():
    defaults = yaml.safe_load((ROOT / "roles/backup/defaults/main.yml").read_text())
    assert defaults["backup_repository"] == backup.REPOSITORY
    everyone = yaml.safe_load((ROOT / "inventory/group_vars/all/backup.yml").read_text())
    lab = Cluster("lab")
    assert everyone["backup_relay"].replace("{{ rack_state_dir }}", str(lab.state)) == str(backup.relay(lab))


@pytest.mark.parametrize(
    "text",
    ["", "no JSON", "[]", "null", "{}", json.dumps(story() | {"time": "yesterday"}), json.dumps(story() | {"archives": []}),
     json.dumps(story() | {"archives": None})],
)  # fmt: skip
def test_what_is_no_complete_story_is_none(text):
    assert backup.read_story(text, NOW) is None


PLANTED = ["../../etc", "{{ lookup('pipe', 'id') }}", "lab-2026-02-02T03:30:00Z\n", "\x1b]52;c;aWQ=\x07", "lab-2026-02-02T03:30:00Z/..",
           "-x", 7, None, ["lab"], {"__ansible_vault": "x"}, "lab-2026-02-02", "home-2026-02-02T03:30:00Z",
           "l\u0430b-2026-02-02T03:30:00Z"]  # fmt: skip


def planted():
    """Stories of which one field says what none may say."""
    good = story()
    for bad in PLANTED:
        yield good | {"archive": bad, "archives": [*good["archives"], bad]}
        yield good | {"archives": [*good["archives"], bad]}
        yield good | {"archive": bad}
        yield good | {"cluster": bad}
        yield good | {"time": bad}
        yield good | {"id": bad}
        if bad != 7:
            yield good | {"original": bad}
            yield good | {"before": bad}
    yield good | {"time": "2099-01-01T00:00:00Z"}
    yield good | {"archive": "lab-2099-01-01T00:00:00Z", "archives": ["lab-2099-01-01T00:00:00Z"]}
    yield good | {"archives": good["archives"] * 2}
    yield good | {"time": "2026-02-31T00:00:00Z"}
    yield good | {"added": float("inf")}
    yield good | {"added": float("nan")}
    yield good | {"added": -1}
    yield good | {"added": True}
    yield good | {"added": 10**300}


@pytest.mark.parametrize("told", list(planted()), ids=repr)
def test_nothing_that_a_holder_plants_in_a_story_is_believed(told):
    assert backup.read_story(json.dumps(told), NOW) is None


def test_what_makes_the_parser_despair_is_no_story_either():
    assert backup.read_story("[" * 200000, NOW) is None
    assert backup.read_story('{"added": ' + "9" * 5000 + "}", NOW) is None


def test_fields_that_nobody_knows_go_no_further():
    assert backup.read_story(json.dumps(story() | {"more": "{{ 1 }}"}), NOW) == story()


def ask(lab, monkeypatch, tmp_path, program):
    """Ask a node whose ssh is a program of the shell; return what is known of its copy."""
    way = tmp_path / "ssh"
    way.write_text(f"#!/bin/sh\n{program}\n")
    way.chmod(0o755)
    monkeypatch.setattr(Cluster, "ssh", lambda self, node: [str(way), node])
    return on_node(lab, "alpha")


on_node = backup.on_node


@pytest.mark.parametrize(
    ("program", "words"),
    [
        # More than a gigabyte, a story in front of it or not
        ("head -c 2000000000 /dev/zero", "more than"),
        (f"echo '== backup'; echo {shlex.quote(json.dumps(story()))}; yes '== refused'", "more than"),
        ("head -c 2000000000 /dev/zero >&2", "more than"),
        # What blocks, as a FIFO does
        ("exec sleep 60", "no answer in 1 s"),
        ("printf 'no\\033]0;x\\007 route\\n' >&2; exit 255", "no?]0;x? route"),
        ("echo '== backup'; echo '== refused'", "no copy"),
        ("echo '== backup'; echo '{\"archive\": \"{{ x }}\"}'; echo '== refused'", "it is not complete"),
    ],
)
def test_a_node_may_say_what_it_likes_and_is_not_believed(lab, monkeypatch, tmp_path, program, words):
    monkeypatch.setattr(backup, "LIMIT", 1.0 if "sleep" in program else 20.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    copy = ask(lab, monkeypatch, tmp_path, program)
    assert copy.story is None
    assert words in copy.reason
    assert copy.reason.isprintable()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "it was all read"


def test_a_node_that_refused_a_copy_says_so_in_one_line(lab, monkeypatch, tmp_path):
    told = shlex.quote(json.dumps(story()))
    copy = ask(lab, monkeypatch, tmp_path, f"echo '== backup'; echo {told}; echo '== refused'; printf '2026 no\\033[2J room\\nbad\\n'")
    assert copy.story == story()
    assert copy.refused == "2026 no?[2J room bad"


@pytest.mark.parametrize("kind", ["fifo", "link", "long", "folder", "binary"])
def test_only_a_small_regular_file_is_read_in_a_folder(lab, tmp_path, kind):
    """Of a USB key, or of what was brought from a node. A FIFO that nobody writes to would be waited for."""
    folder = tmp_path / "key"
    folder.mkdir()
    (tmp_path / "secret").write_text(json.dumps(story()))
    place = folder / "backup.json"
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "link":
        place.symlink_to(tmp_path / "secret")
    elif kind == "long":
        with place.open("w") as file:
            file.write(json.dumps(story()))
            file.truncate(5_000_000_000)
    elif kind == "folder":
        place.mkdir()
    else:
        place.write_bytes(b"\xff\xfe")
    copy = backup.in_folder("key", folder)
    assert copy.story is None
    assert "does not say what is there" in copy.reason


def test_a_node_with_another_repository_is_not_the_newest(lab, monkeypatch):
    """Whoever holds a copy could win by a later time alone."""
    put(backup.relay(lab), story(4))
    holding(monkeypatch, alpha=story(9) | {"id": "f" * 64}, beta=story(9) | {"id": ""}, psi=story(5))
    assert backup.choose(lab, "", "").place == "psi"


def test_a_complete_story_is_read_and_has_an_age():
    told = backup.read_story(json.dumps(story(day=27)), NOW)
    assert told == story(day=27)
    assert backup.age(told, NOW) == timedelta(days=2, hours=8, minutes=30).total_seconds()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-5, "just now"), (119, "just now"), (120, "2 min ago"), (7199, "120 min ago"), (7200, "2 h ago"), (172800, "2 days ago")],
)
def test_ages_are_told_in_words(seconds, words):
    assert backup.ago(seconds) == words


@pytest.mark.parametrize(("count", "words"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (24275509, "24.3 MB"), (5e12, "5.0 TB")])
def test_sizes_are_told_in_words(count, words):
    assert backup.size(count) == words


def test_the_newest_copy_is_taken_and_this_machines_before_others_of_its_age(lab, monkeypatch):
    holding(monkeypatch, psi=story(3), alpha=story(5), beta=story(4))
    put(backup.relay(lab), story(4))
    assert backup.choose(lab, "", "").place == "alpha"
    put(lab.state / "backup" / "other", story(5))
    (backup.relay(lab) / "backup.json").write_text(json.dumps(story(5)))
    assert backup.choose(lab, "", "").folder == backup.relay(lab)


def test_a_swap_that_was_interrupted_hides_nothing(lab):
    put(backup.relay(lab).with_name("repository.previous"), story(4))
    put(backup.relay(lab).with_name("repository.incoming"), story(5))
    assert backup.choose(lab, "", "").folder.name == "repository.previous"


def test_a_folder_is_that_of_a_key_or_the_copy_itself(lab, tmp_path):
    put(tmp_path / "key" / "beowulf-lab", story(2))
    for folder in (tmp_path / "key", tmp_path / "key" / "beowulf-lab"):
        assert backup.choose(lab, str(folder), "").folder == tmp_path / "key" / "beowulf-lab"


@pytest.mark.parametrize(
    ("source", "archive", "words"),
    [
        ("", "", "There is no backup to restore from. Looked at psi: no copy; alpha: no copy; beta: no copy; this machine: no copy."),
        ("alpha", "", "--from alpha: no copy."),
        ("{tmp}", "", "no copy."),
        ("{tmp}/nothing", "", "neither a folder of this machine nor a node. The nodes: omega, psi"),
        ("{tmp}/other", "", "is of the cluster home, not of lab"),
        ("{tmp}/broken", "", "backup.json does not say what is there"),
        ("{tmp}/good", "lab-1999", f"has no archive 'lab-1999'. It has:\n  {archive(1)}\n  {archive(2)}"),
    ],
)
def test_what_cannot_be_restored_is_refused_before_a_node_is_touched(lab, tmp_path, monkeypatch, source, archive, words):
    put(tmp_path / "other", story(cluster="home"))
    put(tmp_path / "broken", "half of")
    put(tmp_path / "good", story())
    monkeypatch.setattr(backup.playbook, "run", lambda *_: pytest.fail("it went on"))
    monkeypatch.setattr(backup.host, "require_lab", lambda: pytest.fail("it went on"))
    with pytest.raises(Refusal) as raised:
        backup.restore(lab, source.format(tmp=tmp_path), archive)
    assert words in str(raised.value)


@pytest.fixture
def runs(lab, monkeypatch):
    """What is run instead of Ansible: pairs of the task and the extra variables."""
    ran = []

    def record(command, task, variables=None):
        assert not [word for word in command if word.startswith("--extra-vars")]
        ran.append((task, variables))
        return 0, {"seconds": 1, "hosts": {}, "failures": []}

    monkeypatch.setattr(backup.playbook, "run", record)
    monkeypatch.setattr(backup.host, "require_lab", lambda: None)
    for name in ("here", "changing"):
        monkeypatch.setattr(backup.lock, name, lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(Cluster, "lab_is_up", lambda self: True)
    monkeypatch.setattr(backup.deploy, "deploy", lambda cluster: ran.append(("deploy", {})))
    return ran


def test_a_restore_of_a_nodes_copy_leaves_this_machines_own_in_its_place(lab, monkeypatch, runs):
    holding(monkeypatch, beta=story(5))
    put(backup.relay(lab), story(4))
    backup.restore(lab)
    (task, said), after = runs
    assert (task, after[0]) == ("backup.restore", "deploy")
    assert (said["backup_holder"], said["backup_archive"], said["backup_force"]) == ("beta", archive(6), False)
    assert said["backup_from"] != str(backup.relay(lab))


def test_a_restore_of_a_folder_asks_no_node(lab, tmp_path, runs):
    put(tmp_path / "key" / "beowulf-lab", story())
    backup.restore(lab, str(tmp_path / "key"), archive(1), force=True)
    assert runs[0][1] == {"backup_from": str(tmp_path / "key" / "beowulf-lab"), "backup_holder": "",
                          "backup_archive": archive(1), "backup_force": True}  # fmt: skip


def test_nothing_is_set_up_around_a_restore_that_failed(lab, tmp_path, monkeypatch, runs):
    put(tmp_path / "key", story())
    failed = {"node": "psi", "state": "failed", "task": "t", "path": "p", "lines": ["the passphrase is wrong"]}
    summary = {"seconds": 1, "hosts": {"psi": {"failures": 1, "unreachable": 0, "changed": 0}}, "failures": [failed]}
    monkeypatch.setattr(backup.playbook, "run", lambda *_, **__: (2, summary))
    with pytest.raises(Failure, match="the passphrase is wrong"):
        backup.restore(lab, str(tmp_path / "key"))
    assert runs == []


def test_a_backup_goes_to_a_folder_that_is_there(lab, tmp_path, runs, capsys):
    put(backup.relay(lab), story())
    backup.create(lab, str(tmp_path))
    assert runs == [("backup.create", {"backup_to": str(tmp_path / "beowulf-lab"), "backup_force": False, "backup_before": 2})]
    shown = capsys.readouterr().out
    assert f"archive {archive(2)}: 5.0 MB, of which 1.2 kB are new" in shown
    assert f"psi, alpha, beta, {backup.relay(lab)}, {tmp_path / 'beowulf-lab'}" in shown
    with pytest.raises(Refusal, match="Is the medium mounted"):
        backup.create(lab, str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("own", "alpha", "force", "holder"),
    [(None, story(5), False, "alpha"), (None, story(5), True, None), (story(1), story(5), False, None), (None, None, False, None)],
)
def test_a_deployer_without_a_repository_is_given_the_newest_copy(lab, monkeypatch, runs, own, alpha, force, holder):
    holding(monkeypatch, **{name: told for name, told in (("psi", own), ("alpha", alpha)) if told})
    with contextlib.suppress(Failure):
        backup.create(lab, force=force)
    [(_, said)] = runs
    assert said["backup_force"] is force
    assert said.get("backup_holder") == holder
    assert ("backup_from" in said) is bool(holder)
    assert said["backup_before"] == (2 if own or alpha else 0)


def test_a_number_of_archives_that_fell_to_one_is_told(lab, monkeypatch, capsys):
    holding(monkeypatch, psi=story(archives=1) | {"before": 9}, alpha=story(archives=1))
    backup.listing(lab)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("psi           1 archive, where there were 9, ")
    assert lines[1].startswith("alpha         1 archive, 3.0 MB")


@pytest.mark.parametrize(("node", "said"), [("beta", True), ("psi", False)])
def test_a_node_without_a_copy_is_told_from_a_backup_that_was_not_made(lab, monkeypatch, capsys, node, said):
    failed = {"node": node, "state": "unreachable", "task": "t", "path": "p", "lines": []}
    summary = {"seconds": 1, "hosts": {node: {"failures": 0, "unreachable": 1, "changed": 0}}, "failures": [failed]}
    monkeypatch.setattr(backup.playbook, "run", lambda *_, **__: (4, summary))
    with pytest.raises(Failure):
        backup.create(lab)
    assert ("The backup itself was made" in capsys.readouterr().out) is said


def test_the_list_says_who_lacks_what(lab, monkeypatch, capsys):
    with pytest.raises(Failure, match="No backup was found"):
        backup.listing(lab)
    holding(monkeypatch, psi=story(archives=3), alpha=story())
    capsys.readouterr()
    backup.listing(lab)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "beta          no copy"
    assert lines[-3:] == [f"  {archive(1)}", f"  {archive(2)}", f"  {archive(3)}  (only psi)"]


# What a holder admits

ADMIT = ROOT / "roles/backup/files/admit-copy.py"
KEEP = {"within": "2d", "daily": 7, "weekly": 4, "monthly": 6}


@pytest.fixture(scope="module")
def admit(load):
    return load(ADMIT)


def days(*numbers):
    return {f"lab-{time:%Y-%m-%dT%H:%M:%SZ}": time for time in (NOW - timedelta(days=number) for number in numbers)}


@pytest.mark.parametrize(
    ("last", "new", "lost"),
    [
        # One more each day; a holder that was away for a week, or for three months
        ((2, 1), (2, 1, 0), ()),
        ((20, 8, 7), (20, 6, 5, 4, 3, 2, 1, 0), (7, 8)),
        ((90.5,), (90, 60, 30, 1, 0), ()),
        # Two of one day: the first of them goes when both are older than two days
        ((5.1,), (5, 4, 3, 2, 1, 0), ()),
        ((1.1,), (1, 0), (1.1,)),
        # The deployer went back to an older repository and went on from there
        ((9, 8, 7, 6, 5), (9, 0), (5, 6, 7, 8)),
        # Begun anew
        ((3, 2, 1), (0,), (1, 2, 3)),
        # Older than the months that are kept, and within them
        ((400, 1), (360, 330, 300, 270, 240, 210, 180, 150, 120, 90, 60, 35, 6, 5, 4, 3, 2, 1, 0), ()),
        ((250, 1), (210, 180, 150, 120, 90, 60, 35, 6, 5, 4, 3, 2, 1, 0), (250,)),
    ],
)
def test_what_only_the_last_copy_has_is_lost_unless_age_let_it_go(admit, last, new, lost):
    assert admit.lost(days(*last), days(*new), KEEP) == sorted(days(*lost))


def repository(folder, identity, archives):
    folder.mkdir(parents=True)
    (folder / "config").write_text(f"[repository]\nversion = 1\nid = {identity * 64}\nkey = a%b\n\tc\n")
    (folder / "backup.json").write_text(json.dumps({"archives": list(archives)}))


def asked(*arguments):
    return subprocess.run([sys.executable, ADMIT, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("last", "new", "words"),
    [
        (None, ("a", (0,)), ""),
        (("a", (1,)), ("a", (1, 0)), ""),
        (("a", (3, 2, 1)), ("b", (0,)), "another repository, and 3 archives of it would be lost: lab-2026-02-26T12:00:00Z, "),
        (("a", (3, 2, 1)), ("a", (0,)), "does not go on from it, and 3 archives"),
        (("a", ()), ("b", (0,)), "another repository, and nothing is known of what is in it"),
        # No repository that Borg could open has nothing to lose.
        (("no", (1,)), ("b", (0,)), ""),
    ],
)
def test_a_holder_swaps_for_what_goes_on_from_its_copy_alone(tmp_path, last, new, words):
    place = tmp_path / "cluster"
    if last:
        repository(place, last[0], days(*last[1]))
    repository(tmp_path / "cluster.incoming", new[0], days(*new[1]))
    result = asked("archives", place, json.dumps(KEEP))
    assert (result.returncode, result.stderr) == (3 if words else 0, "")
    assert words in result.stdout
    assert (tmp_path / "cluster.incoming").exists() is not bool(words)
    assert place.exists() is bool(last)
    note = tmp_path / "cluster.refused"
    if words:
        assert result.stdout.strip().endswith("`backup.create --force` lets the last copy go.")
        assert result.stdout.strip() in note.read_text()
        assert stat.S_IMODE(note.stat().st_mode) == 0o600
    else:
        assert not note.exists()


@pytest.mark.parametrize("file", ["config", "backup.json"])
def test_a_holder_does_not_wait_for_what_was_put_into_its_folder(tmp_path, file):
    for name, identity in (("cluster", "a"), ("cluster.incoming", "b")):
        repository(tmp_path / name, identity, days(1))
        (tmp_path / name / file).unlink()
        os.mkfifo(tmp_path / name / file)
    result = asked("archives", tmp_path / "cluster", json.dumps(KEEP))
    assert result.returncode == (0 if file == "config" else 3), result.stderr


def test_a_holder_refuses_what_would_leave_too_little_room(tmp_path):
    disk = os.statvfs(tmp_path)
    free, whole = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    assert asked("room", tmp_path / "cluster", 0, 0).returncode == 0
    assert asked("room", tmp_path / "cluster", 1000, max(0, free * 100 // whole - 2)).returncode == 0
    result = asked("room", tmp_path / "cluster", free - whole * 19 // 100, 20)
    assert result.returncode == 3
    assert "with the new one less than 20 % of its file system would be left" in result.stdout
    assert result.stdout.strip() in (tmp_path / "cluster.refused").read_text()


# The copy of a database


def copied(source, destination):
    return subprocess.run([sys.executable, COPY_DATABASE, source, destination], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_the_copy_of_a_database_has_one_moments_state(tmp_path, journal):
    """Every transaction adds to both tables, and as much changes during the copy as the disk allows."""
    source, done = tmp_path / "live.sqlite", threading.Event()
    with sqlite3.connect(source) as live:
        live.execute(f"PRAGMA journal_mode={journal}")
        live.executescript("CREATE TABLE a (x); CREATE TABLE b (x)")

    def write():
        writer = sqlite3.connect(source, timeout=30, isolation_level=None)
        writer.execute("PRAGMA synchronous=OFF")
        while not done.is_set():
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("INSERT INTO a VALUES (randomblob(9000))")
            writer.execute("INSERT INTO b VALUES (1)")
            writer.execute("COMMIT")
        writer.close()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(5):
            result = copied(source, tmp_path / "copies" / f"{number}.sqlite")
            assert result.returncode == 0, result.stderr
    finally:
        done.set()
        thread.join()
    sizes = []
    for number in range(5):
        with sqlite3.connect(tmp_path / "copies" / f"{number}.sqlite") as copy_:
            assert copy_.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            (left,), (right,) = copy_.execute("SELECT count(*) FROM a UNION ALL SELECT count(*) FROM b")
            assert left == right
            sizes.append(left)
    assert sizes[-1] > sizes[0] > 0, "nothing was written meanwhile"


def test_the_copy_is_as_private_as_the_database(tmp_path):
    source = tmp_path / "live.sqlite"
    with sqlite3.connect(source) as live:
        live.execute("CREATE TABLE a (x)")
    source.chmod(0o640)
    assert copied(source, tmp_path / "new" / "copy.sqlite").returncode == 0
    assert stat.S_IMODE((tmp_path / "new" / "copy.sqlite").stat().st_mode) == 0o640
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["copy.sqlite"]


def test_what_is_no_database_leaves_the_last_copy(tmp_path):
    (tmp_path / "copy").write_text("the last one")
    (tmp_path / "text").write_text("no database, and long enough to have a header" * 20)
    for source in ("text", "nothing"):
        result = copied(tmp_path / source, tmp_path / "copy")
        assert result.returncode == 1
        assert result.stderr.startswith(f"{tmp_path / source}: ")
        assert "Traceback" not in result.stderr
        assert (tmp_path / "copy").read_text() == "the last one"
    assert not (tmp_path / "nothing").exists()

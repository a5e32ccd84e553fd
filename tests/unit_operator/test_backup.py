from __future__ import annotations

import contextlib
import json
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
    names = [f"{cluster}-2026-02-{day + number:02}" for number in range(archives)]
    return {"cluster": cluster, "archive": names[-1], "time": f"2026-02-{day:02}T03:30:00.000000Z", "original": 5e6, "added": 1200,
            "repository": 3e6, "archives": names}  # fmt: skip


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
    everyone = yaml.safe_load((ROOT / "inventory/group_vars/all.yml").read_text())
    lab = Cluster("lab")
    assert everyone["backup_relay"].replace("{{ rack_state_dir }}", str(lab.state)) == str(backup.relay(lab))


@pytest.mark.parametrize(
    "text",
    ["", "no JSON", "[]", "null", "{}", json.dumps(story() | {"time": "yesterday"}), json.dumps(story() | {"archives": []}),
     json.dumps(story() | {"archives": None})],
)  # fmt: skip
def test_what_is_no_complete_story_is_none(text):
    assert backup.read_story(text) is None


def test_a_complete_story_is_read_and_has_an_age():
    told = backup.read_story(json.dumps(story(day=27)))
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
        ("{tmp}/good", "lab-1999", "has no archive 'lab-1999'. It has:\n  lab-2026-02-01\n  lab-2026-02-02"),
    ],
)
def test_what_cannot_be_restored_is_refused_before_a_node_is_touched(lab, tmp_path, monkeypatch, source, archive, words):
    put(tmp_path / "other", story(cluster="home"))
    put(tmp_path / "broken", "half of")
    put(tmp_path / "good", story())
    monkeypatch.setattr(backup.deploy, "run_playbooks", lambda *_: pytest.fail("it went on"))
    monkeypatch.setattr(backup.host, "require_lab", lambda: pytest.fail("it went on"))
    with pytest.raises(Refusal) as raised:
        backup.restore(lab, source.format(tmp=tmp_path), archive)
    assert words in str(raised.value)


@pytest.fixture
def runs(lab, monkeypatch):
    """What is run instead of Ansible: pairs of the task and the extra variables."""
    ran = []

    def record(command, task):
        extra = [word.removeprefix("--extra-vars=") for word in command if word.startswith("--extra-vars=")]
        ran.append((task, json.loads(extra[0]) if extra else {}))
        return 0, {"seconds": 1, "hosts": {}, "failures": []}

    monkeypatch.setattr(backup.deploy, "run_playbooks", record)
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
    assert (said["backup_holder"], said["backup_archive"], said["backup_force"]) == ("beta", "lab-2026-02-06", False)
    assert said["backup_from"] != str(backup.relay(lab))


def test_a_restore_of_a_folder_asks_no_node(lab, tmp_path, runs):
    put(tmp_path / "key" / "beowulf-lab", story())
    backup.restore(lab, str(tmp_path / "key"), "lab-2026-02-01", force=True)
    assert runs[0][1] == {"backup_from": str(tmp_path / "key" / "beowulf-lab"), "backup_holder": "",
                          "backup_archive": "lab-2026-02-01", "backup_force": True}  # fmt: skip


def test_nothing_is_set_up_around_a_restore_that_failed(lab, tmp_path, monkeypatch, runs):
    put(tmp_path / "key", story())
    failed = {"node": "psi", "state": "failed", "task": "t", "path": "p", "lines": ["the passphrase is wrong"]}
    summary = {"seconds": 1, "hosts": {"psi": {"failures": 1, "unreachable": 0, "changed": 0}}, "failures": [failed]}
    monkeypatch.setattr(backup.deploy, "run_playbooks", lambda *_: (2, summary))
    with pytest.raises(Failure, match="the passphrase is wrong"):
        backup.restore(lab, str(tmp_path / "key"))
    assert runs == []


def test_a_backup_goes_to_a_folder_that_is_there(lab, tmp_path, runs, capsys):
    put(backup.relay(lab), story())
    backup.create(lab, str(tmp_path))
    assert runs == [("backup.create", {"backup_to": str(tmp_path / "beowulf-lab")})]
    shown = capsys.readouterr().out
    assert "archive lab-2026-02-02: 5.0 MB, of which 1.2 kB are new" in shown
    assert f"psi, alpha, beta, {backup.relay(lab)}, {tmp_path / 'beowulf-lab'}" in shown
    with pytest.raises(Refusal, match="Is the medium mounted"):
        backup.create(lab, str(tmp_path / "nothing"))


@pytest.mark.parametrize(("node", "said"), [("beta", True), ("psi", False)])
def test_a_node_without_a_copy_is_told_from_a_backup_that_was_not_made(lab, monkeypatch, capsys, node, said):
    failed = {"node": node, "state": "unreachable", "task": "t", "path": "p", "lines": []}
    summary = {"seconds": 1, "hosts": {node: {"failures": 0, "unreachable": 1, "changed": 0}}, "failures": [failed]}
    monkeypatch.setattr(backup.deploy, "run_playbooks", lambda *_: (4, summary))
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
    assert lines[-3:] == ["  lab-2026-02-01", "  lab-2026-02-02", "  lab-2026-02-03  (only psi)"]


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

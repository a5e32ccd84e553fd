"""Where the recorded runs are looked for: on the deployer, and on this machine."""

from __future__ import annotations

import io
import json
import tarfile

import pytest

from beowulf import ara, playbook, recording, status
from beowulf.cluster import Cluster
from beowulf.errors import Failure

RUN = {"id": 7, "status": "completed", "path": "/x/site.yml"}


class Server:
    """Says that it has one run; or, without one, what servers say that have none."""

    def __init__(self, url, started=None):
        self.url, self.started, self.asked = url, started, []

    def get(self, path):
        self.asked.append(path)
        return {"results": [RUN | {"started": self.started}] if self.started else []}


class Silent(Server):
    def get(self, path):
        raise TimeoutError("timed out")


@pytest.fixture
def lab(monkeypatch, tmp_path):
    monkeypatch.setenv("BEOWULF_ARA_FOLDER", str(tmp_path / "ara"))
    monkeypatch.delenv("ARA_API_SERVER", raising=False)
    # The state of a cluster that was never deployed, whatever there is beside this test.
    monkeypatch.setattr(Cluster, "state", tmp_path / "state")
    yield Cluster("lab")
    ara.stop(tmp_path / "ara")


@pytest.mark.parametrize(
    ("on_the_deployer", "here", "url"),
    [
        ("2026-01-02T10:00:00+00:00", "2026-01-02T09:00:00+00:00", "https://there/playbooks/7.html"),
        ("2026-01-02T10:00:00+00:00", "2026-01-02T09:30:00-02:00", "http://here/playbooks/7.html"),
        (None, "2026-01-02T09:00:00+00:00", "http://here/playbooks/7.html"),
    ],
)
def test_the_last_run_is_the_newest_wherever_it_was_recorded(lab, monkeypatch, on_the_deployer, here, url):
    servers = [Server("https://there", on_the_deployer), Silent("http://silent"), Server("http://here", here)]
    monkeypatch.setattr(recording, "servers", lambda cluster: servers)
    assert status.last_run(lab)["url"] == url
    assert "label=cluster:lab" in servers[0].asked[0]


def test_without_a_server_there_is_no_last_run(lab):
    assert recording.servers(lab) == []
    assert status.last_run(lab) is None


def test_without_a_deployer_this_machine_serves_its_own(lab, capsys):
    recording.serve(lab)
    shown = capsys.readouterr()
    assert ara.answers(shown.out.strip())
    assert "there is no ARA on the deployer: the cluster has none yet" in shown.err
    assert [server.url for server in recording.servers(lab)] == [shown.out.strip()]
    assert status.last_run(lab) is None


def test_without_a_deployer_the_pages_are_those_of_this_machine(lab, capsys, tmp_path):
    recording.report(lab, tmp_path / "pages")
    assert (tmp_path / "pages" / "index.html").is_file()


def test_a_run_tells_where_it_is_recorded_and_why_there(lab, capsys, tmp_path):
    (tmp_path / "summary").write_text(json.dumps({"seconds": 1, "hosts": {}, "failures": [], "notes": ["no k3s"]}))
    (tmp_path / "told").write_text(json.dumps({"url": "http://here/playbooks/1.html", "note": "the deployer is down"}))
    playbook.conclude("deploy", lab, 0, playbook.with_recording(tmp_path / "summary", tmp_path / "told"))
    shown = capsys.readouterr().out
    assert "  note: no k3s\n  note: the deployer is down\n  recorded: http://here/playbooks/1.html\n" in shown


@pytest.mark.parametrize("told", [None, "", "[]"])
def test_a_run_that_is_not_recorded_ends_all_the_same(lab, capsys, tmp_path, told):
    (tmp_path / "summary").write_text(json.dumps({"seconds": 1, "hosts": {}, "failures": []}))
    if told is not None:
        (tmp_path / "told").write_text(told)
    playbook.conclude("deploy", lab, 0, playbook.with_recording(tmp_path / "summary", tmp_path / "told"))
    assert "recorded" not in capsys.readouterr().out
    assert playbook.with_recording(tmp_path / "none", tmp_path / "told") is None


def test_a_deployer_that_cannot_write_the_pages_says_why(tmp_path):
    with pytest.raises(Failure, match="cannot write the pages: no room there"):
        recording.fetch(["sh", "-c", "cat > /dev/null; echo no room there >&2; exit 3"], tmp_path / "pages")
    assert not (tmp_path / "pages").exists()


def test_the_pages_stay_in_their_folder(tmp_path):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as members:
        members.addfile(tarfile.TarInfo("../outside"), io.BytesIO())
    (tmp_path / "pages").mkdir()
    with pytest.raises(Failure, match="cannot be written"):
        recording.unpack(archive.getvalue(), tmp_path / "pages")
    assert not (tmp_path / "outside").exists()

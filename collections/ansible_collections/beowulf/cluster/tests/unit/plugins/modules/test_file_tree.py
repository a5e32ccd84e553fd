"""The half of file_tree that runs on a node: compares, checks, and replaces all or nothing."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys

import pytest
from ansible.module_utils import basic
from ansible.module_utils.testing import patch_module_args

from ansible_collections.beowulf.cluster.plugins.modules import file_tree


@pytest.fixture
def install():
    """Run the module with files, {path: options}; return its answer."""

    def run(files, check=False, diff=False, code=0):
        listed = []
        for path, options in files.items():
            content = {"content": base64.b64encode(options.pop("text").encode()).decode()} if "text" in options else {}
            listed.append({"path": str(path), "mode": "0644", **content, **options})
        question = {"ANSIBLE_MODULE_ARGS": {"files": listed, "_ansible_check_mode": check, "_ansible_diff": diff}}
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, file_tree.__file__], input=json.dumps(question), env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout)

    return run


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="files are root's")
pytestmark = needs_root


def test_a_file_is_installed_with_its_folders_and_once(install, tmp_path):
    path = tmp_path / "etc" / "some" / "some.conf"
    assert install({path: {"text": "one\n", "mode": "0640"}})["paths"] == [str(path)]
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("one\n", 0o640)
    assert not install({path: {"text": "one\n", "mode": "0640"}})["changed"]


def test_no_content_of_a_file_comes_into_the_journal(tmp_path, monkeypatch, capsys):
    """Nor into the result, which is recorded: a module writes there what it was called with."""
    logged = []
    monkeypatch.setattr(basic.AnsibleModule, "log", lambda _self, message, log_args=None: logged.append(f"{message} {log_args}"))
    content = base64.b64encode(b"key = of all keys").decode()
    wanted = {"files": [{"path": str(tmp_path / "some.conf"), "content": content}], "_ansible_no_log": False}
    with patch_module_args(wanted), pytest.raises(SystemExit):
        file_tree.main()
    assert (tmp_path / "some.conf").read_text() == "key = of all keys"
    said = "".join(logged) + capsys.readouterr().out
    assert str(tmp_path / "some.conf") in "".join(logged)
    assert content not in said
    assert "of all keys" not in said


@pytest.mark.parametrize("changed", [{"text": "two\n"}, {"mode": "0600"}, {"group": "daemon"}], ids=["content", "mode", "group"])
def test_what_differs_is_told_and_mended(install, tmp_path, changed):
    path = tmp_path / "some.conf"
    install({path: {"text": "one\n"}})
    assert install({path: {"text": "one\n", **changed}})["changed"]
    assert not install({path: {"text": "one\n", **changed}})["changed"]


def test_one_invalid_file_leaves_all_as_they_were(install, tmp_path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    install({good: {"text": "old"}, bad: {"text": "old"}})
    wanted = {good: {"text": "new"}, bad: {"text": "wrong", "validate": ["grep -q new %s"]}}
    answer = install(wanted, code=1)
    assert f"{bad} is not valid, nothing was replaced" in answer["msg"]
    assert (good.read_text(), bad.read_text()) == ("old", "old")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "good"]


def test_a_check_names_the_file_and_not_the_candidate(install, tmp_path):
    path = tmp_path / "some.conf"
    answer = install({path: {"text": "x", "validate": ["sh -c 'echo line 3 of $0 >&2; exit 1' %s"]}}, code=1)
    assert f"line 3 of {path}" in answer["msg"]
    assert "candidate" not in answer["msg"]


def test_a_check_sees_the_new_content(install, tmp_path):
    path = tmp_path / "some.conf"
    install({path: {"text": "old"}})
    install({path: {"text": "new", "validate": ["grep -q new %s"]}})
    assert path.read_text() == "new"


def test_check_mode_tells_and_touches_nothing(install, tmp_path):
    path = tmp_path / "folder" / "some.conf"
    answer = install({path: {"text": "new\n", "validate": ["false"]}}, check=True, diff=True)
    assert answer["paths"] == [str(path)]
    assert answer["diff"][0]["after"] == "new\n"
    assert list(tmp_path.iterdir()) == []


def test_a_secret_is_not_in_the_diff(install, tmp_path):
    answer = install({tmp_path / "key": {"text": "the secret", "secret": True}}, diff=True)
    assert "the secret" not in json.dumps(answer)


def test_what_is_to_be_absent_goes_and_stays_away(install, tmp_path):
    path = tmp_path / "old.conf"
    path.write_text("old")
    assert install({path: {"state": "absent"}})["changed"]
    assert not path.exists()
    assert not install({path: {"state": "absent"}})["changed"]


def test_a_link_is_replaced_by_the_file_and_not_followed(install, tmp_path):
    target, path = tmp_path / "target", tmp_path / "some.conf"
    target.write_text("of somebody else")
    path.symlink_to(target)
    install({path: {"text": "new"}})
    assert not path.is_symlink()
    assert (path.read_text(), target.read_text()) == ("new", "of somebody else")


def test_links_and_folders(install, tmp_path):
    link, folder = tmp_path / "link", tmp_path / "folder"
    wanted = {link: {"state": "link", "target": "folder"}, folder: {"state": "directory", "mode": "0750"}}
    assert install({path: dict(options) for path, options in wanted.items()})["changed"]
    assert (os.readlink(link), stat.S_IMODE(folder.stat().st_mode)) == ("folder", 0o750)
    assert not install({path: dict(options) for path, options in wanted.items()})["changed"]


def test_an_owner_that_there_is_not_is_named(install, tmp_path):
    answer = install({tmp_path / "x": {"text": "", "owner": "nobody-of-that-name"}}, code=1)
    assert "nobody-of-that-name" in answer["msg"]


@pytest.mark.parametrize("text", ["a\0b", "x" * 2_000_000], ids=["binary", "long"])
def test_what_nobody_can_read_is_not_shown(install, tmp_path, text):
    """And a backslash before a zero is no byte of zero."""
    (diff,) = install({tmp_path / "some.bin": {"text": text}}, diff=True, check=True)["diff"]
    assert (diff["before"], diff["after"]) == ("", "(not shown)\n")
    (diff,) = install({tmp_path / "some.conf": {"text": "printf 'a\\0b'\n"}}, diff=True, check=True)["diff"]
    assert diff["after"] == "printf 'a\\0b'\n"

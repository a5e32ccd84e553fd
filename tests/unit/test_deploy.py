from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from invoke import Context, Exit

import tasks
from beowulf import cluster, deploy, inventory, playbook
from beowulf.cluster import Cluster
from beowulf.errors import Failure, OperatorError, Refusal
from beowulf.process import environment, output, tool

GOOD = {"ok": 5, "changed": 2, "failures": 0, "unreachable": 0}
BAD = {"ok": 5, "changed": 1, "failures": 1, "unreachable": 0}
GONE = {"ok": 0, "changed": 0, "failures": 0, "unreachable": 1}
FAILURES = [
    {"node": "beta", "state": "failed", "task": "dns : Start BIND", "path": "roles/dns/tasks/main.yml:9", "lines": ["msg: no", "hint: x"]}
]


@pytest.fixture
def lab():
    return Cluster("lab")


def test_options_are_one_argument_each():
    assert playbook.options_for("a;b c", "x,y", True) == ["--limit=a;b c", "--tags=x,y", "--check"]
    assert playbook.options_for("", "", False) == []


PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - ansible.builtin.debug:
        msg: "{{ item }}"
      loop: "{{ ['all'] + lines }}"
    - ansible.builtin.copy:
        content: "{{ [word, lines, deep] | to_json }}"
        dest: "{{ out }}"
        mode: "0600"
"""


def test_variables_are_values_whatever_is_in_them(tmp_path, monkeypatch):
    """Neither a template nor another type, in a file that nobody else reads, and that is gone afterwards."""
    trap = tmp_path / "trap"
    lines = [
        f"{{{{ lookup('pipe', 'touch {trap}') }}}}",
        "{% raw %}",
        "3",
        "no",
        "",
        "a\nb",
        "\x1b[2J",
        "ü",
        "\U0001f600",
        "~",
        None,
        4,
        True,
    ]
    given = {"word": lines[0], "lines": lines, "deep": {"a": [{"b": lines[0]}]}, "out": str(tmp_path / "out")}
    (tmp_path / "play.yml").write_text(PLAY)
    seen = []

    def run(command, env, **_):
        [option] = [word for word in command if word.startswith("--extra-vars")]
        path = Path(option.removeprefix("--extra-vars=@"))
        seen.append((path, stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)))
        result = output(command, env=env, timeout=120)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.returncode

    monkeypatch.setattr(playbook.process, "run", run)
    monkeypatch.setenv("BEOWULF_STRATEGY", "linear")
    playbook.run([tool("ansible-playbook"), "-i", "localhost,", str(tmp_path / "play.yml")], "test", variables=given)
    assert json.loads((tmp_path / "out").read_text()) == [given["word"], given["lines"], given["deep"]]
    assert not trap.exists()
    [(path, mode, above)] = seen
    assert (mode, above) == (0o600, 0o700)
    assert not path.exists()


def test_success_says_what_changed_where_to_look_and_what_next(lab, capsys):
    summary = {"seconds": 75, "hosts": {"alpha": GOOD, "beta": GOOD}, "failures": [], "notes": ["no k3s"]}
    playbook.conclude("deploy", lab, 0, summary)
    shown = capsys.readouterr().out
    assert "deploy lab: done in 1 min 15 s, 2 nodes, 4 changed" in shown
    assert "note: no k3s" in shown
    assert "next: ./bootstrap verify, ./bootstrap status" in shown


def test_a_check_does_not_claim_changes(lab, capsys):
    playbook.conclude("deploy", lab, 0, {"seconds": 1, "hosts": {"alpha": GOOD}, "failures": []}, check=True)
    shown = capsys.readouterr().out
    assert "2 would change" in shown
    assert "next:" not in shown


def test_failure_says_which_node_which_task_and_how_to_go_on(lab):
    summary = {"seconds": 9, "hosts": {"alpha": GOOD, "beta": BAD, "gamma": GONE}, "failures": FAILURES}
    with pytest.raises(Failure) as raised:
        playbook.conclude("deploy", lab, 2, summary)
    text = str(raised.value)
    assert raised.value.code == 1
    assert "FAILED after 9 s, of 3 nodes 1 failed and 1 could not be reached" in text
    assert "beta failed in dns : Start BIND  (roles/dns/tasks/main.yml:9)" in text
    assert "hint: x" in text
    assert "./bootstrap deploy --limit beta" in text


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("compute:gama", "no node and no group is called 'gama'. Did you mean gamma?"),
        ("all,!kompute", "'kompute'. Did you mean compute?"),
        ("gamma:&dns", "leaves no node"),
    ],
)
def test_a_limit_that_matches_nothing_is_refused_before_the_lab_is_made(lab, monkeypatch, pattern, said):
    monkeypatch.setattr(deploy.host, "require_lab", lambda: pytest.fail("it went on"))
    with pytest.raises(Refusal) as raised:
        deploy.deploy(lab, limit=pattern)
    assert raised.value.code == 2
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("pattern", "nodes"),
    [("dns:!beta", ["alpha"]), ("g*,psi", ["gamma", "psi"]), ("compute[1]", ["delta"]), ("~(ze|ga).*", ["gamma", "zeta"])],
)
def test_a_limit_is_a_pattern_of_ansibles(lab, pattern, nodes):
    assert sorted(inventory.select(lab.path, pattern)) == nodes


def git(folder, *arguments):
    who = ["-c", "user.name=ada", "-c", "user.email=ada@home.internal"]
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def project(tmp_path):
    """A folder inside of another repository, as an unpacked archive may lie."""
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message=x")
    (tmp_path / "project").mkdir()
    (tmp_path / "project/file").touch()
    return tmp_path / "project"


def test_a_project_that_git_has_no_commit_of_is_refused_with_what_mends_it(project):
    def remedy(why):
        with pytest.raises(Refusal, match=why) as raised:
            deploy.require_commit(project)
        assert raised.value.code == 2
        return str(raised.value).rpartition("To mend it: ")[2]

    how = remedy("it is no clone")
    git(project, "init", "--quiet")
    assert remedy("nothing is committed") == f"cd {project} && git add --all && git commit --message=mine"
    # The remedy is one, but for the name that git asks for.
    env = os.environ | {f"GIT_{who}_{what}": "ada" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    subprocess.run(how.partition(", or: ")[2], shell=True, check=True, env=env, capture_output=True)
    deploy.require_commit(project)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")
def test_a_project_that_git_does_not_trust_is_refused_with_what_mends_it(project, tmp_path, monkeypatch):
    git(project, "init", "--quiet")
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message=x")
    monkeypatch.setenv("HOME", str(tmp_path))  # for what the remedy writes
    monkeypatch.setenv("ANSIBLE_SSH_CONTROL_PATH_DIR", "/tmp")  # below that home it could be too long
    monkeypatch.delenv("SUDO_UID", raising=False)
    for path in (project, *project.rglob("*")):
        os.chown(path, 65534, 65534)
    with pytest.raises(Refusal, match="it belongs to another user") as raised:
        deploy.require_commit(project)
    subprocess.run(str(raised.value).rpartition("To mend it: ")[2], shell=True, check=True)
    deploy.require_commit(project)


def test_a_deploy_asks_git_before_anything_else(lab, monkeypatch):
    def refuse():
        raise Refusal("no commit")

    monkeypatch.setattr(deploy, "require_commit", refuse)
    for module, name in ((deploy.lock, "here"), (deploy.secrets, "preflight"), (playbook, "run"), (deploy.host, "require_lab")):
        monkeypatch.setattr(module, name, lambda *_arguments: pytest.fail("it went on"))
    with pytest.raises(Refusal, match="no commit"):
        deploy.deploy(lab)


@pytest.mark.parametrize(("task", "where"), [("lab.down", "embedded"), ("lab.up", None), ("deploy", None)])
def test_the_end_of_the_lab_is_recorded_where_it_can_be_read_afterwards(monkeypatch, task, where):
    """The ARA of the deployer goes with the lab."""
    monkeypatch.delenv("BEOWULF_ARA", raising=False)
    seen = {}
    monkeypatch.setattr(playbook.process, "run", lambda _command, env, **_options: seen.update(env) or 0)
    playbook.run(["ansible-playbook"], task)
    assert seen.get("BEOWULF_ARA") == where


@pytest.mark.parametrize("task", ["lab.up", "lab.down"])
def test_a_cluster_of_real_machines_has_no_containers(home, task):
    with pytest.raises(Refusal, match=r"The nodes of home are no containers: home\.rack\.yml has no key `lab`"):
        deploy.lab(home, task)


def test_a_rack_file_is_named_after_its_cluster(boards):
    """The commands go by the file's name; the state, and the deployer, by that of the cluster."""
    (boards / "inventory/home.rack.yml").rename(boards / "inventory/office.rack.yml")
    with pytest.raises(
        Refusal, match=r"Say `cluster: office` there, or copy it: cp inventory/office\.rack\.yml inventory/home\.rack\.yml"
    ) as raised:
        Cluster("office")
    assert raised.value.code == 2
    with pytest.raises(Exit, match="a rack file is named after its cluster") as ended:
        tasks.rack_check(Context(), file=str(boards / "inventory/office.rack.yml"))
    assert ended.value.code == 2
    # Before it has its place it may have any name.
    tasks.rack_check(Context(), file=shutil.copy(boards / "inventory/office.rack.yml", boards / "draft.yml"))


def test_an_interrupt_says_how_to_go_on(lab):
    with pytest.raises(OperatorError, match="interrupted") as raised:
        playbook.conclude("deploy", lab, 130, None)
    assert raised.value.code == 130


def test_ssh_reaches_a_node_as_ansible_does(lab):
    command = " ".join(lab.ssh("alpha"))
    assert "StrictHostKeyChecking=yes" in command
    assert "HostKeyAlias=alpha.lab.internal" in command
    assert command.endswith(" 10.77.0.11")


def test_a_host_whose_key_is_revoked_is_not_believed_as_soon_as_there_is_a_list(lab, tmp_path):
    """And not before: ssh believes nobody when the list that it is told of is missing."""
    lab.derived.all_vars["rack_state_dir"] = str(tmp_path)
    ask = [tool("ansible"), "gamma", "-i", str(lab.path), "-m", "ansible.builtin.debug", "-a", "var=ansible_ssh_common_args"]
    ask += ["-e", f"rack_state_dir={tmp_path}"]
    (tmp_path / "ca").mkdir()
    option = f"-o RevokedHostKeys={tmp_path}/ca/revoked.krl"
    for there in (False, True):
        if there:
            (tmp_path / "ca" / "revoked.krl").touch()
        assert (option in " ".join(lab.ssh("gamma"))) is there
        assert (option in output(ask, env=environment(ANSIBLE_CALLBACKS_ENABLED="ansible.builtin.minimal")).stdout) is there


def test_a_deploy_keeps_one_python_on_each_node(monkeypatch):
    monkeypatch.delenv("BEOWULF_STRATEGY", raising=False)
    assert playbook.strategy()["ANSIBLE_STRATEGY"] == "beowulf.cluster.mitogen_linear"


def test_what_a_deploy_starts_may_use_every_processor(tmp_path):
    """Mitogen's own strategy pins it to some, and containers of the lab would inherit that for as long as they live."""
    (tmp_path / "play.yml").write_text(
        "- hosts: all\n  gather_facts: false\n  become: false\n  connection: local\n"
        "  vars: {ansible_python_interpreter: '{{ ansible_playbook_python }}'}\n"
        "  tasks:\n    - ansible.builtin.command: nproc\n      register: seen\n"
        "    - ansible.builtin.copy: {content: '{{ seen.stdout }}', dest: '{{ playbook_dir }}/{{ inventory_hostname }}'}\n"
    )
    env = environment(**playbook.strategy(), ANSIBLE_CALLBACKS_ENABLED="ansible.builtin.minimal")
    result = output([tool("ansible-playbook"), "-i", "h1,h2,h3,", str(tmp_path / "play.yml")], env=env)
    assert result.returncode == 0, result.stdout + result.stderr
    assert {(tmp_path / name).read_text() for name in ("h1", "h2", "h3")} == {str(len(os.sched_getaffinity(0)))}


def test_a_deploy_goes_back_to_ansibles_own_strategy_when_asked(monkeypatch):
    monkeypatch.setenv("BEOWULF_STRATEGY", "linear")
    assert playbook.strategy() == {}


def test_a_node_of_the_lab_does_not_carry_the_lab(lab, monkeypatch):
    assert lab.is_lab
    monkeypatch.setattr(cluster, "is_own", lambda address: address == "10.77.0.10")
    assert not lab.is_lab


def test_an_address_of_this_machine_is_its_own():
    assert cluster.is_own("127.0.0.1")
    assert not cluster.is_own("203.0.113.1")

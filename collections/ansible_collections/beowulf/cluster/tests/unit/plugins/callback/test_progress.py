# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person sees of a run, in a pipe."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.beowulf.cluster.plugins.plugin_utils import progress_lines as say

COLLECTIONS = Path(__file__).resolve().parents[7]
PLAY = """
- name: First things
  hosts: all
  gather_facts: false
  connection: local
  tasks:
    - {name: Skip it, ansible.builtin.debug: {msg: never}, when: false}
    - {name: Show a word, ansible.builtin.debug: {msg: a word}, when: inventory_hostname == 'h1'}
    - {name: Change two, ansible.builtin.command: "true", changed_when: "inventory_hostname in ['h1', 'h2']", notify: Handle}
    - {name: Take long, ansible.builtin.command: "sleep {{ 5 if inventory_hostname == 'h3' else 0 }}", changed_when: false}
    - {name: Hide it, ansible.builtin.command: sh -c 'echo secret; exit 1', no_log: true, when: inventory_hostname == 'h2'}
    - name: Break an item
      ansible.builtin.command: sh -c 'echo Could not get lock >&2; exit {{ item }}'
      changed_when: false
      loop: [0, 3]
      when: inventory_hostname == 'h3'
    - {name: Keep a note, ansible.builtin.set_stats: {data: {notes: [left out]}}, run_once: true}
  handlers:
    - {name: Handle, ansible.builtin.command: "true"}
- {name: Nobody, hosts: nosuch, tasks: []}
- name: Last things
  hosts: h1
  gather_facts: false
  tasks:
    - {name: Go on, ansible.builtin.debug: {var: inventory_hostname}}
"""


# What a node says in each of the ways it has: it clears the screen, names the window, sets the clipboard, turns the line around.
HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b1A\u202eevil\r"
HOSTILE_PLAY = r"""
- name: Listen
  hosts: h1
  gather_facts: false
  connection: local
  vars: {hostile: "\e[2J\e]0;owned\a\x9b1A\u202eevil\r"}
  tasks:
    - {name: "Show {{ hostile }}", ansible.builtin.debug: {msg: "{{ hostile }}"}}
    - {name: Show more, ansible.builtin.debug: {msg: ["{{ hostile }}"]}}
    - {name: Write, ansible.builtin.copy: {content: "{{ hostile }}", dest: "{{ playbook_dir }}/written"}, diff: true}
    - {name: Warn, warn: {text: "{{ hostile }}"}}
    - {name: Keep a note, ansible.builtin.set_stats: {data: {notes: ["{{ hostile }}"]}}}
    - name: Fail with an item
      ansible.builtin.command: {argv: [sh, -c, 'printf %s "$1" >&2; printf %s "$1"; exit 1', sh, "{{ item }}"]}
      loop: ["{{ hostile }}"]
"""
WARN = """
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule({"text": {}})
module.warn(module.params["text"])
module.deprecate(module.params["text"], version="9.9", collection_name="a.b")
module.exit_json()
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return played(tmp_path_factory.mktemp("progress"), PLAY)


def played(folder, play, *options, code=2):
    """Play a play that ends with this code; return what was shown and the summary."""
    (folder / "play.yml").write_text(play)
    (folder / "library").mkdir(exist_ok=True)
    (folder / "library" / "warn.py").write_text(WARN)
    (folder / "ansible.cfg").write_text("[defaults]\n")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "BEOWULF_"))}
    env |= {
        "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "ANSIBLE_STDOUT_CALLBACK": "beowulf.cluster.progress",
        "BEOWULF_PROGRESS_PATIENCE": "1",
        "BEOWULF_PROGRESS_SUMMARY": str(folder / "summary.json"),
    }
    command = [Path(sys.executable).parent / "ansible-playbook", "-i", "h1,h2,h3,", str(folder / "play.yml"), *options]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=90, check=False)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout + result.stderr, json.loads((folder / "summary.json").read_text())


def test_plays_are_counted_and_empty_ones_left_out(run):
    assert "[1/3] First things (h1, h2, h3)" in run[0]
    assert "[3/3] Last things (h1)" in run[0]
    assert "Nobody" not in run[0]


def test_a_task_is_one_line_with_the_changed_nodes(run):
    assert run[0].count("Change two: changed: h1, h2, 1 ok") == 1
    assert "Skip it" not in run[0]
    assert "        h1: a word" in run[0]


def test_a_long_task_says_whom_it_waits_for(run):
    waiting = re.search(r"Take long: \d+ s, waiting for h3$", run[0], re.MULTILINE)
    assert waiting
    assert waiting.start() < run[0].index("Take long: 3 ok")


def test_a_failure_is_printed_in_full_with_a_hint(run):
    for line in ("h3 FAILED in Break an item", "item 3:", "rc: 3", "stderr: Could not get lock", "hint: another package manager"):
        assert line in run[0]
    assert "Break an item: FAILED: h3" in run[0]


def test_no_secret_is_shown(run):
    assert "h2 FAILED in Hide it" in run[0]
    assert "secret" not in run[0]
    assert "secret" not in json.dumps(run[1])


def test_the_end_is_a_table_by_node_the_times_and_the_notes(run):
    lines = [line.split() for line in run[0].splitlines()]
    assert lines[lines.index(["node", "ok", "changed", "failed", "skipped"]) + 3][:4] == ["h3", "2", "0", "1"]
    assert ["play", "time"] in lines
    assert "note: left out" in run[0]


def test_the_summary_is_for_machines(run):
    summary = run[1]
    assert {failure["node"]: failure["state"] for failure in summary["failures"]} == {"h2": "failed", "h3": "failed"}
    assert summary["hosts"]["h1"]["changed"] >= 1
    assert {change["node"] for change in summary["changes"] if change["task"] == "Change two"} == {"h1", "h2"}
    assert summary["notes"] == ["left out"]
    assert [play["name"] for play in summary["plays"]] == ["First things", "Nobody", "Last things"]


def test_a_terminal_does_nothing_that_a_node_says(tmp_path):
    shown, summary = played(tmp_path, HOSTILE_PLAY)
    for text in (shown, *summary["notes"], *(line for failure in summary["failures"] for line in failure["lines"])):
        assert not [letter for letter in text if not letter.isprintable() and letter != "\n"]
    # Nothing is left out: each of them is spelled out.
    spelled = r"\x1b[2J\x1b]0;owned\x07\x9b1A\u202eevil"
    for place in ("Show ", "    h1: ", "[WARNING]: ", "deprecated: ", "+", "note: ", "item ", "stderr: ", "stdout: "):
        assert re.search(rf"(?m)^.*{re.escape(place)}.*{re.escape(spelled)}", shown), (place, shown)
    assert len(summary["failures"][0]["lines"]) > 3


def test_what_is_harmless_is_shown_as_it_is():
    text = "é ü 中文 — ✓\n\ttab"
    assert say.plain(text) == text
    assert say.plain(HOSTILE) == r"\x1b[2J\x1b]0;owned\x07\x9b1A\u202eevil\r"


def test_many_hosts_are_not_all_listed():
    assert say.names(f"n{number:02d}" for number in range(30)).endswith("n07 and 22 more")


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("Host key verification failed.", "its line in known_hosts"),
        ("admin@x: Permission denied (publickey).", "does not accept the key"),
        ("ssh: connect to host x port 22: No route to host", "is the node on"),
        ("E: Could not get lock /var/lib/dpkg/lock-frontend", "another package manager"),
        ("OSError: [Errno 28] No space left on device", "df -h on beta"),
        ("'x' is undefined", "rack.check"),
    ],
)
def test_known_messages_have_a_hint(message, words):
    assert words in say.hint("beta", message)


def test_an_unknown_message_has_none():
    assert say.hint("beta", "non-zero return code") is None


def test_a_long_output_keeps_its_end():
    text = say.tail("\n".join(map(str, range(100))))
    assert text.startswith("(75 lines before)\n75\n")
    assert text.endswith("\n99")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (75.2, "1 min 15 s")])
def test_times_are_said_as_people_do(seconds, text):
    assert say.duration(seconds) == text


EFFECTS_PLAY = """
- name: Change
  hosts: h1
  gather_facts: false
  connection: local
  vars: {folder: "{{ playbook_dir }}/node"}
  tasks:
    - {name: Make the folder, ansible.builtin.file: {path: "{{ folder }}", state: directory}}
    - {name: Write one, ansible.builtin.copy: {content: "1", dest: "{{ folder }}/{{ 'one' }}"}, when: "folder is directory"}
    - name: Write some
      ansible.builtin.copy: {content: "{{ item }}", dest: "{{ folder }}/{{ item }}"}
      loop: [two, three]
      no_log: "{{ item == 'three' }}"
      notify: Run
    - {name: Write it elsewhere, ansible.builtin.copy: {content: "", dest: "{{ folder }}/four"}, delegate_to: h2}
    - {name: Leave it, ansible.builtin.copy: {content: "", dest: "{{ folder }}/there"}}
  handlers:
    - {name: Run, ansible.builtin.command: {cmd: "true", removes: /bin/sh}}
"""


def test_a_check_ends_with_what_would_change_on_each_node(tmp_path):
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "there").touch()
    shown, checked = played(tmp_path, EFFECTS_PLAY, "--check", code=0)
    again, done = played(tmp_path, EFFECTS_PLAY, code=0)
    folder = f"{tmp_path}/node"
    told = ["h1", *(f"  {folder}/{name}" for name in ("one", "three", "two")), "  Run", "h2", f"  {folder}/four"]
    assert shown[shown.index("would change") :].splitlines()[1 : len(told) + 1] == told
    assert "would change" not in again
    assert sorted(checked["effects"]) == sorted(done["effects"])
    assert ["h2", "change", f"{folder}/four"] in done["effects"]

"""What is done without a worker, or in a thread, comes out as Ansible's own strategy has it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ansible_collections.beowulf.cluster.plugins.filter import interface_of

COLLECTIONS = Path(interface_of.__file__).parents[5]
PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.set_fact: {mine: "{{ inventory_hostname }}", many: "{{ range(3) | list }}"}
    - ansible.builtin.assert: {that: mine == inventory_hostname}
    - ansible.builtin.set_fact: {last: "{{ item }}"}
      loop: "{{ many }}"
      register: each
    - ansible.builtin.assert: {that: [last == 2, each.results | length == 3], quiet: true}
    - ansible.builtin.debug: {msg: "{{ hostvars['b'].mine }} of {{ mine }}"}
    - ansible.builtin.debug: {msg: once}
      run_once: true
    - ansible.builtin.set_fact: {given: "{{ inventory_hostname }}"}
      delegate_to: b
      delegate_facts: true
    - ansible.builtin.debug: {msg: hidden}
      no_log: true
    - ansible.builtin.debug: {msg: no}
      when: mine == 'b'
    - ansible.builtin.validate_argument_spec:
        argument_spec: {wanted: {type: int, required: true}}
        provided_arguments: {wanted: "{{ 3 if mine == 'a' else 'three' }}"}
      register: valid
      failed_when: valid is failed and mine == 'a'
    - block:
        - ansible.builtin.fail: {msg: "of {{ mine }}"}
          when: mine == 'a'
      rescue:
        - ansible.builtin.debug: {msg: "{{ ansible_failed_result.msg }}, {{ ansible_failed_task.name }}"}
    - ansible.builtin.command: echo {{ mine }}
      when: mine == 'b'
    - ansible.builtin.command: echo {{ item }}
      loop: "{{ many if mine == 'a' else [] }}"
      when: item != 1
    - ansible.builtin.command: echo {{ item }}
      with_items: []
      register: empty
    - ansible.builtin.command: echo {{ not_there }}
      when: empty.results | length > 0
    - ansible.builtin.command: echo {{ mine }}
      loop: "{{ not_there }}"
      when: mine == 'nobody'
    - ansible.builtin.command: echo no
      when: not_there == 3
      ignore_errors: true
    - when: mine == 'b'
      block:
        - ansible.builtin.command: echo {{ mine }}
          when: last == 3
        - ansible.builtin.command: echo {{ mine }}
    - ansible.builtin.command: echo {{ mine }} {{ last }}
      register: said
    # In a worker of its own, after threads and before them.
    - ansible.builtin.command: echo {{ mine }} in time
      timeout: 30
    - ansible.builtin.command: echo {{ mine }} again
    - ansible.builtin.command: echo {{ mine }} alone
      throttle: 1
    - ansible.builtin.command: echo {{ mine }} beside
      async: 30
      poll: 1
      register: beside
      # The number of the job is another each time.
      no_log: true
    - ansible.builtin.command: echo {{ mine }}{{ beside.stdout }}
    - ansible.builtin.command: sleep 20
      timeout: 1
      ignore_errors: true
    - ansible.builtin.copy: {content: "{{ mine }} {{ range(9000) | join }}", dest: "{{ playbook_dir }}/{{ mine }}"}
    - ansible.builtin.template: {src: "{{ playbook_dir }}/{{ mine }}", dest: "{{ playbook_dir }}/{{ mine }}.out"}
    - ansible.builtin.command: not-there {{ mine }}
      ignore_errors: true
    - ansible.builtin.command: test -e {{ playbook_dir }}/{{ mine }}.{{ item }}
      loop: [out, none]
      register: looped
      failed_when: looped.rc > 1
    - ansible.builtin.command: echo {{ mine }}
      delegate_to: b
    - ansible.builtin.assert: {that: said.stdout == mine ~ ' 2', fail_msg: "{{ undefined_until_it_fails | default('x') }}"}
    - ansible.builtin.assert: {that: nothing_of_that_name}
      when: mine == 'b'
    - ansible.builtin.assert: {that: mine == 'a', fail_msg: "only a is left, and not {{ mine }}"}
    - ansible.builtin.set_stats: {data: {notes: ["{{ mine }}"]}, aggregate: true}
"""
LOST = ("start", "end", "delta", "duration", "invocation", "cmd", "exception", "src", "discovered_interpreter_python", "warnings")
"""What differs from run to run."""


@pytest.fixture
def play(tmp_path):
    """Run the play by a strategy; return its end, and what each host got of each task."""
    (tmp_path / "ansible.cfg").write_text("")
    (tmp_path / "play.yml").write_text(PLAY)
    tools = Path(sys.executable).parent

    def run(strategy):
        for host in "ab":
            for name in (host, f"{host}.out"):
                (tmp_path / name).unlink(missing_ok=True)
        env = {**os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", "ANSIBLE_STRATEGY": strategy,
               "ANSIBLE_COLLECTIONS_PATH": f"{COLLECTIONS}:{COLLECTIONS.parent}/.ansible/collections", "ANSIBLE_SHOW_CUSTOM_STATS": "true",
               "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"), "ANSIBLE_DEPRECATION_WARNINGS": "false"}  # fmt: skip
        variables = json.dumps({"ansible_connection": "local", "ansible_python_interpreter": sys.executable})
        command = [str(tools / "ansible-playbook"), "-i", "a,b", str(tmp_path / "play.yml"), f"--extra-vars={variables}"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert "{" in done.stdout, done.stderr
        found = json.loads(done.stdout[done.stdout.index("{") :])
        # The callback writes the hosts of one task together for Ansible's own strategies alone.
        results = {host: [plain(task["hosts"][host]) for task in found["plays"][0]["tasks"] if host in task["hosts"]] for host in "ab"}
        return done.returncode, results, found["stats"], found["global_custom_stats"]

    return run


def plain(value):
    """Return a result without what differs from run to run."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items() if name not in LOST}
    return [plain(one) for one in value] if isinstance(value, list) else value


def test_all_comes_out_as_with_a_worker_for_each_task(play):
    code, results, stats, custom = play("beowulf.cluster.mitogen_linear")
    expected = play("linear")
    failed = [one for one in results["a"] if one.get("failed")]
    assert code == 2, failed
    assert stats["a"]["failures"] == 0, failed[-1]
    assert stats["b"]["failures"] == 1
    assert custom == {"notes": ["a"]}
    for host in "ab":
        for one, other in zip(results[host], expected[1][host], strict=True):
            assert one == other
    assert (code, stats, custom) == (expected[0], *expected[2:])


def test_a_run_that_is_interrupted_ends_at_once(tmp_path):
    """Whatever its threads wait for."""
    (tmp_path / "ansible.cfg").write_text("")
    (tmp_path / "play.yml").write_text(
        "- hosts: all\n  gather_facts: false\n  tasks:\n    - ansible.builtin.command: touch {{ playbook_dir }}/{{ inventory_hostname }}\n"
        "    - ansible.builtin.command: sleep 90\n    - ansible.builtin.command: touch {{ playbook_dir }}/too-far\n"
    )
    env = {**os.environ, "ANSIBLE_STRATEGY": "beowulf.cluster.mitogen_linear", "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
           "ANSIBLE_COLLECTIONS_PATH": f"{COLLECTIONS}:{COLLECTIONS.parent}/.ansible/collections"}  # fmt: skip
    variables = json.dumps({"ansible_connection": "local", "ansible_python_interpreter": sys.executable})
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "a,b", str(tmp_path / "play.yml"), f"--extra-vars={variables}"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        end = time.monotonic() + 60
        while not all((tmp_path / name).exists() for name in "ab"):
            assert time.monotonic() < end, "it did not begin"
            time.sleep(0.1)
        time.sleep(2)
        began = time.monotonic()
        child.send_signal(signal.SIGINT)
        said, _ = child.communicate(timeout=60)
    assert time.monotonic() - began < 20, said
    assert child.returncode == 99, said  # as Ansible ends then
    assert "Traceback" not in said
    assert not (tmp_path / "too-far").exists()

# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task did to a node, from its action, its arguments and its result."""

from __future__ import annotations

import pytest

from ansible_collections.beowulf.cluster.plugins.plugin_utils.effects import effects, lines


@pytest.mark.parametrize(
    ("action", "args", "result", "found"),
    [
        ("beowulf.cluster.file_tree", {}, {"paths": ["/etc/a", "/etc/b"]}, [("change", "/etc/a"), ("change", "/etc/b")]),
        ("beowulf.cluster.service_state", {}, {"done": ["restart chrony"]}, [("restart", "chrony.service")]),
        ("beowulf.cluster.service_state", {}, {"done": [], "unread": ["/etc/a"]}, []),
        ("beowulf.cluster.packages", {}, {"missing": ["bind9"]}, [("install", "bind9")]),
        ("ansible.builtin.systemd_service", {"name": "named", "state": "reloaded"}, {}, [("reload", "named.service")]),
        ("ansible.builtin.systemd_service", {"name": "a.timer", "enabled": True}, {}, [("enable", "a.timer")]),
        ("ansible.builtin.systemd_service", {"name": "a", "enabled": "False"}, {}, [("disable", "a.service")]),
        ("ansible.builtin.template", {"dest": "/etc/c"}, {}, [("change", "/etc/c")]),
        ("ansible.builtin.file", {"path": "/srv"}, {}, [("change", "/srv")]),
        ("ansible.builtin.command", {"_raw_params": "nft"}, {"cmd": ["nft"]}, [("do", "Load the rules")]),
        ("beowulf.cluster.file_tree", {}, {"censored": "hidden"}, [("do", "Load the rules")]),
    ],
)
def test_what_a_task_did(action, args, result, found):
    assert effects(action, args, {"changed": True, **result}, "Load the rules") == found


def test_a_person_sees_each_thing_once_by_node_files_first():
    found = [("b", "restart", "chrony.service"), ("b", "change", "/etc/x"), ("b", "change", "/etc/x"), ("a", "do", "Push the commit")]
    assert lines(found) == ["a", "  Push the commit", "b", "  /etc/x", "  restart chrony.service"]

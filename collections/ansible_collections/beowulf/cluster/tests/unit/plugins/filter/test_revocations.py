"""The list of what is revoked: it only grows, and yet a line can be taken off it."""

from __future__ import annotations

import itertools

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.beowulf.cluster.plugins.filter.revocations import in_force, revocations

HEAD = ["# What is revoked", "id: ada", "serial: 17"]


def test_what_is_revoked_is_added_once():
    lines = revocations(HEAD, revoke=["id: bob", "id: ada"])
    assert lines == [*HEAD, "id: bob"]
    assert revocations(lines, revoke=["id: bob"]) == lines
    assert in_force(lines) == ["id: ada", "serial: 17", "id: bob"]


def test_what_is_taken_off_stays_on_the_list_and_does_not_count():
    lines = revocations(HEAD, take_off=["id: ada"])
    assert lines[:3] == HEAD
    assert in_force(lines) == ["serial: 17"]
    assert revocations(lines, take_off=["id: ada", "id: eve"]) == lines, "nothing is taken off twice, or that is not there"


def test_it_can_be_revoked_again_and_taken_off_again():
    lines = HEAD
    for _ in range(3):
        lines = revocations(lines, take_off=["id: ada"])
        assert "id: ada" not in in_force(lines)
        lines = revocations(lines, revoke=["id: ada"])
        assert "id: ada" in in_force(lines)
    assert len(lines) == len(set(lines)) == len(HEAD) + 6


def test_lists_of_different_age_come_to_the_same_whatever_comes_first():
    """A controller that knows more than an authority out of a backup, and the other way round."""
    ages = [HEAD]
    for step in ({"take_off": ["id: ada"]}, {"revoke": ["id: ada"]}, {"take_off": ["id: ada"]}):
        ages.append(revocations(ages[-1], **step))
    for first, second in itertools.product(ages, repeat=2):
        newest = max(first, second, key=len)
        assert in_force(revocations([*first, *second])) == in_force(newest)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "ada",
        "id: {{ 1 }}",
        "id: ada\nid: bob",
        "key: x\x1b[2J",
        "# taken off 9: id: ada",
        "id: ada\n",
        "include: /etc/shadow",
        "id:  a",
    ],
)
def test_what_is_no_line_changes_nothing(line):
    for words in ({"revoke": ["id: bob", line]}, {"take_off": [line]}):
        with pytest.raises(AnsibleFilterError, match="nothing was revoked or taken off the list") as refused:
            revocations(HEAD, **words)
        assert "\x1b" not in str(refused.value)


def test_what_is_on_the_list_already_is_kept_whatever_it_is():
    lines = [*HEAD, "key: ssh-rsa AAAA old comment {x}"]
    assert revocations(lines, revoke=["id: bob"])[:-1] == lines

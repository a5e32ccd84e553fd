"""The rules of a router, set up by its roles in a network of their own: the kernel has what the files say, whenever a run was killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from beowulf import playbook
from beowulf.process import ROOT, environment, tool

PLAY = """
- hosts: localhost
  gather_facts: false
  vars: {vars}
  roles: [firewall, nat]
"""
# The controller comes in again; there is no systemd.
SSHD = """
import socket
door = socket.create_server(("127.0.0.1", 2222))
print("listening", flush=True)
while True:
    caller, _ = door.accept()
    caller.sendall(b"SSH-2.0-test\\r\\n")
    caller.close()
"""
# What is written stays in a folder of the test: it lies over those of this machine.
SCRIPT = """
set -e
for place in etc usr/local; do
  mkdir -p {folder}/over/$place {folder}/work/$place
  mount -t overlay -o lowerdir=/$place,upperdir={folder}/over/$place,workdir={folder}/work/$place overlay /$place
done
mount -t tmpfs none /var/lib
mkdir -p /etc/sysctl.d
ip link set lo up
{python} {folder}/sshd.py >{folder}/listening & sshd=$!
trap "kill $sshd" EXIT
until test -s {folder}/listening; do sleep 0.1; done
play() {{ ansible-playbook -i localhost, -c local {folder}/play.yml; }}
{steps}
"""
PLACES = re.compile("(?<!templates)(/etc/nftables|/etc/sysctl.d|/usr/local/sbin|/var/lib/firewall)")
DIES = """#!/bin/sh
# Dies with its caller, as by a power cut, when it is that one's turn; otherwise it is the program of this name.
echo x >>{turns}
[ "$(wc -l <{turns})" -ne "$DIES_AT" ] || {{ kill -KILL $PPID; exit 1; }}
case "{name} $*" in "mv --exchange"*) shift 2; exec {exchange} "$@";; esac
exec {program} "$@"
"""
# What mv does since coreutils 9.5: renameat2(2) with RENAME_EXCHANGE, names relative to the working directory (AT_FDCWD).
EXCHANGE = """import ctypes, os, sys
sys.exit(ctypes.CDLL(None).renameat2(-100, os.fsencode(sys.argv[1]), -100, os.fsencode(sys.argv[2]), 2) != 0)
"""
needs_network = pytest.mark.skipif(
    shutil.which("nft") is None
    or subprocess.run(["unshare", "-rn", "nft", "list", "ruleset"], capture_output=True, check=False).returncode != 0,
    reason="no nft, or no network of one's own here",
)


@pytest.fixture
def router(tmp_path):
    """Run steps of a shell script in a network of its own, in which `play` sets up the router; return what was said."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "dpkg-query").write_text("#!/bin/sh\necho installed nftables\n")
    (tmp_path / "bin" / "dpkg-query").chmod(0o755)
    for name in ("systemctl", "systemd-run"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\ncase $* in *show*) echo ActiveState=active; echo LoadState=loaded;; esac\n")
        (tmp_path / "bin" / name).chmod(0o755)
    variables = {
        "ansible_python_interpreter": tool("python"), "ansible_become": False,
        "firewall_allow": {"ntp": ["udp dport 123 accept"]}, "firewall_controller_address": "127.0.0.1", "firewall_ssh_port": 2222,
        "nat_lan_interface": "lan", "nat_lan_subnet": "10.77.0.0/24",
    }  # fmt: skip
    (tmp_path / "play.yml").write_text(PLAY.format(vars=json.dumps(variables)))
    (tmp_path / "sshd.py").write_text(SSHD)

    def run(steps: str) -> str:
        env = environment(**playbook.strategy(), ANSIBLE_CALLBACKS_ENABLED="ansible.builtin.minimal", ANSIBLE_NOCOLOR="1",
                          ANSIBLE_CACHE_PLUGIN="ansible.builtin.memory", ANSIBLE_ROLES_PATH=str(ROOT / "roles"))  # fmt: skip
        env["PATH"] = f"{tmp_path}/bin:{env['PATH']}:/usr/sbin:/sbin"
        script = SCRIPT.format(python=tool("python"), folder=tmp_path, steps=steps)
        result = subprocess.run(
            ["unshare", "-rnm", "sh", "-c", script], env=env, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    return run


@needs_network
def test_rules_that_a_killed_run_has_written_and_not_loaded_are_loaded_by_the_next(router):
    said = router("""
play
echo; echo 'second run'; play
nft delete chain inet beowulf postrouting
echo; echo 'third run'; play
echo; echo 'at the end'; nft list table inet beowulf
""")
    first, rest = said.split("second run")
    second, rest = rest.split("third run")
    third, end = rest.split("at the end")
    assert "changed=0" in second, second
    assert "Load the nftables ruleset" in third
    assert "Disarm the rollback timer" in third
    assert "masquerade" in end
    assert "udp dport 123 accept" in end
    assert "Load the nftables ruleset" in first


def contents(folder: Path) -> dict[str, str]:
    """Return what files a folder has, and what is in them."""
    return {path.name: path.read_text() for path in folder.glob("*.nft")}


@pytest.fixture(params=["exchanges", "renames"])
def way_back(tmp_path, request):
    """Run `firewall-way-back WHAT`, killed at its n-th program (0: never); mv exchanges two names or, as in Debian 12, cannot."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "exchange.py").write_text(EXCHANGE)
    turns, exchange = tmp_path / "turns", {"exchanges": f"{tool('python')} {tmp_path}/exchange.py", "renames": "false"}[request.param]
    for name in ("mv", "cp", "rm"):
        (tmp_path / "bin" / name).write_text(DIES.format(name=name, turns=turns, program=shutil.which(name), exchange=exchange))
    for name in ("nft", "systemctl", "systemd-run"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n")
    for path in (tmp_path / "bin").iterdir():
        path.chmod(0o755)
    template = (ROOT / "roles/firewall/templates/usr/local/sbin/firewall-way-back.j2").read_text()
    script = template.replace("{{ ansible_managed | comment }}", "").replace("{{ firewall_patience }}", "60")
    (tmp_path / "way-back").write_text(PLACES.sub(rf"{tmp_path}\1", script))

    def run(what: str, dies_at: int = 0) -> bool:
        turns.write_text("")
        env = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "DIES_AT": str(dies_at)}
        code = subprocess.run(["sh", str(tmp_path / "way-back"), what], env=env, capture_output=True, text=True, check=False)
        assert code.returncode in {0, -9}, code.stderr
        return code.returncode == 0

    return run


@pytest.mark.parametrize("what", ["stay", "back"])
def test_a_kill_at_any_moment_leaves_the_rules_of_before_or_the_new_ones(way_back, tmp_path, what, request):
    live, good = tmp_path / "etc/nftables.d", tmp_path / "var/lib/firewall/nftables.d"
    rules = {"live": {"a.nft": "new", "c.nft": "new"}, "good": {"a.nft": "old", "b.nft": "old"}}
    ended = False
    for turn in range(1, 20):
        for folder, files in ((live, rules["live"]), (good, rules["good"])):
            for one in folder.parent.glob("nftables.d*"):
                shutil.rmtree(one)
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (folder / name).write_text(text)
        if ended := way_back(what, turn):
            break
        # At the next boot, and when the next deploy has not been let in.
        kept = live if live.is_dir() or "exchanges" in request.node.name else live.with_name("nftables.d.old")
        assert contents(kept) in rules.values(), f"{what} was killed at {turn}"
        way_back("prepare")
        assert contents(live) in rules.values(), f"{what} was killed at {turn}"
        way_back("back")
        assert contents(live) == contents(good) in rules.values(), f"{what} was killed at {turn}"
    assert ended, "it never came to its end"
    assert turn > 3
    assert contents(live) == contents(good) == rules["live" if what == "stay" else "good"]

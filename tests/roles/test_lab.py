"""A lab is gone when the engine and the kernel say so."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_rules import LINKS
from beowulf.cluster import load_rack
from beowulf.errors import Refusal
from beowulf.process import ROOT

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a network namespace of its own")

# Another cluster's, with a name that begins as this one's does.
OTHERS = {
    "nodes": [
        {"Names": ["lab-lan-alpha"], "Networks": ["lab-lan-lan"]},
        {"Names": ["lab-builder"], "Networks": None},
        {"Names": ["web"], "Networks": ["podman"]},
    ],
    "networks": ["lab-lan-lan", "podman"],
    "links": [{"ifname": "lo"}, {}, {"ifname": "lab-lan-lan"}, {"ifname": "veth0"}],
}


@pytest.fixture
def gone(tmp_path, ansible):
    """Ask whether the cluster lab is gone from a host with some nodes, networks and links; return how that ended."""

    def run(nodes=(), networks=(), links=()):
        (tmp_path / "nodes").write_text(json.dumps([*OTHERS["nodes"], *nodes]))
        (tmp_path / "networks").write_text("\n".join([*OTHERS["networks"], *networks]))
        (tmp_path / "links").write_text(json.dumps([*OTHERS["links"], *links]))
        for name, script in {
            "podman": f"[ $1 = ps ] && cat {tmp_path}/nodes || cat {tmp_path}/networks",
            "ip": f"cat {tmp_path}/links",
        }.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
        play = {
            "hosts": "localhost",
            "gather_facts": False,
            "vars": {"lab_cluster": "lab"},
            "environment": {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
            "tasks": [{"ansible.builtin.import_tasks": str(ROOT / "roles/lab/tasks/gone.yml")}],
        }
        return ansible(tmp_path, yaml.safe_dump([play]))

    return run


def test_what_belongs_to_others_is_not_left(gone):
    done = gone()
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("left", "said"),
    [
        ({"nodes": [{"Names": ["lab-old"], "Networks": ["lab-lan", "lab-wan"]}]}, "container lab-old"),
        ({"networks": ["lab-wan"]}, "network lab-wan"),
        ({"links": [{"ifname": "lab-adm"}, {"ifname": "lab-far"}]}, "link lab-adm, link lab-far"),
        ({"networks": ["lab-lan"], "links": [{"ifname": "lab-lan"}]}, "network lab-lan, link lab-lan"),
    ],
)
def test_what_is_left_is_named(gone, left, said):
    done = gone(**left)
    assert done.returncode == 2
    assert f"This host still has of lab: {said}. Try again" in " ".join(done.stdout.split()), done.stdout


def test_the_removal_ends_with_the_question():
    *_before, last = yaml.safe_load((ROOT / "roles/lab/tasks/absent.yml").read_text(encoding="utf-8"))
    assert last["ansible.builtin.import_tasks"] == "gone.yml"


# Names of interfaces


@pytest.fixture
def cable():
    """Plug the cable of a cluster in, on a host with no interface but lo; return how that ended and which there are then."""

    def run(cluster: str, address: str = "10.77.0.254/24", before: str = ":"):
        script = f'{before}; "$0" "$@"; code=$?; ip -json link show; exit $code'
        command = ["unshare", "--net", "sh", "-c", script, ROOT / "roles/lab/files/cable", cluster, address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        said, _, shown = done.stdout.rpartition("\n[")
        return done, said.split(), {link["ifname"] for link in json.loads(f"[{shown.removeprefix('[')}")} - {"lo"}

    return run


def racks_of(cluster: str, folder: Path) -> list[str]:
    """Return the problems of a lab of this name."""
    path = folder / f"{cluster}.rack.yml"
    path.write_text((ROOT / "tests/racks/good/lab.rack.yml").read_text(encoding="utf-8").replace("cluster: lab", f"cluster: {cluster}"))
    try:
        load_rack(path)
    except Refusal as refusal:
        return str(refusal).splitlines()[1:]
    return []


@as_root
def test_the_longest_name_of_a_lab_that_the_rack_file_may_have_is_one_of_interfaces(cable, tmp_path):
    longest = "raspberries"
    assert racks_of(longest, tmp_path) == []
    done, said, links = cable(longest)
    assert done.returncode == 0, done.stderr
    assert links == {f"{longest}-{end}" for end in LINKS} - {f"{longest}-wan"}  # which the engine makes
    assert "changed" in said
    longer = f"{longest}1"
    assert len(racks_of(longer, tmp_path)) == 1
    done, _said, links = cable(longer)
    assert done.returncode != 0
    assert links == set()


def test_the_rack_file_knows_every_interface_of_the_lab():
    """Another one would have no rule."""
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "roles/lab").rglob("*") if path.is_file())
    text += (ROOT / "roles/lab_node/tasks/main.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"(?:\$1|cluster }})-([a-z-]+)", text)) - {"{{ item }}"} == set(LINKS)


@as_root
@pytest.mark.parametrize(
    ("before", "left"),
    [(":", set()), ("ip link add lab-lan type bridge", {"lab-lan"}), ("ip link add lab-adm type veth peer name lab-adm-far", set())],
)
def test_a_cable_that_cannot_be_plugged_in_leaves_nothing_that_it_made(cable, before, left):
    done, _said, links = cable("lab", "10.77.0.999/24", before)
    assert done.returncode != 0
    assert links == left


@as_root
def test_a_cable_whose_far_end_has_another_name_is_made_anew(cable):
    done, _said, links = cable("lab", before="ip link add lab-adm type veth peer name lab-adm-far")
    assert done.returncode == 0, done.stderr
    assert links == {"lab-lan", "lab-adm", "lab-far"}
    done, said, links = cable("lab", before=f'"{ROOT}/roles/lab/files/cable" lab 10.77.0.254/24 >/dev/null')
    assert (done.returncode, said, links) == (0, [], {"lab-lan", "lab-adm", "lab-far"})


def test_the_image_is_readable_whatever_the_umask_of_the_checkout(tmp_path):
    """A node whose root folder, or the file of whose interface, is for root alone has no network."""
    image, root = tmp_path / "image", tmp_path / "root"
    shutil.copytree(ROOT / "roles/lab/files/image", image)
    for path in (image, *image.rglob("*")):
        path.chmod(path.stat().st_mode & 0o700)
    root.mkdir(mode=0o755)
    for folder in ("etc/ssh", "etc/dpkg/dpkg.cfg.d", "etc/sudoers.d", "usr/local/share/ca-certificates", "usr/local/sbin"):
        (root / folder).mkdir(parents=True)
    (root / "etc/sudoers.d").chmod(0o750)  # its own, and it stays so
    (tmp_path / "chroot").write_text("#!/bin/sh\n")
    (tmp_path / "chroot").chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-c", 'umask 077; "$0" "$1"', image / "customize", root], env=env, check=True, timeout=60)
    closed = {str(path.relative_to(root)) for path in (root, *root.rglob("*")) if path.lstat().st_mode & 0o044 != 0o044}
    assert closed == {"etc/sudoers.d", "etc/sudoers.d/010_admin"}
    assert {"80-lan.network", "board", "hosts", "machine-id"} <= {path.name for path in root.rglob("*")}
    assert os.access(root / "usr/local/sbin/board", os.X_OK)

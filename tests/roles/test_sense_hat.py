"""The LEDs of the Sense HAT: nobody here has one, a file stands for its framebuffer."""

from __future__ import annotations

import json
import struct
import subprocess
import sys

import pytest

from beowulf.process import ROOT

PROGRAM = ROOT / "roles/sense_hat/files/usr/local/lib/beowulf/sense-hat.py"


@pytest.fixture(scope="module")
def hat(load):
    return load(PROGRAM)


@pytest.fixture
def device(tmp_path):
    """A file in the place of the framebuffer, as large as that."""
    path = tmp_path / "fb1"
    path.write_bytes(b"\xff" * 128)
    return path


def state(*up, problems=()):
    nodes = dict(zip(("alpha", "beta", "gamma", "psi"), ({"up": one} for one in up), strict=False))
    return {"nodes": nodes, "problems": list(problems), "lanservices": ["alpha", "beta"]}


def show(device, *command):
    return subprocess.run([sys.executable, PROGRAM, "--framebuffer", device, *command], capture_output=True, text=True, check=False)


def rows(device):
    content = device.read_bytes()
    assert len(content) == 128
    return [struct.unpack("<8H", content[at : at + 16]) for at in range(0, 128, 16)]


def test_a_file_that_stands_for_the_framebuffer_gets_a_field_for_each_node(device, tmp_path):
    (tmp_path / "state.json").write_text(
        json.dumps(state(True, True, False, True, problems=["gamma is down (x)", "the clock of beta is off"]))
    )
    result = show(device, "cat", tmp_path / "state.json")
    assert result.returncode == 0, result.stderr
    green, yellow, red = 24 << 5, 14 << 11 | 18 << 5, 18 << 11
    assert rows(device) == [(green,) * 4 + (yellow,) * 4] * 4 + [(red,) * 4 + (green,) * 4] * 4


@pytest.mark.parametrize("command", [["false"], ["echo", "{}"], ["echo", "[]"], ["no-such-program"]])
def test_a_file_that_stands_for_the_framebuffer_is_all_blue_without_an_answer(device, command):
    result = show(device, *command)
    assert (result.returncode, "Traceback" in result.stderr) == (1, False)
    assert {pixel for row in rows(device) for pixel in row} == {12}


def test_a_problem_without_a_node_is_one_of_the_servers(hat):
    found = hat.colours(state(True, True, True, True, problems=["the VIP 10.77.0.5 is held by nobody"]))
    assert found == [hat.YELLOW, hat.YELLOW, hat.GREEN, hat.GREEN]


@pytest.mark.parametrize(("count", "side"), [(1, 8), (3, 4), (8, 2), (16, 2), (17, 1), (64, 1)])
def test_fields_are_as_large_as_they_can_be(hat, count, side):
    pixels = hat.picture([hat.GREEN] * count)
    assert pixels.count(hat.GREEN) == count * side * side
    assert pixels[0] == hat.GREEN


def test_of_nodes_that_share_a_field_the_worst_is_shown(hat):
    found = [hat.GREEN] * 100
    found[99], found[0] = hat.RED, hat.YELLOW
    pixels = hat.picture(found)
    assert (pixels[0], pixels[49], pixels.count(hat.DARK)) == (hat.YELLOW, hat.RED, 14)


def test_the_framebuffer_is_known_by_its_name(hat, tmp_path):
    for number, name in enumerate(("vc4drmfb", "RPi-Sense FB")):
        (tmp_path / f"fb{number}").mkdir()
        (tmp_path / f"fb{number}" / "name").write_text(f"{name}\n")
    assert str(hat.framebuffer(tmp_path)) == "/dev/fb1"
    (tmp_path / "fb1" / "name").unlink()
    assert hat.framebuffer(tmp_path) is None

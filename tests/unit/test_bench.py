"""What bench measures, and how it is shown."""

from __future__ import annotations

import json
import sys

import pytest

from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack import load_rack
from beowulf import bench
from beowulf.errors import Failure, Refusal

FOUND = {
    "cpus": 2,
    "loop": 0.5,
    "deploy": {
        "as deploy does it": {"wall": 40.0, "user": 30.0, "sys": 10.0, "tasks": 200, "changed": 0, "loop": 0.5},
        "linear": {"wall": 320.0, "user": 160.0, "sys": 40.0, "tasks": 200, "changed": 0, "loop": 0.6},
    },
    "rack": {"10": {"rack": 2.0, "yaml": 1.0}, "1000": {"rack": 4.0, "yaml": 8.0}},
}


def test_figures_stand_beside_their_ratios():
    text = bench.lines(FOUND)
    row = {line.split()[0]: line.split() for line in text if line}
    assert row["linear"] == ["linear", "320.0", "8.00", "200.0", "5.00", "200", "0.60"]
    assert row["1000"] == ["1000", "4.00", "8.00", "2.00"]


@pytest.mark.parametrize(("options", "told"), [({"only": "racks"}, "There are: deploy, rack"), ({"repeat": 0}, "at least once")])
def test_what_cannot_be_measured_is_refused(options, told):
    with pytest.raises(Refusal, match=told):
        bench.bench(None, **options)


def test_a_command_costs_what_it_and_its_children_use():
    busy = "import time; end = time.process_time() + 0.4\nwhile time.process_time() < end: pass"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}], check=True)"
    found = bench.cost([sys.executable, "-c", child])
    assert 0.4 <= found["user"] + found["sys"] < 3
    assert found["wall"] >= 0.4


def test_no_figure_is_made_of_a_command_that_fails():
    with pytest.raises(Failure, match="ended with 3"):
        bench.cost([sys.executable, "-c", "raise SystemExit(3)"])


def test_a_rack_and_its_inventory_have_the_same_nodes(monkeypatch):
    """Both are really read."""
    monkeypatch.setattr(bench, "SIZES", (6,))
    found = bench.racks()
    assert set(found) == {"6"}
    assert min(found["6"].values()) > 0


@pytest.mark.parametrize("size", bench.SIZES)
def test_every_size_is_a_rack_that_the_plugin_takes(tmp_path, size):
    (tmp_path / "bench.rack.yml").write_text(json.dumps(bench.rack_of(size), indent=1))
    assert len(load_rack(str(tmp_path / "bench.rack.yml")).nodes) == size

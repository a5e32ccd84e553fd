# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plugin in a real inventory, with real files and a real Redis."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.errors import AnsibleError, AnsibleParserError
from ansible.inventory.data import InventoryData
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import inventory_loader
from ansible.template import is_trusted_as_template
from redis import Redis

from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack import derive, load_rack

COLLECTIONS = Path(__file__).resolve().parents[7]
BIN = Path(sys.executable).parent


def parse(path: Path) -> InventoryData:
    """An inventory as Ansible's manager makes it from one file."""
    from ansible.inventory.manager import InventoryManager

    inventory = InventoryData()
    plugin = inventory_loader.get("beowulf.cluster.rack")
    assert plugin.verify_file(str(path))
    wrapper = InventoryManager.__init__.__globals__["_InventoryDataWrapper"]
    origin = InventoryManager.__init__.__globals__["Origin"](description="a test")
    plugin.parse(wrapper(inventory, target_plugin=plugin, origin=origin), DataLoader(), str(path))
    inventory.reconcile_inventory()
    return inventory


@pytest.fixture
def rack_file(tmp_path: Path, racks: Path) -> Path:
    """A copy of the lab's rack, to change."""
    path = tmp_path / "inventory" / "lab.rack.yml"
    path.parent.mkdir()
    shutil.copy(racks / "good/lab.rack.yml", path)
    return path


def append(path: Path, text: str) -> Path:
    path.write_text(path.read_text() + text)
    return path


def test_the_inventory_is_what_was_derived(rack_file: Path) -> None:
    inventory, derived = parse(rack_file), derive(load_rack(rack_file))
    assert list(inventory.hosts) == list(derived.hosts)
    for name, variables in derived.hosts.items():
        found = inventory.hosts[name].get_vars()
        assert {key: found[key] for key in variables} == variables
    assert inventory.groups["all"].get_vars() == derived.all_vars
    for name, hosts in derived.groups.items():
        assert {host.name for host in inventory.groups[name].hosts} == set(hosts)
    assert {host.name for host in inventory.groups["k3s"].get_hosts()} == {"gamma", "delta", "epsilon", "zeta"}
    assert inventory.groups["discovered"].hosts == []
    assert inventory.groups["ungrouped"].hosts == []


def test_what_is_good_is_good_to_ansible(racks: Path) -> None:
    for path in (racks / "good").iterdir():
        assert set(parse(path).hosts) == set(load_rack(path).nodes), path.name


@pytest.mark.parametrize(("name", "wanted"), [("a.rack.yml", True), ("a.rack.yaml", True), ("a.yml", False), ("rack.yml", False)])
def test_only_rack_files_are_read(name: str, wanted: bool, tmp_path: Path) -> None:
    (tmp_path / name).write_text("")
    assert inventory_loader.get("beowulf.cluster.rack").verify_file(str(tmp_path / name)) is wanted


def test_a_missing_file_is_not_read(tmp_path: Path) -> None:
    assert not inventory_loader.get("beowulf.cluster.rack").verify_file(str(tmp_path / "no.rack.yml"))


def test_all_mistakes_are_one_error(racks: Path) -> None:
    with pytest.raises(AnsibleParserError) as caught:
        parse(racks / "bad/ten.rack.yml")
    lines = caught.value.message.splitlines()
    assert lines[0] == f"{racks}/bad/ten.rack.yml is refused: 10 problems"
    assert sum(line.startswith(f"  {racks}/bad/ten.rack.yml:") for line in lines) == 10
    assert "hunter2" not in caught.value.message


def test_constructed_variables_and_groups(rack_file: Path) -> None:
    append(rack_file, "compose: {where: \"rack_cluster ~ '-' ~ rack_board\"}\n")
    append(rack_file, "groups: {pairs: rack_type == 'lanservices', ours: \"where == 'lab-2B'\"}\n")
    append(rack_file, "keyed_groups: [{key: rack_type, prefix: type}]\nleading_separator: false\n")
    inventory = parse(rack_file)
    assert inventory.hosts["psi"].get_vars()["where"] == "lab-2B"
    assert [host.name for host in inventory.groups["pairs"].hosts] == ["alpha", "beta"]
    assert [host.name for host in inventory.groups["ours"].hosts] == ["psi"]
    assert [host.name for host in inventory.groups["type_router"].hosts] == ["omega"]


@pytest.mark.parametrize(
    ("keyed", "said"),
    [
        ('{key: rack_addressing, prefix: "", separator: ""}', "puts .* into dhcp, which"),
        ('{key: rack_board, prefix: "", separator: "", parent_group: lanservices}', "puts .* into lanservices, which"),
    ],
)
def test_a_value_does_not_make_a_node_what_it_is_not(rack_file: Path, keyed: str, said: str) -> None:
    """Each group of a function is what a playbook sets that up on: by its way to an address every node would be a DHCP server."""
    append(rack_file, f"keyed_groups: [{keyed}]\nleading_separator: false\n")
    with pytest.raises(AnsibleError, match=said):
        parse(rack_file)


def test_a_wrong_expression_stops_unless_strict_is_off(rack_file: Path) -> None:
    append(rack_file, "compose: {x: nothing_of_that_name}\n")
    with pytest.raises(AnsibleError, match="Could not set x for host omega"):
        parse(rack_file)
    inventory = parse(append(rack_file, "strict: false\n"))
    assert "x" not in inventory.hosts["omega"].get_vars()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Redis]:
    """A Redis server of the test's own."""
    program = shutil.which("redis-server")
    assert program, "redis-server is needed: apt-get install redis-server"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path), "--requirepass", "hunter2"],
        stdout=subprocess.DEVNULL,
    )
    client = Redis(port=port, password="hunter2")
    try:
        for _attempt in range(100):
            try:
                client.ping()
                break
            except ConnectionError:
                time.sleep(0.05)
            except Exception as exc:
                if "refused" not in str(exc):
                    raise
                time.sleep(0.05)
        yield client
    finally:
        client.close()
        server.terminate()
        server.wait(10)


def lease(address: str, hostname: str = "stranger", seen: float | str = 1_700_000_000) -> str:
    return json.dumps({"address": address, "hostname": hostname, "seen": seen})


def test_the_password_of_the_registry_comes_from_its_file(
    registry: Redis, rack_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file in which the deployer has the password of its Redis; others may not read it."""
    password = tmp_path / "password"
    password.write_text("hunter2\n")
    monkeypatch.setenv("BEOWULF_REDIS_PASSWORD_FILE", str(password))
    append(rack_file, f"registry: redis://127.0.0.1:{registry.connection_pool.connection_kwargs['port']}/0\n")
    registry.hset("beowulf:lab:leases", "02:00:00:00:00:01", lease("10.77.0.200"))
    password.chmod(0o600)
    assert [host.name for host in parse(rack_file).groups["discovered"].hosts] == ["mac-02-00-00-00-00-01"]
    password.chmod(0o644)
    capsys.readouterr()
    assert parse(rack_file).groups["discovered"].hosts == []
    assert "others may read it" in " ".join(capsys.readouterr().err.split())


def test_strangers_are_discovered_and_not_trusted(
    registry: Redis, rack_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BEOWULF_REGISTRY_PASSWORD", "hunter2")
    port = registry.connection_pool.connection_kwargs["port"]
    append(rack_file, f"registry: redis://127.0.0.1:{port}/0\n")
    registry.hset(
        "beowulf:lab:leases",
        mapping={
            "02:00:00:00:00:01": lease("10.77.0.200"),
            "02-00-00-00-00-02": lease("10.77.0.201", "{{ lookup('pipe', 'id') }}", "yesterday {{ 1 }}"),
            "b8:27:eb:00:00:11": lease("10.77.0.202", "alpha"),  # a node, by its MAC
            "02:00:00:00:00:03": lease("10.77.0.10", "psi"),  # says it is where a node is
            "02:00:00:00:00:04": lease("8.8.8.8"),
            "02:00:00:00:00:05": lease("{{ 7 * 7 }}"),
            "02:00:00:00:00:06": "no JSON",
            "02:00:00:00:00:07": "[]",
            "02:00:00:00:00:08": lease("10.77.0.203", "x" * 5000),
            "{{ 7 * 7 }}": lease("10.77.0.204"),
            b"\xff\xfe": b"\xff",
            "02:00:00:00:00:09": "[" * 1000,
        },
    )
    inventory = parse(rack_file)
    assert [host.name for host in inventory.groups["discovered"].hosts] == ["mac-02-00-00-00-00-01", "mac-02-00-00-00-00-02"]
    assert [host.name for host in inventory.groups["nodes"].get_hosts()] == list(load_rack(rack_file).nodes), "strangers would be set up"
    first, second = (host.get_vars() for host in inventory.groups["discovered"].hosts)
    assert first["ansible_host"] == first["discovered_address"] == "10.77.0.200"
    assert (first["discovered_mac"], first["discovered_hostname"]) == ("02:00:00:00:00:01", "stranger")
    assert first["discovered_seen"] == 1_700_000_000
    assert (second["discovered_hostname"], second["discovered_seen"]) == (None, None)
    assert not any(is_trusted_as_template(value) for value in (*first.values(), *second.values()))
    assert is_trusted_as_template(inventory.hosts["psi"].get_vars()["rack_fqdn"])
    warnings = " ".join(capsys.readouterr().err.split())
    assert "holds 9 entries that are no leases" in warnings
    assert "hunter2" not in warnings


def drip(listener: socket.socket) -> None:
    """Answer a byte now and then, for some seconds at most, as a server does that is all but dead."""
    connection, _peer = listener.accept()
    with connection, contextlib.suppress(OSError):
        for _byte in range(20):
            connection.sendall(b"+")
            time.sleep(0.3)


@pytest.mark.parametrize("state", ["closed", "silent", "dripping"])
def test_a_registry_that_is_down_costs_one_warning_and_a_second(state: str, rack_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if state != "closed":
            listener.listen()
        if state == "dripping":
            threading.Thread(target=drip, args=(listener,), daemon=True).start()
        append(rack_file, f"registry: redis://127.0.0.1:{listener.getsockname()[1]}/0\n")
        began = time.monotonic()
        inventory = parse(rack_file)
        assert time.monotonic() - began < 2.5  # the registry's second, and whatever else the machine is busy with
    assert len(inventory.hosts) == 8
    warnings = capsys.readouterr().err
    assert warnings.count("[WARNING]") == 1
    assert "The registry is down" in warnings


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A program of Ansible, as a user calls it."""
    env = os.environ | {"ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), "ANSIBLE_INVENTORY_ENABLED": "beowulf.cluster.rack", "COLUMNS": "200"}
    env |= {"ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true", "ANSIBLE_CONFIG": "/nonexistent/ansible.cfg"}
    return subprocess.run([BIN / arguments[0], *arguments[1:]], capture_output=True, text=True, timeout=60, check=False, cwd=cwd, env=env)


def test_ansible_inventory_lists_the_rack(rack_file: Path) -> None:
    done = run("ansible-inventory", "-i", str(rack_file), "--list", cwd=rack_file.parent)
    assert (done.returncode, done.stderr) == (0, "")
    variables = json.loads(done.stdout)["_meta"]["hostvars"]
    assert variables["zeta"]["rack_nodes"][-1]["fqdn"] == "zeta.lab.internal"


def test_ansible_inventory_refuses_a_bad_rack_without_a_traceback(racks: Path) -> None:
    done = run("ansible-inventory", "-i", str(racks / "bad/ten.rack.yml"), "--graph", cwd=racks)
    assert done.returncode != 0
    assert "10 problems" in done.stderr
    assert "did you mean `compute`?" in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


def test_a_second_rack_is_refused_with_both_names(rack_file: Path, racks: Path) -> None:
    """In a folder or by two -i; the same file twice is one rack."""
    other = shutil.copy(racks / "good/everything.rack.yml", rack_file.parent / "full.rack.yml")
    for sources in (["-i", str(rack_file.parent)], ["-i", str(other), "-i", str(rack_file)]):
        done = run("ansible-inventory", *sources, "--graph", cwd=rack_file.parent)
        assert done.returncode != 0
        assert f"{rack_file} is a second rack: {other} is read already" in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr
    assert run("ansible-inventory", "-i", str(rack_file), "-i", str(rack_file), "--graph", cwd=rack_file.parent).returncode == 0


@pytest.mark.parametrize("folder", ["a b", "a%h", "it's", "{{ 7 * 7 }}", "$HOME", "a:b", "a,b"])
def test_a_project_in_a_folder_that_ssh_cannot_use_is_refused_at_once(folder: str, racks: Path, tmp_path: Path) -> None:
    path = tmp_path / folder / "inventory" / "lab.rack.yml"
    path.parent.mkdir(parents=True)
    shutil.copy(racks / "good/lab.rack.yml", path)
    with pytest.raises(AnsibleParserError, match="move the project to a folder without it") as caught:
        parse(path)
    assert f"is in the project '{tmp_path / folder}'" in caught.value.message


def test_a_large_rack_reads_its_lists_from_the_deployer(rack_file: Path) -> None:
    rows = [f'  n{i}: {{type: compute, address: 10.77.1.{i}, mac: "b8:27:ec:00:00:{i:02x}"}}' for i in range(1, 130)]
    content = rack_file.read_text().replace("0.0/24", "0.0/16").replace("0.200-10.77.0.239", "2.0-10.77.2.255")
    rack_file.write_text(content + "\n".join(rows) + "\n")
    message = "msg='{{ rack_nodes | length }} {{ rack_network.vip }}'"
    done = run("ansible", "-i", str(rack_file), "n129", "-m", "debug", "-a", message, cwd=rack_file.parent)
    assert '"msg": "137 10.77.0.5"' in done.stdout, done.stderr


def test_every_option_is_documented(tmp_path: Path) -> None:
    from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_schema import Rack, _inner_model

    done = run("ansible-doc", "-t", "inventory", "-j", "beowulf.cluster.rack", cwd=tmp_path)
    options = json.loads(done.stdout)["beowulf.cluster.rack"]["doc"]["options"]
    assert set(options) == {*Rack.model_fields, "registry_password", "registry_password_file"}
    for name, field in Rack.model_fields.items():
        inner = _inner_model(field.annotation)
        if inner and name not in ("keyed_groups",):
            assert set(options[name]["suboptions"]) == set(inner.model_fields), name
            for key, each in inner.model_fields.items():
                documented = options[name]["suboptions"][key]
                assert documented.get("required", False) == each.is_required(), (name, key)
                if name != "nodes" and not each.is_required() and each.default is not None:
                    assert str(documented["default"]) == str(each.default), (name, key)
    assert json.loads(done.stdout)["beowulf.cluster.rack"]["examples"]


def test_the_example_in_the_documentation_is_good(tmp_path: Path) -> None:
    done = run("ansible-doc", "-t", "inventory", "-j", "beowulf.cluster.rack", cwd=tmp_path)
    path = tmp_path / "home.rack.yml"
    path.write_text(json.loads(done.stdout)["beowulf.cluster.rack"]["examples"])
    assert load_rack(path).cluster == "home"

"""The inventory with the connection variables worked out, for programs that read it without Ansible's templates.

testinfra opens SSH connections by itself and takes variables as they are written. `python -m beowulf.inventory RACK`
prints an inventory for Ansible's YAML plugin in which they are plain values; `python -m beowulf.inventory RACK PATTERN`
the nodes that a pattern of Ansible's matches.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from beowulf.errors import Failure, Refusal
from beowulf.process import environment, output

CONNECTION = (
    "ansible_host", "ansible_port", "ansible_user", "ansible_connection", "ansible_become", "ansible_become_user",
    "ansible_ssh_private_key_file", "ansible_ssh_common_args", "ansible_ssh_extra_args",
)  # fmt: skip


def nested(hosts: Mapping[str, Any], groups: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """Return the structure of a YAML inventory."""
    children = {name: {"hosts": dict.fromkeys(members)} for name, members in groups.items() if name not in ("all", "ungrouped")}
    return {"all": {"hosts": dict(hosts), "children": children}}


def read(source: str) -> Any:
    """Read an inventory with Ansible's own means; needs ANSIBLE_CONFIG in the environment before Ansible is imported."""
    from ansible.inventory.manager import InventoryManager
    from ansible.parsing.dataloader import DataLoader
    from ansible.plugins.loader import init_plugin_loader

    init_plugin_loader()
    return InventoryManager(loader=DataLoader(), sources=[source])


def match(source: str, pattern: str) -> dict[str, Any]:
    """Return the nodes that a pattern matches, and what in it matches nothing: {"nodes": […], "unknown": […], "names": […]}."""
    from ansible.inventory.manager import split_host_pattern

    inventory = read(source)
    parts = [part.lstrip("!&") for part in split_host_pattern(pattern)]
    return {
        "nodes": [host.name for host in inventory.get_hosts(pattern)],
        "unknown": [part for part in parts if not inventory.get_hosts(part)],
        "names": [*inventory.hosts, *inventory.groups],
    }


def resolve(source: str) -> dict[str, Any]:
    """Read an inventory and work out its templates."""
    from ansible.template import Templar
    from ansible.vars.manager import VariableManager

    inventory = read(source)
    loader = inventory._loader
    manager = VariableManager(loader=loader, inventory=inventory)
    hosts = {}
    for host in inventory.get_hosts():
        variables = manager.get_vars(host=host)
        templar = Templar(loader=loader, variables=variables)
        kept = {name: value for name, value in variables.items() if name.startswith("rack_")}
        kept |= {name: variables[name] for name in CONNECTION if name in variables}
        hosts[host.name] = {name: templar.template(value) for name, value in kept.items()}
    groups = {name: [host.name for host in group.get_hosts()] for name, group in inventory.groups.items()}
    return nested(hosts, groups)


def write(source: Path, destination: Path) -> dict[str, Any]:
    """Write the plain inventory of a rack file, in a process of its own, and return it."""
    result = output([sys.executable, "-m", "beowulf.inventory", str(source)], env=environment())
    if result.returncode:
        raise Failure(f"Ansible cannot read {source.name}:\n{result.stderr.strip()}")
    destination.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    destination.write_text(result.stdout, encoding="utf-8")
    return json.loads(result.stdout)


def select(source: Path, pattern: str) -> list[str]:
    """Return the nodes that a pattern of Ansible's matches; refuse a pattern of which a part matches nothing."""
    from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_problem import nearest

    result = output([sys.executable, "-m", "beowulf.inventory", str(source), pattern], env=environment())
    if result.returncode:
        raise Failure(f"Ansible cannot read {source.name}:\n{result.stderr.strip()}")
    found = json.loads(result.stdout)
    for part in found["unknown"]:
        near = nearest(part, found["names"])
        meant = f" Did you mean {near}?" if near else f" There are: {', '.join(found['names'])}."
        raise Refusal(f"--limit {pattern}: no node and no group is called {part!r}.{meant}")
    if not found["nodes"]:
        raise Refusal(f"--limit {pattern}: this leaves no node.")
    return found["nodes"]


if __name__ == "__main__":
    print(json.dumps(match(*sys.argv[1:]) if sys.argv[2:] else resolve(sys.argv[1]), indent=1, default=str))

"""Run playbooks, and report how it went."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ansible_collections.beowulf.cluster.plugins.plugin_utils.progress_lines import duration
from beowulf import cluster as clusters
from beowulf import lock, process
from beowulf.cluster import Cluster
from beowulf.errors import Failure, Interrupted
from beowulf.process import INTERRUPTED, environment, tool

SHOWN = 5
LINES = 12


def command(cluster: Cluster, *names: str, options: Sequence[str] = ()) -> list[str]:
    """Return the command that runs playbooks on a cluster."""
    return [tool("ansible-playbook"), "-i", str(cluster.path), *(f"playbooks/{name}.yml" for name in names), *options]


def options_for(limit: str, tags: str, check: bool) -> list[str]:
    """Return the options of ansible-playbook; each value stays one argument, whatever is in it."""
    options = [f"--limit={limit}"] if limit else []
    options += [f"--tags={tags}"] if tags else []
    return [*options, "--check"] if check else options


def strategy() -> dict[str, str]:
    """Return the settings that make Ansible keep one Python on each node for the whole run instead of one for each task.

    BEOWULF_STRATEGY=linear goes back to Ansible's own way, which takes about twice as long and changes nothing else.
    """
    if os.environ.get("BEOWULF_STRATEGY") == "linear":
        return {}
    return {"ANSIBLE_STRATEGY": "beowulf.cluster.mitogen_linear", "ANSIBLE_DEPRECATION_WARNINGS": "false"}


def plain(value: Any) -> Any:
    """Return a value as JSON in which Ansible takes no string for a template, however deep it is in lists and mappings.

    (That is how Ansible's own encoder writes what `!unsafe` is in YAML; in YAML a text like `3` or `no` would not stay one.)
    """
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return {"__ansible_unsafe": value} if isinstance(value, str) else value


def write_variables(path: Path, variables: Mapping[str, Any]) -> str:
    """Write extra variables into a new file that nobody else may read; return the option of ansible-playbook that names it.

    What stands in the option itself is a template for Ansible, which may run commands here, and is shown to everyone who lists
    the processes of this machine.
    """
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(json.dumps(plain(variables)), encoding="utf-8")
    return f"--extra-vars=@{path}"


def run(
    arguments: Sequence[str], task: str, quiet: bool = False, variables: Mapping[str, Any] | None = None
) -> tuple[int, dict[str, Any] | None]:
    """Run ansible-playbook with progress, unless quiet, and recording; return its exit code and, if it came that far, its summary.

    `variables` are extra variables: plain values, in which Ansible sees no template.
    """
    with tempfile.TemporaryDirectory(prefix="beowulf-") as folder:
        summary, told = Path(folder) / "summary.json", Path(folder) / "recorded.json"
        if variables:
            arguments = [*arguments, write_variables(Path(folder) / "variables.json", variables)]
        env = environment(
            ANSIBLE_STDOUT_CALLBACK="beowulf.cluster.progress",
            BEOWULF_PROGRESS_SUMMARY=str(summary),
            BEOWULF_TASK=task,
            BEOWULF_ARA_TOLD_IN=str(told),
            **strategy(),
            # The ARA of the deployer goes with the lab, and what it has recorded.
            **({"BEOWULF_ARA": "embedded"} if task == "lab.down" else {}),
        )
        code = process.run(arguments, env, beside=lock.keep, **({"stdout": subprocess.DEVNULL} if quiet else {}))
        return code, with_recording(summary, told)


def with_recording(summary: Path, told: Path) -> dict[str, Any] | None:
    """Return the summary of a run, and in it where the run is recorded; None when it did not come that far."""
    if not summary.exists():
        return None
    found = json.loads(summary.read_text(encoding="utf-8"))
    # Whatever is wrong with the recording is no reason to fail.
    with suppress(OSError, ValueError, AttributeError):
        recorded = json.loads(told.read_text(encoding="utf-8"))
        found["recorded"] = recorded.get("url")
        found["notes"] = [*found.get("notes", ()), *([recorded["note"]] if "note" in recorded else [])]
    return found


def counts(summary: Mapping[str, Any]) -> dict[str, int]:
    """Count nodes by how they ended, and the changes."""
    hosts = summary["hosts"].values()
    return {
        "nodes": len(hosts),
        "failed": sum(1 for one in hosts if one["failures"]),
        "unreachable": sum(1 for one in hosts if one["unreachable"]),
        "changed": sum(one["changed"] for one in hosts),
    }


def success(task: str, name: str, summary: Mapping[str, Any], check: bool) -> list[str]:
    """Write the end of a run that went well."""
    count = counts(summary)
    changed = f"{count['changed']} {'would change' if check else 'changed'}"
    lines = [f"{task} {name}: done in {duration(summary['seconds'])}, {count['nodes']} nodes, {changed}"]
    return lines + [f"  note: {note}" for note in summary.get("notes", ())]


def failure(task: str, name: str, summary: Mapping[str, Any]) -> list[str]:
    """Write the end of a run that failed: which node, which task, why."""
    count = counts(summary)
    lines = [
        f"{task} {name}: FAILED after {duration(summary['seconds'])}, of {count['nodes']} nodes "
        f"{count['failed']} failed and {count['unreachable']} could not be reached"
    ]
    shown = summary["failures"][:SHOWN]
    for one in shown:
        lines += [f"  {one['node']} {one['state']} in {one['task']}  ({one['path']})", *(f"      {line}" for line in one["lines"][:LINES])]
    if more := len(summary["failures"]) - len(shown):
        lines.append(f"  and {more} more, see above")
    return lines + [f"  note: {note}" for note in summary.get("notes", ())]


def conclude(task: str, cluster: Cluster, code: int, summary: dict[str, Any] | None, check: bool = False) -> None:
    """Say how it went, where to look and what to do next; raise unless all is well."""
    if code == INTERRUPTED:
        raise Interrupted(f"{task} {cluster.name}: interrupted. The same command goes on where it was.")
    if summary is None:
        raise Failure(f"{task} {cluster.name}: ansible-playbook ended with {code} before the end of a run; its message is above.")
    flag = clusters.flag(cluster.name)
    recorded = [f"  recorded: {summary['recorded']}"] if summary.get("recorded") else []
    if code == 0:
        lines = success(task, cluster.name, summary, check) + recorded
        if task == "deploy" and not check:
            lines.append(f"  next: ./bootstrap verify{flag}, ./bootstrap status{flag}")
        print("\n" + "\n".join(lines))
        return
    lines = failure(task, cluster.name, summary) + recorded
    nodes = sorted({one["node"] for one in summary["failures"]})
    if nodes and task == "deploy":
        look = f"./bootstrap lab.shell {nodes[0]}{flag}"
        lines.append(f"  next: look ({look}), repair, and run the same command again, or for these nodes only: "
                     f"./bootstrap deploy{flag} --limit {','.join(nodes)}")  # fmt: skip
    elif nodes and task in ("ca.renew", "ca.revoke", "ca.unrevoke"):
        lines.append(f"  next: repair {' and '.join(nodes)}, and run the same command again: it does what is missing")
    raise Failure("\n" + "\n".join(lines))

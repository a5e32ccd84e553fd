"""Backups of the deployer: make one, say where there are copies, and bring a blank node back from one of them.

The work is done by roles/backup. Beside every copy of the repository lies `backup.json`, which says without the passphrase
what is in it; what is read here comes from there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beowulf import deploy, host, lock
from beowulf.errors import Failure, Refusal
from beowulf.process import INTERRUPTED, environment

if TYPE_CHECKING:
    from beowulf.cluster import Cluster

REPOSITORY = "/var/backups/cluster"
"""Folder of the repository on the deployer, and of its copies on other nodes: backup_repository of roles/backup."""
STORY = "backup.json"
# A swap that was interrupted leaves the last complete copy under its other name.
ASK = f"sudo -n cat {REPOSITORY}/{STORY} 2>/dev/null || sudo -n cat {REPOSITORY}.previous/{STORY}"
OLD = 2 * 86400
"""Seconds after which a backup is too old: it is made every day, and one day may be missed."""
LIMIT = 10.0


@dataclass(frozen=True)
class Copy:
    """A copy of the repository: on a node, or in a folder of this machine; what it says of itself, or why it says nothing."""

    place: str
    story: Mapping[str, Any] | None
    folder: Path | None = None
    reason: str = ""


def read_story(text: str) -> dict[str, Any] | None:
    """Return what a copy says of itself; None unless it is complete."""
    try:
        story = json.loads(text)
        datetime.fromisoformat(story["time"])
        return story if story["archive"] in story["archives"] else None
    except (ValueError, LookupError, TypeError):
        return None


def age(story: Mapping[str, Any], now: datetime | None = None) -> float:
    """Return the seconds since the newest archive of a copy was begun."""
    return ((now or datetime.now(UTC)) - datetime.fromisoformat(story["time"])).total_seconds()


def ago(seconds: float) -> str:
    """Say how long ago it was, in the largest unit of which there are two."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"


def size(count: float) -> str:
    """Say a number of bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def relay(cluster: Cluster) -> Path:
    """Return the folder of this controller's own copy, as in inventory/group_vars/all.yml."""
    return cluster.state / "backup" / "repository"


def folder_for(cluster: Cluster, folder: Path) -> Path:
    """Return where in a folder, of a USB key say, the copy of a cluster has its place."""
    return folder.absolute() / f"beowulf-{cluster.rack.cluster}"


def in_folder(place: str, *folders: Path) -> Copy:
    """Look for a copy in folders, in this order, each as it is or left over from an interrupted swap."""
    for folder in folders:
        for candidate in (folder, folder.with_name(f"{folder.name}.previous")):
            try:
                text = (candidate / STORY).read_text(encoding="utf-8")
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                return Copy(place, None, reason=str(error))
            story = read_story(text)
            return Copy(place, story, candidate, "" if story else f"{candidate / STORY} does not say what is there")
    return Copy(place, None, reason="no copy")


def on_node(cluster: Cluster, node: str) -> Copy:
    """Ask a node, over SSH, for the copy that it holds."""
    command = cluster.ssh(node)
    command[1:1] = ["-o", "BatchMode=yes", "-o", "LogLevel=ERROR"]
    try:
        result = subprocess.run(
            [*command, ASK], capture_output=True, text=True, timeout=LIMIT, check=False, env=environment(), stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return Copy(node, None, reason=f"no answer in {LIMIT:.0f} s")
    except OSError as error:
        return Copy(node, None, reason=str(error))
    if story := read_story(result.stdout):
        return Copy(node, story)
    # 255: ssh itself failed (ssh(1), EXIT STATUS).
    told = result.stderr.strip().splitlines()
    return Copy(node, None, reason=(told[-1] if told else "no answer") if result.returncode == 255 else "no copy")


def copies(cluster: Cluster) -> list[Copy]:
    """Ask everyone who should have a copy: the deployer, the nodes that hold one, this machine."""
    nodes = [*cluster.group("backup"), *cluster.group("backup_copy")]
    with ThreadPoolExecutor(max_workers=8) as pool:
        return [*pool.map(lambda node: on_node(cluster, node), nodes), in_folder("this machine", relay(cluster))]


def newest(found: list[Copy]) -> Copy:
    """Return the copy with the newest archive; of several the first one on this machine, which needs no way."""
    complete = [copy for copy in found if copy.story]
    if not complete:
        reasons = "; ".join(f"{copy.place}: {copy.reason}" for copy in found)
        raise Refusal(f"There is no backup to restore from. Looked at {reasons}. Another folder: --from DIR.")
    return max(complete, key=lambda copy: (datetime.fromisoformat(copy.story["time"]), copy.folder is not None))


def choose(cluster: Cluster, source: str, archive: str) -> Copy:
    """Return the copy to restore from: that of a node or a folder, or the newest; refuse one that has not the archive."""
    if not source:
        chosen = newest(copies(cluster))
    elif source in cluster.rack.nodes:
        chosen = on_node(cluster, source)
    else:
        folder = Path(source).expanduser()
        if not folder.is_dir():
            raise Refusal(f"--from {source}: neither a folder of this machine nor a node. The nodes: {', '.join(cluster.rack.nodes)}.")
        chosen = in_folder(source, folder_for(cluster, folder), folder.absolute())
    if not chosen.story:
        raise Refusal(f"--from {source}: {chosen.reason}.")
    if chosen.story["cluster"] != cluster.rack.cluster:
        raise Refusal(f"The backup ({chosen.place}) is of the cluster {chosen.story['cluster']}, not of {cluster.rack.cluster}.")
    if archive and archive not in chosen.story["archives"]:
        there = "\n".join(f"  {name}" for name in chosen.story["archives"])
        raise Refusal(f"The backup ({chosen.place}) has no archive {archive!r}. It has:\n{there}")
    return chosen


def run(cluster: Cluster, task: str, name: str, variables: Mapping[str, Any]) -> None:
    """Run a playbook with extra variables, and tell how it went."""
    command = deploy.playbook(cluster, name, options=[f"--extra-vars={json.dumps(variables)}"] if variables else [])
    code, summary = deploy.run_playbooks(command, task)
    if code not in (0, INTERRUPTED) and task == "backup.create" and summary and "backup" not in failed_in(cluster, summary):
        print("\nThe backup itself was made; not everyone has a copy of it.")
    deploy.conclude(task, cluster, code, summary)


def failed_in(cluster: Cluster, summary: Mapping[str, Any]) -> set[str]:
    """Return of which functions nodes failed: the deployer's, or that of the nodes that hold copies."""
    nodes = {one["node"] for one in summary["failures"]}
    return {name for name in ("backup", "backup_copy") if nodes & set(cluster.group(name))}


def create(cluster: Cluster, to: str = "") -> None:
    """Make a backup of the deployer, and copies of it: on this machine, on the nodes that hold one, in a folder."""
    variables = {}
    if to:
        folder = Path(to).expanduser()
        # Never made here: a key that is not plugged in has no folder, or one that may not be written.
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise Refusal(f"--to {to}: this is no folder that you may write to. Is the medium mounted?")
        variables["backup_to"] = str(folder_for(cluster, folder))
    with lock.changing(cluster, "backup.create"):
        run(cluster, "backup.create", "backup", variables)
    story = in_folder("", relay(cluster)).story
    if not story:
        raise Failure(f"There is no complete copy in {relay(cluster)}.")
    places = [*cluster.group("backup"), *cluster.group("backup_copy"), str(relay(cluster)), *([variables["backup_to"]] if to else [])]
    print(f"  archive {story['archive']}: {size(story['original'])}, of which {size(story['added'])} are new\n"
          f"  {len(story['archives'])} archives, {size(story['repository'])}, encrypted, are now on {', '.join(places)}")  # fmt: skip


def restore(cluster: Cluster, source: str = "", archive: str = "", force: bool = False) -> None:
    """Put an archive onto a blank deployer, and set the cluster up around it."""
    chosen = choose(cluster, source, archive)
    name = archive or chosen.story["archive"]
    # The deployer is asked when the lab is up, where it is one of its nodes.
    with lock.here(cluster, "backup.restore"):
        print(f"Restoring {name} of {chosen.place}, {ago(age(chosen.story))}", flush=True)
        if cluster.is_lab:
            host.require_lab()
            if not cluster.lab_is_up():
                deploy.lab(cluster, "lab.up")
        with lock.changing(cluster, "backup.restore"):
            put_back(cluster, chosen, name, force)
        deploy.deploy(cluster)


def put_back(cluster: Cluster, chosen: Copy, name: str, force: bool) -> None:
    """Run the playbook that puts an archive onto the deployer."""
    # What a node holds does not take the place of this machine's own copy, which may be newer.
    brought = relay(cluster).with_name("restore")
    try:
        run(cluster, "backup.restore", "restore", {
            "backup_from": str(chosen.folder or brought), "backup_holder": "" if chosen.folder else chosen.place,
            "backup_archive": name, "backup_force": force,
        })  # fmt: skip
    finally:
        shutil.rmtree(brought, ignore_errors=True)


def listing(cluster: Cluster) -> None:
    """Print who has a copy, which archives there are, and who lacks one of them."""
    found = copies(cluster)
    archives: dict[str, list[str]] = {}
    for copy in found:
        if not copy.story:
            print(f"{copy.place:<14}{copy.reason}")
            continue
        count = len(copy.story["archives"])
        print(f"{copy.place:<14}{count} archive{'' if count == 1 else 's'}, {size(copy.story['repository'])}, "
              f"the last {ago(age(copy.story))}")  # fmt: skip
        for name in copy.story["archives"]:
            archives.setdefault(name, []).append(copy.place)
    if not archives:
        raise Failure("No backup was found; ./bootstrap backup.create makes one.")
    everyone = max(archives.values(), key=len)
    print("archives:")
    for name, places in sorted(archives.items()):
        print(f"  {name}" + ("" if len(places) == len(everyone) else f"  (only {', '.join(places)})"))

"""Backups of the deployer: make one, say where there are copies, and bring a blank node back from one of them.

The work is done by roles/backup. Beside every copy of the repository lies `backup.json`, which says without the passphrase
what is in it; what is read here comes from there.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beowulf import deploy, host, lock, playbook, questions, ssh
from beowulf.errors import Failure, Refusal
from beowulf.process import INTERRUPTED

if TYPE_CHECKING:
    from beowulf.cluster import Cluster

REPOSITORY = "/var/backups/cluster"
"""Folder of the repository on the deployer, and of its copies on other nodes: backup_repository of roles/backup."""
STORY = "backup.json"
STORY_LIMIT = 1 << 18
"""Bytes of it that are read at most."""
READ = f"sudo -n timeout 5 head --bytes={STORY_LIMIT + 1}"
# A swap that was interrupted leaves the last complete copy under its other name. The line ends, whoever wrote it.
ASK = f"{READ} {REPOSITORY}/{STORY} 2>/dev/null || {READ} {REPOSITORY}.previous/{STORY}; echo"
ASK_REFUSED = f"! sudo -n test -f {REPOSITORY}.refused || {READ} {REPOSITORY}.refused"
"""Why a node that holds a copy has refused the last one that came: the time and a sentence, nothing when it has not."""
OLD = 2 * 86400
"""Seconds after which a backup is too old: it is made every day, and one day may be missed."""
LIMIT = 10.0
FAST = 300
"""Seconds that the clock of the deployer may be before the one of this machine."""
CLUSTER = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
ARCHIVE = r"-\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
"""What follows the cluster's name in the name of an archive: roles/backup/tasks/create.yml."""
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")
IDENTITY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Copy:
    """A copy of the repository: on a node, or in a folder of this machine; what it says of itself, or why it says nothing.

    `refused` is the time and the reason when its place refused the last copy that came.
    """

    place: str
    story: Mapping[str, Any] | None
    folder: Path | None = None
    reason: str = ""
    refused: str = ""


def check_story(text: str, now: datetime | None = None) -> dict[str, Any]:
    """Return what a copy says of itself, with the known fields alone; raise ValueError with what is wrong with it.

    Who holds the copy may have written whatever it likes: the names of archives become paths and arguments, and the time says which
    copy is believed.
    """
    try:
        told = json.loads(text)
        cluster, archives, names = told["cluster"], told["archives"], ("original", "added", "repository", "before")
        numbers = {name: told.get(name, 0) for name in names}
        identity = told.get("id", "")
        if not (isinstance(cluster, str) and CLUSTER.fullmatch(cluster)):
            raise ValueError("its cluster has no name")
        if not isinstance(archives, list) or len(set(archives)) != len(archives) or told["archive"] not in archives:
            raise ValueError("its archives are no list with the newest")
        if not all(isinstance(name, str) and re.fullmatch(re.escape(cluster) + ARCHIVE, name) for name in archives):
            raise ValueError("an archive has a name that none was given")
        if not (isinstance(told["time"], str) and TIME.fullmatch(told["time"])):
            raise ValueError("its time is none")
        if any(type(one) not in (int, float) or not math.isfinite(one) or not 0 <= one < 1e18 for one in numbers.values()):
            raise ValueError("a number is none")
        if not (identity == "" or (isinstance(identity, str) and IDENTITY.fullmatch(identity))):
            raise ValueError("the id of its repository is none")
        for time in (told["time"], *(name.removeprefix(f"{cluster}-") for name in archives)):
            if (datetime.fromisoformat(time) - (now or datetime.now(UTC))).total_seconds() > FAST:
                raise ValueError(f"{time} is still to come: the clock of this machine or of the deployer is wrong, or the copy lies")
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("it is not complete") from error
    return {"cluster": cluster, "id": identity, "archive": told["archive"], "time": told["time"], **numbers, "archives": archives}


def read_story(text: str, now: datetime | None = None) -> dict[str, Any] | None:
    """Return what a copy says of itself, as check_story does; None unless it is complete, and all of it is plausible."""
    try:
        return check_story(text, now)
    except ValueError:
        return None


def printable(text: str, length: int = 400) -> str:
    """Return what a node said as one line of a terminal: no control characters, and not endless."""
    line = " ".join(text[: 4 * length].split())
    return "".join(letter if letter.isprintable() else "?" for letter in line)[:length]


def read_small(path: Path) -> str:
    """Return the text of a small regular file. Raises OSError or ValueError for anything else, FileNotFoundError when there is none."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path} is no regular file")
        data = file.read(STORY_LIMIT + 1)
    if len(data) > STORY_LIMIT:
        raise ValueError(f"{path} has more than {STORY_LIMIT} bytes")
    return data.decode()


def fell(story: Mapping[str, Any]) -> str:
    """Say that there is one archive where there were more; empty when it is not so."""
    return f"1 archive, where there were {story['before']:.0f}" if len(story["archives"]) == 1 < story["before"] else ""


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


def number(story: Mapping[str, Any]) -> str:
    """Say how many archives a copy has."""
    count = len(story["archives"])
    return f"{count} archive{'' if count == 1 else 's'}"


def relay(cluster: Cluster) -> Path:
    """Return the folder of this controller's own copy, as in inventory/group_vars/all/backup.yml."""
    return cluster.state / "backup" / "repository"


def folder_for(cluster: Cluster, folder: Path) -> Path:
    """Return where in a folder, of a USB key say, the copy of a cluster has its place."""
    return folder.absolute() / f"beowulf-{cluster.rack.cluster}"


def in_folder(place: str, *folders: Path) -> Copy:
    """Look for a copy in folders, in this order, each as it is or left over from an interrupted swap."""
    refused = ""
    for folder in folders:
        try:
            refused = refused or printable(read_small(folder.with_name(f"{folder.name}.refused")))
        except (OSError, ValueError):
            refused = ""
        for candidate in (folder, folder.with_name(f"{folder.name}.previous")):
            try:
                story = check_story(read_small(candidate / STORY))
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                reason = f"{candidate / STORY} does not say what is there: {error}"
                return Copy(place, None, reason=printable(reason), refused=refused)
            return Copy(place, story, candidate, refused=refused)
    return Copy(place, None, reason="no copy", refused=refused)


def on_node(cluster: Cluster, node: str) -> Copy:
    """Ask a node, over SSH, for the copy that it holds."""
    asked = questions.script({"backup": ASK, "refused": ASK_REFUSED})
    result = ssh.run(cluster, node, asked, timeout=LIMIT, limit=3 * STORY_LIMIT)
    found, _failed = questions.answers(result.stdout)
    if "refused" not in found:
        told = result.stderr.strip().splitlines()
        return Copy(node, None, reason=printable(told[-1]) if told else "no answer")
    refused = printable(found["refused"])
    if not found["backup"].strip():
        return Copy(node, None, reason="no copy", refused=refused)
    try:
        return Copy(node, check_story(found["backup"]), refused=refused)
    except ValueError as error:
        return Copy(node, None, reason=printable(f"{REPOSITORY}/{STORY} does not say what is there: {error}"), refused=refused)


def copies(cluster: Cluster) -> list[Copy]:
    """Ask everyone who should have a copy: the deployer, the nodes that hold one, this machine."""
    nodes = [*cluster.group("backup"), *cluster.group("backup_copy")]
    with ThreadPoolExecutor(max_workers=8) as pool:
        return [*pool.map(lambda node: on_node(cluster, node), nodes), in_folder("this machine", relay(cluster))]


def newest(found: list[Copy]) -> Copy:
    """Return the copy with the newest archive; of several the first one on this machine, which needs no way.

    Not that of a node which has another repository than this machine has: who holds a copy may say of it what it likes.
    """
    own = next((copy.story["id"] for copy in found if copy.folder and copy.story), "")
    complete = [copy for copy in found if copy.story and own in ("", copy.story["id"])]
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
    code, summary = playbook.run(playbook.command(cluster, name), task, variables=variables)
    if code not in (0, INTERRUPTED) and task == "backup.create" and summary and "backup" not in failed_in(cluster, summary):
        print("\nThe backup itself was made; not everyone has a copy of it.")
    playbook.conclude(task, cluster, code, summary)


def failed_in(cluster: Cluster, summary: Mapping[str, Any]) -> set[str]:
    """Return of which functions nodes failed: the deployer's, or that of the nodes that hold copies."""
    nodes = {one["node"] for one in summary["failures"]}
    return {name for name in ("backup", "backup_copy") if nodes & set(cluster.group(name))}


def create(cluster: Cluster, to: str = "", force: bool = False) -> None:
    """Make a backup of the deployer, and copies of it: on this machine, on the nodes that hold one, in a folder.

    A deployer that has no repository first takes the newest copy back and goes on with it. With `force` it begins a new one,
    and what it has takes the place of copies that have archives which it has not.
    """
    variables: dict[str, Any] = {"backup_force": force}
    if to:
        folder = Path(to).expanduser()
        # Never made here: a key that is not plugged in has no folder, or one that may not be written.
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise Refusal(f"--to {to}: this is no folder that you may write to. Is the medium mounted?")
        variables["backup_to"] = str(folder_for(cluster, folder))
    brought = relay(cluster).with_name("restore")
    try:
        with lock.changing(cluster, "backup.create"):
            run(cluster, "backup.create", "backup", variables | to_take_back(cluster, brought, force))
    finally:
        shutil.rmtree(brought, ignore_errors=True)
    story = in_folder("", relay(cluster)).story
    if not story:
        raise Failure(f"There is no complete copy in {relay(cluster)}.")
    places = [*cluster.group("backup"), *cluster.group("backup_copy"), str(relay(cluster)), *([variables["backup_to"]] if to else [])]
    print(f"  archive {story['archive']}: {size(story['original'])}, of which {size(story['added'])} are new\n"
          f"  {fell(story) or number(story)}, {size(story['repository'])}, encrypted, are now on {', '.join(places)}")  # fmt: skip


def to_take_back(cluster: Cluster, brought: Path, force: bool) -> dict[str, Any]:
    """Return the variables that say which copy a deployer goes on with that has none itself, and how many archives are known."""
    found = [copy for copy in copies(cluster) if copy.story and copy.story["cluster"] == cluster.rack.cluster]
    variables: dict[str, Any] = {"backup_before": max((len(copy.story["archives"]) for copy in found), default=0)}
    others = [copy for copy in found if copy.place not in cluster.group("backup")]
    # What this machine has is the role's own choice.
    if force or len(others) < len(found) or not others or (chosen := newest(others)).folder == relay(cluster):
        return variables
    print(f"{' and '.join(cluster.group('backup'))} has no repository; if so, it goes on with the copy of {chosen.place}", flush=True)
    return variables | {"backup_from": str(chosen.folder or brought), "backup_holder": "" if chosen.folder else chosen.place}


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
        if copy.refused:
            print(f"{copy.place:<14}refused a newer one: {copy.refused}")
        if not copy.story:
            print(f"{copy.place:<14}{copy.reason}")
            continue
        print(f"{copy.place:<14}{fell(copy.story) or number(copy.story)}, {size(copy.story['repository'])}, "
              f"the last {ago(age(copy.story))}")  # fmt: skip
        for name in copy.story["archives"]:
            archives.setdefault(name, []).append(copy.place)
    if not archives:
        raise Failure("No backup was found; ./bootstrap backup.create makes one.")
    everyone = max(archives.values(), key=len)
    print("archives:")
    for name, places in sorted(archives.items()):
        print(f"  {name}" + ("" if len(places) == len(everyone) else f"  (only {', '.join(places)})"))

"""The operator's manual: `./bootstrap --list` shows the contents, `./bootstrap --help TASK` a page."""

from __future__ import annotations

import functools
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from invoke import Collection, Context, Exit
from invoke import task as invoke_task

from beowulf.errors import OperatorError, Refusal

DEFAULT = os.environ.get("BEOWULF_CLUSTER", "lab")
CLUSTER = {"cluster": f"name of the cluster: its rack file is inventory/NAME.rack.yml (default: {DEFAULT})"}


# No short options: of `--check` Invoke would make `-h`, which people type to get help.
task = functools.partial(invoke_task, auto_shortflags=False)


def plainly(body: Callable[..., None]) -> Callable[..., None]:
    """End a task that fails with a sentence and the right exit code instead of a traceback; a terminal acts on nothing that it says."""

    @functools.wraps(body)
    def wrapper(*args: object, **kwargs: object) -> None:
        from beowulf import terminal

        try:
            with terminal.plainly():
                body(*args, **kwargs)
        except OperatorError as error:
            raise Exit(terminal.plain(str(error)) or None, code=error.code) from error
        except KeyboardInterrupt as error:
            raise Exit("interrupted", code=130) from error

    return wrapper


def find(cluster: str):  # noqa: ANN201  # imported late: the list of tasks is shown without reading racks
    """Return a cluster by name."""
    from beowulf.cluster import Cluster
    from beowulf.pki.certificates import refresh

    chosen = Cluster(cluster)
    refresh(chosen)
    return chosen


@task(
    help=CLUSTER
    | {
        "limit": "only these nodes or groups, as a pattern of Ansible's",
        "tags": "only these roles, separated by commas",
        "check": "say what would change, and change nothing",
    },
)
@plainly
def deploy(c: Context, cluster: str = DEFAULT, limit: str = "", tags: str = "", check: bool = False) -> None:
    """Bring the cluster to what its rack file says; the lab's nodes are made first."""
    from beowulf.deploy import deploy as bring

    bring(find(cluster), limit=limit, tags=tags, check=check)


@task(
    help=CLUSTER
    | {
        "limit": "ask from these nodes or groups only, as a pattern of Ansible's",
        "only": "only these functions (dns, vip, ...), separated by commas",
        "json": "for machines",
    },
)
@plainly
def verify(c: Context, cluster: str = DEFAULT, limit: str = "", only: str = "", json: bool = False) -> None:
    """Test what the nodes of the live cluster do."""
    from beowulf.verify import verify as test

    test(find(cluster), limit=limit, only=only, as_json=json)


@task(
    help=CLUSTER
    | {
        "name": "a drill; may be given several times, and without --name (default: all)",
        "only": "drills, separated by commas; the same as naming them",
        "list": "say which drills there are",
        "quick": "only those that CI runs; what a noisy machine may miss is told and not asserted",
        "repeat": "how often each",
        "json": "for machines",
    },
    iterable=["name"],
)
@plainly
def drill(
    c: Context,
    name: list[str],
    cluster: str = DEFAULT,
    only: str = "",
    list: bool = False,
    quick: bool = False,
    repeat: int = 1,
    json: bool = False,
) -> None:
    """Break the lab on purpose, measure from a client, heal it, and compare with the bounds."""
    from beowulf import drill as drills

    name = [*name, *filter(None, only.split(","))]
    if list:
        chosen = drills.choose(name, quick)
        width = max(len(one.name) for one in chosen) + 2
        for one in chosen:
            print(f"{one.name:<{width}}{one.title}")
        return
    drills.drills(find(cluster), name, repeat=repeat, quick=quick, as_json=json)


@task(
    help=CLUSTER
    | {
        "only": "deploy (a deploy that changes nothing, in several ways), rack (reading racks of 10 to 10,000 nodes), or both with a comma",
        "repeat": "how often each deploy; the fastest counts",
        "json": "print the figures as JSON",
    },
)
@plainly
def bench(c: Context, cluster: str = DEFAULT, only: str = "", repeat: int = 1, json: bool = False) -> None:
    """Measure what deploys and racks cost this controller, as ratios; the deploys are real, and change nothing."""
    from beowulf import bench as benchmark

    found = benchmark.bench(find(cluster), only=only, repeat=repeat)
    print(dump(found) if json else "\n".join(["", *benchmark.lines(found)]))


@task(help=CLUSTER | {"json": "for machines", "watch": "look again every 5 seconds, until Ctrl-C"})
@plainly
def status(c: Context, cluster: str = DEFAULT, json: bool = False, watch: bool = False) -> None:
    """Show who is up, who serves, and whether the servers agree."""
    from rich.console import Console
    from rich.live import Live

    from beowulf.status import gather, screen

    chosen = find(cluster)
    state = gather(chosen)
    if json:
        print(dump(state))
    elif watch and sys.stdout.isatty():
        with Live(screen(state), screen=True, console=Console(file=sys.stdout.stream)) as live:
            while True:
                time.sleep(5)
                state = gather(chosen)
                live.update(screen(state))
    else:
        # Its colours are no text of a node's.
        Console(file=sys.stdout.stream, soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 120).print(screen(state))
    if not state["healthy"]:
        raise Exit(code=1)


def dump(data: object) -> str:
    """Return data as JSON that people can read, too."""
    return json.dumps(data, indent=1)


HANDED_ON = "; what follows -- is for"


@task(
    help=CLUSTER
    | {
        "file": "a Python program (.py), a C source (.c) or a binary" + HANDED_ON + " the program",
        "n": "number of ranks (default: all slots of the compute nodes)",
        "per_node": "ranks on each node (default: its slots)",
        "fetch": "a folder to copy to what the program leaves in its own",
        "folder": "a folder with the program that is copied as a whole, up to 100 MB (default: what the program imports or includes)",
    },
    positional=["file"],
)
@plainly
def mpi(c: Context, file: str, n: int = 0, per_node: int = 0, fetch: str = "", folder: str = "", cluster: str = DEFAULT) -> None:
    """Run a parallel program on the compute nodes."""
    from beowulf import compute

    if code := compute.mpi(find(cluster), file, n, per_node, shlex.split(c.remainder), fetch, folder):
        raise Exit(code=code)


@task(help=CLUSTER | {"json": "for machines"})
@plainly
def mpi_check(c: Context, cluster: str = DEFAULT, json: bool = False) -> None:
    """Measure every compute node and the way between every two: find the bad cable and the slow board."""
    from beowulf import compute

    compute.check(find(cluster), json)


@task(
    help=CLUSTER
    | {
        "dir": "folder with a Makefile or a configure script" + HANDED_ON + " make",
        "pump": "let the nodes preprocess, too; without the cache",
        "fetch": "a folder to copy the built tree to",
        "git": "take .git along, for a tree that asks git for its version",
        "objects": "take object files (*.o) along that are in the tree, for those without a source",
    },
    positional=["dir"],
)
@plainly
def build(  # one parameter for each option
    c: Context, dir: str, pump: bool = False, fetch: str = "", git: bool = False, objects: bool = False, cluster: str = DEFAULT
) -> None:
    """Compile a C or C++ tree with the compute nodes."""
    from beowulf.build import build as compile_tree

    compile_tree(find(cluster), dir, pump, fetch, shlex.split(c.remainder), git, objects)


@task(help={"file": "rack file (default: that of the cluster)"})
@plainly
def rack_check(c: Context, file: str = "") -> None:
    """Check a rack file: every mistake in it, with its line."""
    from beowulf.cluster import EXAMPLE, INVENTORY, check_name, load_rack, rack_file

    path = Path(file) if file else rack_file(DEFAULT)
    if not path.is_file():
        raise Refusal(f"There is no file {path}.")
    rack = load_rack(path)
    if path.resolve().parent == INVENTORY and path.name != EXAMPLE:
        check_name(path, rack.cluster)
    print(f"{path}: good, {len(rack.nodes)} nodes")


@task()
@plainly
def rack_schema(c: Context) -> None:
    """Print the JSON Schema of rack files, for editors."""
    from beowulf.cluster import rack_schema as schema

    print(dump(schema()))


@task(
    help=CLUSTER
    | {
        "limit": "these nodes or groups only, as a pattern of Ansible's",
        "console": "of a lab: by the console of the containers, which a node without an address has, too",
        "json": "for machines",
    },
)
@plainly
def lynis(c: Context, cluster: str = DEFAULT, limit: str = "", console: bool = False, json: bool = False) -> None:
    """Rate how hardened the nodes are, and say of every missing point why; fail below the target, 80, on a deployed node."""
    from beowulf.lynis import rate

    rate(find(cluster), limit=limit, console=console, as_json=json)


@task(help=CLUSTER)
@plainly
def registry_fill(c: Context, cluster: str = DEFAULT) -> None:
    """Note which machines the LAN has seen that the rack file does not know; the deployer does so by itself."""
    from beowulf.registry import fill

    fill(find(cluster))


@task(help=CLUSTER)
@plainly
def lab_up(c: Context, cluster: str = DEFAULT) -> None:
    """Make and start the containers of the lab, with nothing but SSH in them."""
    from beowulf.deploy import lab

    lab(find(cluster), "lab.up")


@task(help=CLUSTER)
@plainly
def lab_down(c: Context, cluster: str = DEFAULT) -> None:
    """Remove the containers and networks of the lab."""
    from beowulf.deploy import lab

    lab(find(cluster), "lab.down")


@task(help=CLUSTER | {"node": "name of the node"}, positional=["node"])
@plainly
def lab_shell(c: Context, node: str, cluster: str = DEFAULT) -> None:
    """Open a shell on a node: on a container's console, or over SSH."""
    chosen = find(cluster)
    name = chosen.node(node)
    terminal = ["--tty"] if sys.stdin.isatty() else []
    console = ["podman", "exec", "--interactive", *terminal, chosen.container(name), "bash", "-l"]
    command = console if chosen.is_lab else chosen.ssh(name)
    if not shutil.which(command[0]):
        raise Refusal(f"{command[0]} is not installed.")
    raise Exit(code=subprocess.run(command, check=False).returncode)


@task(help=CLUSTER)
@plainly
def secrets_init(c: Context, cluster: str = DEFAULT) -> None:
    """Generate the secrets that the cluster does not have yet, and the vault for them."""
    from beowulf.secrets import init

    init(find(cluster))


@task(help=CLUSTER | {"name": "name of the secret"}, positional=["name"])
@plainly
def secrets_show(c: Context, name: str, cluster: str = DEFAULT) -> None:
    """Print one secret."""
    from beowulf.secrets import show

    show(find(cluster), name)


@task(
    help=CLUSTER
    | {
        "name": "a secret; may be given several times, and without --name (default: all that nothing is encrypted with)",
        "password": "change the password of the vault instead",
    },
    iterable=["name"],
)
@plainly
def secrets_rotate(c: Context, name: list[str], cluster: str = DEFAULT, password: bool = False) -> None:
    """Give secrets new values; a deploy takes them to the nodes."""
    from beowulf.reencrypt import rotate_secrets

    rotate_secrets(find(cluster), name, password=password)


@task(
    help=CLUSTER
    | {
        "name": "the name in the certificate, which logs show and ca.revoke takes",
        "hours": "how long it is good (default: user_hours of the rack file)",
        "principals": "what it opens, separated by commas: the user of the nodes for all of them (default), or types of nodes",
        "key": "public key to sign (default: that of this controller)",
        "to": "where to put it (default: beside the key)",
    },
    positional=["name"],
)
@plainly
def ca_user(c: Context, name: str, cluster: str = DEFAULT, hours: float = 0.0, principals: str = "", key: str = "", to: str = "") -> None:
    """Sign a user's SSH key: for some hours, and for nothing but that."""
    from beowulf.pki.certificates import user

    user(find(cluster), name, hours=hours, principals=principals, key=key, to=to)


@task(help=CLUSTER | {"json": "for machines"})
@plainly
def ca_list(c: Context, cluster: str = DEFAULT, json: bool = False) -> None:
    """Show the SSH certificates of hosts and users, those that end first on top."""
    from beowulf.pki.database import show

    show(find(cluster), as_json=json)


@task(
    help=CLUSTER
    | {
        "what": "the name in a certificate, its serial number, a public key, or a node, for every key that was signed for it",
        "old": "of a node that was made anew only the keys that it had before: it goes on with those of today",
        "all": "of a node that was made anew also the keys of today: it is shut out until it is made anew once more",
    },
    positional=["what"],
)
@plainly
def ca_revoke(c: Context, what: str, cluster: str = DEFAULT, old: bool = False, all: bool = False) -> None:
    """Make a certificate good for nothing, on every node."""
    from beowulf.pki.revocation import revoke

    if old and all:
        raise Refusal("--old and --all: say one of them.")
    revoke(find(cluster), what, "old" if old else "all" if all else "")


@task(help=CLUSTER | {"what": "what ca.revoke was told: a name, a serial number, a public key, or a node"}, positional=["what"])
@plainly
def ca_unrevoke(c: Context, what: str, cluster: str = DEFAULT) -> None:
    """Take off the list what was revoked by mistake; it is good again."""
    from beowulf.pki.revocation import unrevoke

    unrevoke(find(cluster), what)


@task(help=CLUSTER)
@plainly
def ca_renew(c: Context, cluster: str = DEFAULT) -> None:
    """Sign again what is half of its life old; the deployer does so every day."""
    from beowulf.pki.rotation import renew

    renew(find(cluster))


@task(
    help=CLUSTER
    | {
        "finish": "drop the old keys: what they signed is refused from then on",
        "force": "with --finish: also while another controller would be shut out",
    },
)
@plainly
def ca_rotate(c: Context, cluster: str = DEFAULT, finish: bool = False, force: bool = False) -> None:
    """Give the authority new keys, of SSH and of TLS, and sign everything again; nobody is refused on the way."""
    from beowulf.pki.rotation import rotate

    rotate(find(cluster), finish, force=force)


@task(
    help=CLUSTER
    | {
        "to": "one more copy into this folder, of a USB key say",
        "force": "let archives go that only the copies have; a deployer without a repository begins a new one",
    }
)
@plainly
def backup_create(c: Context, cluster: str = DEFAULT, to: str = "", force: bool = False) -> None:
    """Back the deployer up, encrypted: to itself, to the LAN servers and to this machine."""
    from beowulf import backup

    backup.create(find(cluster), to=to, force=force)


@task(
    help=CLUSTER
    | {
        "from_": "a folder of this machine, or a node, that has a copy (default: the newest there is)",
        "archive": "name of an archive, as in backup.list (default: the last one)",
        "force": "even over a deployer that has newer state than the archive",
    },
)
@plainly
def backup_restore(c: Context, cluster: str = DEFAULT, from_: str = "", archive: str = "", force: bool = False) -> None:
    """Bring a blank deployer back as it was, then set the cluster up."""
    from beowulf import backup

    backup.restore(find(cluster), source=from_, archive=archive, force=force)


@task(help=CLUSTER)
@plainly
def backup_list(c: Context, cluster: str = DEFAULT) -> None:
    """Show who has a copy of the backups, and what is in it."""
    from beowulf import backup

    backup.listing(find(cluster))


@task(help=CLUSTER | {"node": "name of the node"}, positional=["node"])
@plainly
def k3s_remove(c: Context, node: str, cluster: str = DEFAULT) -> None:
    """Take a node out of k3s, also one that is dead; while it is in the rack file, it joins again at the next deploy."""
    from beowulf import k3s

    k3s.remove(find(cluster), node)


@task(help=CLUSTER)
@plainly
def k3s_snapshot(c: Context, cluster: str = DEFAULT) -> None:
    """Keep the datastore of k3s and its keys on this machine, encrypted."""
    from beowulf import k3s

    k3s.snapshot(find(cluster))


@task(help=CLUSTER | {"file": "the snapshot"}, positional=["file"])
@plainly
def k3s_restore(c: Context, file: str, cluster: str = DEFAULT) -> None:
    """Bring k3s back to a snapshot; what was done after it is gone."""
    from beowulf import k3s

    k3s.restore(find(cluster), file)


@task(help=CLUSTER | {"local": "those that this machine has kept, because there was no ARA on the deployer"})
@plainly
def ara_serve(c: Context, cluster: str = DEFAULT, local: bool = False) -> None:
    """Print where the recorded runs are shown: on the deployer, or by a server that is started here."""
    from beowulf import recording

    recording.serve(find(cluster), local=local)


@task()
@plainly
def ara_stop(c: Context) -> None:
    """Stop this machine's server of the recorded runs; what needs it starts it again."""
    from beowulf import recording

    recording.stop()


@task(help=CLUSTER | {"folder": "where to put the pages", "local": "the runs that this machine has kept"}, positional=["folder"])
@plainly
def ara_report(c: Context, folder: str, cluster: str = DEFAULT, local: bool = False) -> None:
    """Write the recorded runs as static pages."""
    from beowulf import recording

    recording.report(find(cluster), Path(folder).absolute(), local=local)


@task()
@plainly
def test(c: Context) -> None:
    """Run everything that CI runs: lint, unit, cluster."""
    from beowulf import ci

    ci.every()


@task()
@plainly
def test_lint(c: Context) -> None:
    """Run the linters."""
    from beowulf import ci

    ci.lint()


@task()
@plainly
def test_unit(c: Context) -> None:
    """Run the tests that need no node."""
    from beowulf import ci

    ci.unit()


@task(help={"scenario": "a folder of molecule/: the full cluster, or one type of node (router, deployer, ...) with what it needs"})
@plainly
def test_cluster(c: Context, scenario: str = "default") -> None:
    """Run the tests of a lab of their own: create, converge, repeat, verify, destroy."""
    from beowulf import ci

    ci.cluster(scenario)


@task()
@plainly
def dev_lock(c: Context) -> None:
    """Lock the versions in requirements/*.in again (needs uv)."""
    from beowulf.environment import lock

    lock()


@task()
@plainly
def dev_readmes(c: Context) -> None:
    """Write the README of each role from its argument specification."""
    from beowulf import readmes
    from beowulf.environment import ensure_development

    ensure_development()
    changed = readmes.write()
    print(f"{len(changed)} of {len(readmes.roles())} changed{': ' + ', '.join(changed) if changed else ''}")


def group(name: str, default: object = None, **members: object) -> Collection:
    """Return the tasks of a group, by their short names."""
    collection = Collection(name)
    for short, member in members.items():
        collection.add_task(member, name=short, default=member is default)
    return collection


ns = Collection(
    deploy,
    verify,
    status,
    drill,
    bench,
    lynis,
    build,
    group("mpi", default=mpi, run=mpi, check=mpi_check),
    group("rack", check=rack_check, schema=rack_schema),
    group("lab", up=lab_up, down=lab_down, shell=lab_shell),
    group("ca", user=ca_user, list=ca_list, revoke=ca_revoke, unrevoke=ca_unrevoke, renew=ca_renew, rotate=ca_rotate),
    group("backup", create=backup_create, restore=backup_restore, list=backup_list),
    group("registry", fill=registry_fill),
    group("k3s", remove=k3s_remove, snapshot=k3s_snapshot, restore=k3s_restore),
    group("secrets", init=secrets_init, show=secrets_show, rotate=secrets_rotate),
    group("ara", serve=ara_serve, stop=ara_stop, report=ara_report),
    group("test", default=test, all=test, lint=test_lint, unit=test_unit, cluster=test_cluster),
    group("dev", lock=dev_lock, readmes=dev_readmes),
)

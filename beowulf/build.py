"""Compile a tree with the compute nodes, and say of each object where it was made."""

from __future__ import annotations

import re
import shutil
import subprocess
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from beowulf import ssh
from beowulf.cluster import Cluster
from beowulf.compute import ask, ask_all, attended, slots
from beowulf.errors import Failure, Refusal
from beowulf.process import run

# What says how the objects of two compilers fit together, as the role distcc has it.
COMPILER = "LC_ALL=C gcc -v 2>&1; g++ -dumpfullversion"
ENOUGH = 3
"""So many other nodes keep a client busy with preprocessing, which it does twice: for the cache, and for them."""
PLACES = ".cache/beowulf-build"
MAKEFILES = ("GNUmakefile", "makefile", "Makefile")
# $1 is yes for pump mode, $2 the log, $3 the servers; the rest is for make.
BUILD = """
pump=$1 log=$2 servers=$3
shift 3
# Where the role distcc has what stands for the compilers.
PATH=/usr/local/lib/distcc/bin:$PATH
rm -f "$log" "$log".[0-9]*
: >"$log"
if ! [ -e GNUmakefile ] && ! [ -e makefile ] && ! [ -e Makefile ]; then
    ./configure || exit
fi
: >"$log.began"
export HERD_LOG=$log DISTCC_HOSTS=$servers
if [ "$pump" != yes ]; then
    exec make "$@"
fi
# distcc-pump puts its own folder, that of the compilers, before all others.
exec env PYTHONWARNINGS=ignore distcc-pump env -u PYTHONWARNINGS PATH="$PATH" make "$@"
"""
# What make has written to the tree $1 since it began, with the log $2: compilers that nobody watched make objects, too.
WRITTEN = 'find "$1" -name "*.o" -newer "$2.began" | wc -l'
HOME, RESORT, CACHE = "home", "resort", "cache"
"""Words for a place in the log of /usr/local/lib/distcc/compiler; what is none of these is the address of a node."""
LONGEST = 60
REASONS = 12
"""So many reasons have a line of their own."""


def tree_of(folder: str) -> Path:
    """Return the folder of a source tree that can be built, or refuse it."""
    tree = Path(folder).absolute()
    if not tree.is_dir():
        raise Refusal(f"There is no folder {folder}.")
    if not any((tree / name).is_file() for name in (*MAKEFILES, "configure")):
        meant = " It has a CMakeLists.txt, but the nodes have no cmake." if (tree / "CMakeLists.txt").is_file() else ""
        raise Refusal(f"{folder} has neither a Makefile nor a configure script; nothing else can be built on the compute nodes.{meant}")
    if not shutil.which("rsync"):
        raise Refusal("rsync is not installed.")
    return tree


def left_out(tree: Path, git: bool, objects: bool) -> tuple[list[str], list[str]]:
    """Return what is said of what a tree keeps to itself, and the options of rsync that copy the rest.

    Raises Refusal when the history is wanted and is not in the tree.
    """
    said, options = [], []
    history = tree / ".git"
    if git and not history.is_dir():
        where = "a file that says where it is (a worktree or a submodule)" if history.is_file() else "not there"
        raise Refusal(f"--git: {history} is {where}, and what is outside of the tree is not copied. Build a clone of it.")
    if not git:
        # Hidden, not excluded: rsync deletes an older copy, which would answer for today's.
        options.append("--filter=hide .git")
        if history.exists():
            said.append("left out: .git, which is large; --git takes it along, for trees that ask git for their version")
    found = sorted(str(path.relative_to(tree)) for path in tree.rglob("*.o") if ".git" not in path.parts)
    if objects:
        # Those that were made there stay, and are not made again.
        options.append("--filter=protect *.o")
    else:
        options.append("--exclude=*.o")
        if found:
            names = ", ".join(printable(name) for name in found[:3]) + (", …" if len(found) > 3 else "")
            what = f"left out: {len(found)} object files (*.o: {names}), to be made there"
            said.append(f"{what}; --objects takes them along, for those without a source")
    return said, options


def compiler(text: str) -> str:
    """Return what counts of what a compiler says about itself: on 32-bit ARM the same target may mean different processors."""
    return " ".join(re.findall(r"(?:Target: |gcc version |--with-arch=)(\S+)", text) + text.split()[-1:])


def same_compilers(answers: Mapping[str, str | Failure]) -> list[str]:
    """Return the nodes that can be used; fail if they do not all have the same compilers, or if there are none."""
    alive = {node: compiler(answer) for node, answer in answers.items() if isinstance(answer, str)}
    if not alive:
        raise Failure("No compute node can compile:\n" + "\n".join(str(answer) for answer in answers.values()))
    usual, _count = Counter(alive.values()).most_common(1)[0]
    odd = [f"  {node}: {found}" for node, found in alive.items() if found != usual]
    if odd:
        head = f"The compilers differ, so that their objects might not fit together. Most nodes have {usual}, but:"
        raise Failure("\n".join([head, *odd, "Upgrade these nodes, or take `distcc` from them in the rack file."]))
    return list(alive)


def servers(hosts: str, addresses: Mapping[str, str], alive: Sequence[str], pump: bool) -> str:
    """Return what DISTCC_HOSTS is to be: what a client's hosts file says, without the nodes that are not there.

    The client is the first of those that are `alive`. It compiles only where it has few others to preprocess for, or with `pump`, where
    they do it themselves.
    """
    kept = [word for line in hosts.splitlines() for word in line.partition("#")[0].split()]
    others = alive[1:] if len(alive) > ENOUGH and not pump else alive
    wanted = {addresses[node] for node in others}
    return " ".join(word + (",cpp,lzo" if pump else "") for word in kept if word.partition(":")[0] in wanted)


def printable(text: str) -> str:
    """Return a text without what would control a terminal, and not too long: file names and options come from the tree."""
    shown = "".join(char if char.isprintable() else "?" for char in text)
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…"


def logged(log: str) -> Iterator[tuple[str, int, str]]:
    """Return what the log of /usr/local/lib/distcc/compiler says of each command: the place, how many objects, and why at home.

    What is no such line is left out: a node wrote it.
    """
    for line in log.splitlines():
        if found := re.fullmatch(r"(home|resort|cache|[0-9a-f.:]+)\t(\d{1,6})\t(.*)", line):
            yield found[1], int(found[2]), printable(found[3])


def made_table(log: str, nodes: Sequence[str], addresses: Mapping[str, str], written: int) -> list[str]:
    """Return the lines that say where objects were made, and why at home: `nodes` are those that took part, the first one the client.

    `written` is how many object files there are; more than were counted were made behind the back of the client's compilers.
    """
    client, *_others = nodes
    names = {address: name for name, address in addresses.items()}
    places: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for place, objects, why in logged(log):
        places[names.get(place, place)] += objects
        if place == HOME:
            reasons[why] += objects
    rows = [(node, places[node]) for node in nodes]
    rows.append((f"{client}, as a last resort", places[RESORT]))
    rows += [(f"{client}, at home: {why}", objects) for why, objects in reasons.most_common(REASONS)]
    if more := sum(reasons.values()) - sum(objects for _why, objects in reasons.most_common(REASONS)):
        rows.append((f"{client}, at home: other reasons", more))
    rows.append(("from the cache", places[CACHE]))
    if (rest := written - sum(places.values())) > 0:
        rows.append((f"{client}, not by gcc or g++ of PATH", rest))
    width = max(24, *(len(name) + 2 for name, _objects in rows))
    return [f"{'node':<{width}}{'objects':>8}", *(f"{name:<{width}}{objects:>8}" for name, objects in rows)]


def place_of(tree: Path) -> str:
    """Return the name of the folder of a tree on a node. The same each time: the cache knows objects with debugging information by it."""
    return f"{tree.name}-{zlib.crc32(str(tree).encode()):08x}"


def build(  # one parameter for each option of the task
    cluster: Cluster, folder: str, pump: bool = False, fetch: str = "", words: Sequence[str] = (), git: bool = False, objects: bool = False
) -> None:
    """Compile a tree with all compute nodes, on the first one that is there; copy the tree back to `fetch`, if that is given.

    Its history and the objects in it are copied there if `git` and `objects` say so.
    """
    tree = tree_of(folder)
    if fetch and not Path(fetch).is_dir():
        raise Refusal(f"--fetch {fetch}: there is no such folder.")
    said, options = left_out(tree, git, objects)
    members = slots(cluster, "distcc")
    answers = ask_all(cluster, members, COMPILER)
    alive = same_compilers(answers)
    for answer in answers.values():
        if isinstance(answer, Failure):
            print(f"goes on without {answer}", flush=True)
    client = alive[0]
    for wanted, program in ((pump, "distcc-pump"), (git, "git")):
        if wanted:
            missing = f"{program} is not installed, ./bootstrap deploy does it"
            ask(cluster, client, 'command -v "$1" >/dev/null || { echo "$2"; exit 1; }', program, missing)
    for line in said:
        print(line, flush=True)
    addresses = {node: str(cluster.rack.nodes[node].address) for node in members}
    hosts = servers(ask(cluster, client, "cat /etc/distcc/hosts"), addresses, alive, pump)
    place = place_of(tree)
    base = ask(cluster, client, 'mkdir -p "$HOME/$2/$1" && cd "$HOME/$2" && pwd', place, PLACES)
    copy(cluster, client, f"{tree}/", f":{base}/{place}/", "--delete", *options)
    jobs = 2 * sum(members[node] for node in alive)
    log = f"{base}/{place}.log"
    print(f"build {tree.name}: make -j{jobs} on {client}, {len(alive)} nodes, {base}/{place}", flush=True)
    command = ["bash", "-c", BUILD, "bash", "yes" if pump else "no", log, hosts, f"-j{jobs}", *words]
    code = attended(cluster, client, f"{base}/{place}", command)
    made = ask(cluster, client, 'cat "$1"', log)
    written = ask(cluster, client, WRITTEN, f"{base}/{place}", log)
    print("\n".join(made_table(made, alive, addresses, int(written) if written.isdecimal() else 0)), flush=True)
    if code:
        raise Failure(f"build {tree.name}: FAILED, make on {client} ended with {code}; the tree is there in {base}/{place}")
    if fetch:
        copy(cluster, client, f":{base}/{place}/", f"{Path(fetch).absolute()}/")


def copy(cluster: Cluster, node: str, source: str, destination: str, *options: str) -> None:
    """Copy a folder to a node or from it; a path on the node begins with a colon."""
    shell, address = ssh.rsync(cluster, node)
    paths = [f"{address}{path}" if path.startswith(":") else path for path in (source, destination)]
    if code := run(["rsync", "--archive", f"--rsh={shell}", *options, *paths], stdin=subprocess.DEVNULL):
        raise Failure(f"rsync ended with {code}: the tree could not be copied to or from {node}.")

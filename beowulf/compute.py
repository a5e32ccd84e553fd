"""The compute nodes at work: run a parallel program, measure the nodes and the cables between them."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from beowulf import ssh
from beowulf.cluster import Cluster
from beowulf.errors import Failure, Interrupted, Refusal
from beowulf.mpi_check import FACTOR, middle, outliers
from beowulf.process import INTERRUPTED, ROOT, output, run

USER = "mpi"
JOBS = "/srv/jobs"
LOST = 255
"""What ssh ends with when it did not reach the node, or lost it."""

# Runs "$@" in the folder $1 and ends it when the standard input does: with the connection, whoever ended that. 255 is ssh's own word.
ATTENDED = """
cd "$1" || exit; shift
exec 3<&0
"$@" </dev/null 3<&- & child=$!
{ read -r _ <&3; kill -TERM $child; } >/dev/null 2>&1 & watch=$!
wait $child; code=$?
kill $watch 2>/dev/null
[ $code -ne 255 ] || code=254
exit $code
"""

# Says on a node whether a job can run there: its folder is one that the user of MPI may write to, and who serves it answers.
READY = f"""
timeout 20 sudo -u {USER} test -w {JOBS} || {{ echo "{JOBS} is not there for the user {USER}: ./bootstrap verify --only jobs"; exit 1; }}
"""

FOLDER_LIMIT = 100_000_000
"""Bytes that a program may take along with --folder; what is larger belongs into the shared folder."""
LEFT_OUT = (".git", ".venv", "__pycache__")

# Without contraction the same numbers on every architecture.
COMPILE = ("mpicc", "-O2", "-ffp-contract=off")


def slots(cluster: Cluster, function: str) -> dict[str, int]:
    """Return how many processes each node of a function (mpi, distcc) takes, in the order of the rack; refuse a rack without any."""
    found = cluster.derived
    members = {name: found.hosts[name]["rack_slots"] for name in found.groups[function]}
    if not members:
        raise Refusal(f"The cluster {cluster.name} has no node for {function}.")
    return members


def remote(cluster: Cluster, node: str, script: str, *words: str, user: str = "") -> list[str]:
    """Return the command that runs a script in a login shell on a node, with words as its arguments."""
    account = ["sudo", "-H", "-u", user] if user else []
    return ssh.command(cluster, node, [*account, "bash", "-l", "-c", script, "bash", *words], may_ask=True)


def ask(cluster: Cluster, node: str, script: str, *words: str, user: str = "", timeout: float = 60) -> str:
    """Return what a script on a node says; fail with its last words."""
    result = output(remote(cluster, node, script, *words, user=user), timeout=timeout)
    if result.returncode:
        raise Failure(f"{node}: {last_words(result.stderr) or last_words(result.stdout) or f'ended with {result.returncode}'}")
    return result.stdout.strip()


def last_words(text: str) -> str:
    """Return the last lines of an output."""
    return "\n".join(text.strip().splitlines()[-5:])


def ask_all(cluster: Cluster, nodes: Iterable[str], script: str) -> dict[str, str | Failure]:
    """Return what a script says on several nodes at the same time, or how it failed there."""

    def one(node: str) -> str | Failure:
        try:
            return ask(cluster, node, script)
        except Failure as error:
            return error

    nodes = list(nodes)
    with ThreadPoolExecutor(16) as pool:
        return dict(zip(nodes, pool.map(one, nodes), strict=True))


def attended(cluster: Cluster, node: str, folder: str, command: Sequence[str], user: str = "") -> int:
    """Run a command on a node in a folder; its output is ours. Return its exit code."""
    code = run(remote(cluster, node, ATTENDED, folder, *command, user=user), stdin=subprocess.PIPE)
    if code == INTERRUPTED:
        raise Interrupted("interrupted")
    if code == LOST:
        raise Failure(f"The connection to {node} broke; what ran there has been told to end.")
    return code


# --- Programs


def includes(source: Path, folder: Path) -> Iterator[Path]:
    """Find the files that a C source includes by quoted names."""
    for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', source.read_text(encoding="utf-8", errors="replace"), re.MULTILINE):
        path = Path(os.path.normpath(source.parent / name))
        if path.is_file():
            if folder not in path.parents:
                raise Refusal(f"{source} includes {name}, which is not in the folder of the program, and only that is copied.")
            yield path


def imports(source: Path, folder: Path) -> Iterator[Path]:
    """Find the modules and packages in the program's folder that a Python file imports."""
    try:
        tree = ast.parse(source.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise Refusal(f"{source} is no Python: {error}") from error
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    for name in sorted({name.partition(".")[0] for name in names}):
        if (folder / name / "__init__.py").is_file():
            yield from sorted(path for path in (folder / name).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        elif (folder / f"{name}.py").is_file():
            yield folder / f"{name}.py"


def checked(file: str) -> Path:
    """Return the path of a program; refuse what is none."""
    path = Path(file).absolute()
    if not path.is_file():
        raise Refusal(f"There is no file {file}.")
    if path.suffix not in (".py", ".c") and not os.access(path, os.X_OK):
        raise Refusal(f"{file} is no program: neither Python (.py) nor C (.c), and it may not be executed.")
    return path


def program(file: str) -> dict[str, Path]:
    """Return the files that a program consists of, the program first: {name relative to its folder: path}. Refuse what is none."""
    path = checked(file)
    needs = {".py": imports, ".c": includes, ".h": includes}
    found: dict[str, Path] = {}
    waiting = [path]
    while waiting:
        one = waiting.pop(0)
        name = str(one.relative_to(path.parent))
        if name not in found:
            found[name] = one
            waiting += needs[one.suffix](one, path.parent) if one.suffix in needs else []
    return found


def whole(file: str, folder: str) -> tuple[dict[str, Path], list[str]]:
    """Return all files of a folder, the program among them first, and what is left out; refuse a folder without it or that is too large."""
    top, path = Path(folder).absolute(), checked(file)
    if not top.is_dir():
        raise Refusal(f"--folder {folder}: there is no such folder.")
    if top not in path.parents:
        raise Refusal(f"--folder {folder}: the program {file} is not in it.")
    found, left, size = {str(path.relative_to(top)): path}, [], 0
    for base, folders, files in os.walk(top):
        for name in sorted([*folders, *files]):
            one = Path(base, name)
            leads_out = one.is_symlink() and not one.resolve().is_relative_to(top.resolve())
            if name in LEFT_OUT or leads_out or not (one.is_file() or one.is_dir()):
                left.append(str(one.relative_to(top)))
            elif one.is_symlink() or one.is_file():
                found.setdefault(str(one.relative_to(top)), one)
                size += one.lstat().st_size
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        if size > FOLDER_LIMIT:
            raise Refusal(f"--folder {folder} has more than {FOLDER_LIMIT // 1_000_000} MB: put what is large into {JOBS} yourself.")
    return found, left


def beside(files: Mapping[str, Path]) -> list[str]:
    """Return what lies beside a program and is not among the files that are copied with it."""
    top = next(iter(files.values())).parent
    taken = {name.partition("/")[0] for name in files} | set(LEFT_OUT)
    return sorted(path.name for path in top.iterdir() if path.name not in taken)


def pools(path: Path) -> bool:
    """Return whether a Python program has a pool of workers (MPIPoolExecutor), which it would spawn unless ranks are handed to it."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return False
    named = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    named |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    return "MPIPoolExecutor" in named and "MPICommExecutor" not in named


def places(members: Mapping[str, int], ranks: int, per_node: int = 0) -> tuple[int, list[str]]:
    """Return how many ranks there will be and on which nodes, as mpiexec deals them out; refuse more than there is room for.

    Nodes are filled in order, with their slots or with `per_node` ranks each. No number of ranks: as many as there is room for.
    """
    if ranks < 0 or per_node < 0:
        raise Refusal("A number of ranks is 1 or more.")
    room = {node: min(own, per_node) if per_node else own for node, own in members.items()}
    if per_node > min(members.values()):
        small = min(members, key=lambda node: members[node])
        raise Refusal(f"--per-node {per_node}: {small} has only {members[small]} slots.")
    total = sum(room.values())
    if ranks > total:
        raise Refusal(f"-n {ranks}: the compute nodes have {total} slots ({', '.join(f'{node} {own}' for node, own in room.items())}).")
    nodes: list[str] = []
    free = ranks = ranks or total
    for node, own in room.items():
        if free > 0:
            nodes.append(node)
            free -= own
    return ranks, nodes


@contextlib.contextmanager
def job(cluster: Cluster, nodes: Sequence[str], files: Mapping[str, Path]) -> Iterator[str]:
    """Make a folder with the files that all of the nodes see, and give it away; remove it in the end.

    Raises Refusal when one of the nodes has no part in the shared folder, and Failure when one cannot be reached.
    """
    if alone := [node for node in nodes if node not in cluster.derived.groups["jobs"]]:
        what = f"{', '.join(alone)} {'do' if len(alone) > 1 else 'does'} not share {JOBS} (`jobs: false` in the rack file)"
        raise Refusal(f"{what}, and ranks there would not find the program: remove `jobs: false`, or write `mpi: false` beside it.")
    there = ask_all(cluster, nodes, READY)
    if failed := [str(answer) for answer in there.values() if isinstance(answer, Failure)]:
        raise Failure("Not all nodes are ready:\n" + "\n".join(failed))
    first = nodes[0]
    name = re.sub(r"[^A-Za-z0-9_-]", "_", Path(next(iter(files))).stem)
    folder = ask(cluster, first, f"mktemp -d {JOBS}/{name}.XXXXXX", user=USER)
    try:
        with tempfile.TemporaryFile() as archive:
            with tarfile.open(fileobj=archive, mode="w") as tar:
                for member, path in files.items():
                    tar.add(path, member, recursive=False)
            archive.seek(0)
            sent = subprocess.run(
                remote(cluster, first, 'tar -C "$1" -x', folder, user=USER),
                stdin=archive,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                check=False,
            )
        if sent.returncode:
            raise Failure(f"{first}: {last_words(sent.stderr)}")
        yield folder
    finally:
        output(remote(cluster, first, 'rm -rf "$1"', folder, user=USER))


def command_for(cluster: Cluster, node: str, folder: str, name: str, path: Path) -> list[str]:
    """Return the command that runs a program in its folder; compile it there first if it is C."""
    if name.endswith(".py"):
        # Either module ends all ranks when one of them fails; without it the others would wait forever. The second makes the workers of a
        # pool of all ranks but the first: MPICH on UCX cannot spawn any (MPIDI_UCX_get_local_upids), and who asks for them waits for ever.
        return ["python3", "-u", "-m", "mpi4py.futures" if pools(path) else "mpi4py", name]
    if name.endswith(".c"):
        binary = name.removesuffix(".c")
        ask(cluster, node, 'cd "$1" && shift && "$@"', folder, *COMPILE, "-o", binary, name, "-lm", user=USER, timeout=300)
        return [f"./{binary}"]
    return [f"./{name}"]


def mpi(
    cluster: Cluster, file: str, ranks: int = 0, per_node: int = 0, words: Sequence[str] = (), fetch: str = "", folder: str = ""
) -> int:
    """Run a program on the compute nodes, with the rack's hostfile, and return its exit code.

    It takes along what it imports or includes from its own folder, or all of `folder`, in which it is. What it leaves there on the first
    node is copied to the folder `fetch`, if that is given, before it is removed.
    """
    if folder:
        files, left = whole(file, folder)
    else:
        files = program(file)
        left = beside(files)
    ranks, nodes = places(slots(cluster, "mpi"), ranks, per_node)
    if fetch and not Path(fetch).is_dir():
        raise Refusal(f"--fetch {fetch}: there is no such folder.")
    if left:
        shown = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
        print(f"mpi: not copied: {shown}" + ("" if folder else "; --folder takes all of a folder"), file=sys.stderr, flush=True)
    deal = ["-ppn", str(per_node)] if per_node else []
    with job(cluster, nodes, files) as place:
        name, path = next(iter(files.items()))
        command = command_for(cluster, nodes[0], place, name, path)
        code = attended(cluster, nodes[0], place, ["mpiexec", *deal, "-n", str(ranks), *command, *words], user=USER)
        if fetch:
            bring(cluster, nodes[0], place, Path(fetch), [*files, *(word.removeprefix("./") for word in command[-1:])])
    return code


def bring(cluster: Cluster, node: str, folder: str, to: Path, without: Iterable[str]) -> None:
    """Copy what a program has left in its folder; `without` what was there before."""
    # By the standard input: a command line has no room for the names of a whole folder.
    names = "".join(f"./{name}\n" for name in without).encode()
    pack = 'tar -c -C "$1" --anchored --no-wildcards --exclude-from=- --no-anchored --exclude=__pycache__ .'
    with tempfile.TemporaryFile() as archive:
        packed = subprocess.run(remote(cluster, node, pack, folder, user=USER), stdout=archive, input=names, check=False)
        archive.seek(0)
        # Tar itself refuses to write outside of the folder; empty folders of the program are not worth their own.
        unpacked = subprocess.run(["tar", "-x", "-C", str(to), "--no-same-owner", "--no-overwrite-dir"], stdin=archive, check=False)
    if packed.returncode or unpacked.returncode:
        raise Failure(f"What the program left on {node} could not be copied to {to}.")


# --- The check


def check(cluster: Cluster, as_json: bool = False) -> None:
    """Measure every node and every pair of nodes, and say what is wrong; fail if something is."""
    members = list(slots(cluster, "mpi"))
    with job(cluster, members, {"mpi_check.py": ROOT / "beowulf" / "mpi_check.py"}) as folder:
        command = f'cd "$1" && mpiexec -ppn 1 -n {len(members)} python3 -m mpi4py mpi_check.py'
        found = json.loads(ask(cluster, members[0], command, folder, user=USER, timeout=1800))
    boards = {name: cluster.rack.nodes[name].board for name in members}
    found["problems"] = problems(found, boards)
    if sorted(found["nodes"]) != sorted(members):
        found["problems"].append(f"ranks ran on {', '.join(found['nodes'])} instead of on {', '.join(members)}")
    print(json.dumps(found, indent=1) if as_json else "\n".join(report(found)))
    if found["problems"]:
        raise Failure("" if as_json else "\n".join(["mpi.check: FAILED", *(f"  {problem}" for problem in found["problems"])]))


def problems(found: Mapping[str, Any], boards: Mapping[str, str]) -> list[str]:
    """Say what is wrong with what mpi_check.py measured. Boards are compared with those of their own kind."""
    result = []
    for title, unit, key, high_is_bad in (
        ("latency", "µs", "latency_us", True),
        ("bandwidth", "MB/s", "bandwidth_mb_s", False),
    ):
        values = found[key]
        bad = outliers(values, high_is_bad)
        if not bad:
            continue
        normal = middle(values.values(), high_is_bad)
        for node in blamed(bad, found["nodes"]):
            result.append(f"{title}: all that is bad has {node} in it: look at its cable and its port of the switch")
        result += [f"{title}: {pair.replace(' ', ' - ')} {values[pair]:.1f} {unit}, the median is {normal:.1f}" for pair in bad]
    for board in sorted(set(boards.values())):
        speed = {node: value for node, value in found["gflops"].items() if boards.get(node) == board}
        result += [
            f"speed: {node} {speed[node]:.2f} GFlop/s, the median of its kind is {middle(speed.values(), False):.2f}: "
            "look at its power supply and its temperature"
            for node in outliers(speed, False)
        ]
    if not found["allreduce"]["right"]:
        result.append("allreduce: the sum is wrong")
    return result


def blamed(pairs: Sequence[str], nodes: Sequence[str]) -> list[str]:
    """Return the node that all of several bad pairs have in common, if there is one."""
    common = set(nodes).intersection(*(pair.split() for pair in pairs))
    return sorted(common) if len(pairs) > 1 else []


def matrix(title: str, nodes: Sequence[str], values: Mapping[str, float], bad: Sequence[str]) -> list[str]:
    """Return the lines of a table of all pairs; an outlier has an exclamation mark."""
    width = max(9, *(len(node) + 2 for node in nodes))
    both = {frozenset(pair.split()): (value, "!" if pair in bad else " ") for pair, value in values.items()}
    lines = [f"{title:<18}" + "".join(f"{node:>{width}} " for node in nodes)]
    for row in nodes:
        cells = [both.get(frozenset((row, column))) for column in nodes]
        lines.append(f"{row:<18}" + "".join(f"{cell[0]:>{width}.1f}{cell[1]}" if cell else f"{'-':>{width}} " for cell in cells))
    return [line.rstrip() for line in lines]


def worst(values: Mapping[str, float], high_is_bad: bool) -> str:
    """Return the pair with the worst figure, and the figure; it need not be bad."""
    pair = (max if high_is_bad else min)(values, key=values.__getitem__)
    return f"{pair.replace(' ', ' - ')}, {values[pair]:.1f}"


def report(found: Mapping[str, Any]) -> list[str]:
    """Return what was measured as people read it."""
    nodes, latency, bandwidth = found["nodes"], found["latency_us"], found["bandwidth_mb_s"]
    lines = [*matrix("latency, µs", nodes, latency, outliers(latency, True)), ""]
    lines += [*matrix("bandwidth, MB/s", nodes, bandwidth, outliers(bandwidth, False)), ""]
    if latency:
        lines += [f"slowest way: {worst(latency, True)} µs", f"narrowest way: {worst(bandwidth, False)} MB/s", ""]
    lines += [f"{'speed, GFlop/s':<18}", *(f"{node:<18}{found['gflops'][node]:>9.2f}" for node in nodes), ""]
    total = found["allreduce"]
    lines.append(f"allreduce of 1 MiB: {'right' if total['right'] else 'WRONG'}, {total['ms']:.1f} ms")
    lines.append(f"! more than {FACTOR} times worse than the median, each time it was measured")
    return lines

"""The compute nodes: who compiles and computes for others loses its power in the middle of it, and strangers get nothing compiled."""

import base64
import contextlib
import json
import lzma
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from beowulf import build, compute
from beowulf.drill import drill
from beowulf.drill_lab import Lab
from beowulf.errors import Failure
from beowulf.figures import Figure
from beowulf.process import ROOT, environment, tool

PROJECT = "libtomcrypt"
"""A library of 408 C files, which a plain Makefile builds with nothing but a compiler, in half a minute of a PC's processor."""
FILES = 100
WORDS = ("libtomcrypt.a", "CC=gcc", "SOURCE_DATE_EPOCH=1")
"""What make is to do; one file says when it was compiled."""

# Prints the sources of $1 as Debian has them: as root, because the cache of packages is asked the way that apt asks it on this node.
SOURCES = """
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && chmod 755 "$folder" && cd "$folder" || exit
mkdir -p parts lists/partial archives/partial || exit
for file in /etc/apt/sources.list.d/*.sources; do
    if [ -e "$file" ]; then sed 's/^Types:.*/Types: deb-src/' "$file" >"parts/${file##*/}" || exit; fi
done
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    if [ -e "$file" ]; then sed -n 's/^deb\\([[:space:]]\\)/deb-src\\1/p' "$file" >>parts/lists.list || exit; fi
done
set -- "$1" -q -o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$folder/parts" -o "Dir::State::Lists=$folder/lists" \
    -o "Dir::Cache=$folder"
name=$1; shift
{ apt-get "$@" update && apt-get "$@" source --download-only "$name"; } >log 2>&1 || { tail -n 5 log >&2; exit 1; }
base64 -w 0 "$name"_*.orig.tar.xz
"""
CHECKSUMS = 'cd "$1" && find . -name "*.o" -exec sha256sum {} +'
ALONE = """
place=$1; shift
cd "$place" && find . -name "*.o" -delete && make --silent -j "$(nproc)" "$@" CC=/usr/bin/gcc >/dev/null || exit
"""

RANKS = """
import time
from mpi4py import MPI

world = MPI.COMM_WORLD
nodes = len(set(world.allgather(MPI.Get_processor_name())))
if world.rank == 0:
    print("computing on", nodes, "nodes", flush=True)
while True:
    world.allreduce(1)
    time.sleep(0.1)
"""


def mates(lab: Lab, function: str) -> tuple[str, str]:
    """Return the node on which a build or a job starts, and one that may die: the last one that does not hold the shared folder."""
    first, *others = compute.slots(lab.cluster, function)
    server = (lab.variables["rack_jobs_server"] or {}).get("name")
    if not (mortal := [name for name in others if name != server]):
        raise Failure(f"this drill needs a second node for {function}, and it may not be the server of the shared folder")
    return first, mortal[-1]


@contextlib.contextmanager
def operator(lab: Lab, task: str, *words: str) -> Iterator[subprocess.Popen]:
    """Run a task as a person does, while the body runs; what it says is in its `stdout`."""
    command = [tool("invoke"), f"--search-root={ROOT}", task, f"--cluster={lab.cluster.name}", *words]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def ended(child: subprocess.Popen, seconds: float) -> str:
    """Wait for the end of a task; return what it said. Raises Failure after so many seconds."""
    try:
        return child.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired as error:
        child.kill()
        raise Failure(f"after {seconds:.0f} s {child.args[2]} still runs: {child.communicate()[0].strip()[-500:]}") from error


def said(child: subprocess.Popen, words: str, seconds: float) -> None:
    """Wait until a task says something. Raises Failure when it ends before, or has not said it after so many seconds."""
    seen = []
    timer = threading.Timer(seconds, child.kill)
    timer.start()
    try:
        for line in child.stdout:
            seen.append(line)
            if words in line:
                return
    finally:
        timer.cancel()
    raise Failure(f"{child.args[2]} did not say {words!r}: {''.join(seen).strip()[-500:]}")


# Compiling


def sources(lab: Lab, client: str) -> Path:
    """Return the project's tree, which a node has fetched from the cluster's package cache, once for all runs."""
    folder = lab.cluster.state / "drill-source"
    if not folder.is_dir():
        packed = base64.b64decode(lab.run(client, f"set -- {PROJECT}{SOURCES}", limit=300))
        half = folder.with_suffix(".half")
        if half.exists():
            shutil.rmtree(half)
        half.mkdir()
        # Tar itself refuses to write outside of the folder.
        subprocess.run(["tar", "-x", "-C", str(half), "--no-same-owner"], input=lzma.decompress(packed), check=True)
        half.rename(folder)
    return next(path for path in folder.iterdir() if (path / "makefile").is_file())


def made(shown: str) -> dict[str, int]:
    """Return what a build's table says: {node, or where else: objects}."""
    _before, _head, table = shown.rpartition("objects\n")
    rows = [line.rsplit(maxsplit=1) for line in table.splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


@drill()
def kill_distcc_server(lab: Lab):
    """A library of 400 files is compiled by the compute nodes; in a second build one of the nodes loses its power in the middle"""
    client, victim = mates(lab, "distcc")
    tree = sources(lab, client)
    place = f"{build.PLACES}/{build.place_of(tree)}"
    log = compute.ask(lab.cluster, client, 'echo "$HOME/$1.log"', place)

    def objects() -> dict[str, str]:
        lines = compute.ask(lab.cluster, client, CHECKSUMS, place).splitlines()
        return {name: checksum for checksum, name in map(str.split, lines)}

    def forget() -> None:
        compute.ask(lab.cluster, client, 'rm -rf "$1" "$1.log" "$1.log.began"', place)

    def built_by(address: str) -> int:
        return int(lab.run(client, f"cat {shlex.quote(log)} 2>/dev/null | grep -c '^{address}[[:space:]]'", check=False) or 0)

    # The cache would answer for the compute nodes: this build does not ask it, and so does the next one.
    task = ("build", str(tree), "--", *WORDS, "CCACHE_RECACHE=1")
    forget()
    try:
        with operator(lab, *task) as child:
            began = time.monotonic()
            shown = ended(child, 600)
            usual = time.monotonic() - began
        if child.returncode:
            raise Failure(f"the build with all nodes ended with {child.returncode}: {shown.strip()[-500:]}")
        told, together = made(shown), objects()
        compute.ask(lab.cluster, client, ALONE, place, *WORDS, timeout=600)
        alone = objects()
        yield Figure("objects", len(alone), FILES, unit="", least=True)
        nodes = [name for name in compute.slots(lab.cluster, "distcc") if name != client]
        yield Figure("share made by other nodes", sum(told.get(name, 0) for name in nodes) / max(1, len(alone)), 0.9, unit="", least=True)
        yield Figure("made as a last resort", told.get(f"{client}, as a last resort", len(alone)), 0, unit="")
        yield Figure("objects that differ from those of one node alone", len(set(alone.items()) ^ set(together.items())), 0, unit="")
        yield Figure("build with all nodes", usual)

        forget()
        with operator(lab, *task) as child:
            lab.until(lambda: built_by(lab.address[victim]) >= 5, 120, f"{victim} compiles")
            lab.power_off(victim)
            began = time.monotonic()
            done = sum(built_by(lab.address[name]) for name in nodes)
            patience = int(compute.ask(lab.cluster, client, 'echo "$DISTCC_IO_TIMEOUT"'))
            shown = ended(child, 600)
            took = time.monotonic() - began
        if child.returncode:
            lab.say(f"  {shown.strip()[-500:]}")
        yield Figure("objects still to make when its power went", len(alone) - done, 50, unit="", least=True)
        yield Figure("build without it ended with", child.returncode, 0, unit="")
        yield Figure("objects missing or different", len(set(alone.items()) ^ set(objects().items())), 0, unit="")
        # Who waits for the dead node waits as long as a job may take; the others go on.
        yield Figure("build ended after", took, patience + 2 * usual + 10, loose=True)
    finally:
        if victim in lab.off:
            lab.power_on(victim)
        with contextlib.suppress(Failure):
            forget()


# Computing


@drill()
def lose_mpi_node(lab: Lab):
    """A node with ranks of a parallel program loses its power; the program ends and says which node it was"""
    _first, victim = mates(lab, "mpi")
    nodes = list(compute.slots(lab.cluster, "mpi"))
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "drill_ranks.py")
        program.write_text(RANKS, encoding="utf-8")
        try:
            with operator(lab, "mpi", str(program), "--per-node=1") as child:
                said(child, f"computing on {len(nodes)} nodes", 120)
                lab.power_off(victim)
                began = time.monotonic()
                shown = ended(child, 300)
                took = time.monotonic() - began
            yield Figure("error after", took, 60, loose=True)
            yield Figure("ended as if all were well", float(child.returncode == 0), 0, unit="")
            yield Figure("the lost node is named", float(victim in shown), 1, unit="", least=True)
            others = [name for name in nodes if name != victim]
            time.sleep(2)
            ranks = "grep --files-with-matches '[d]rill_ranks' /proc/[0-9]*/cmdline 2>/dev/null | wc -l"
            left = sum(int(lab.run(name, ranks)) for name in others)
            yield Figure("ranks left on the other nodes", left, 0, unit="")
        finally:
            if victim in lab.off:
                lab.power_on(victim)
    there = f"timeout 5 runuser -u {compute.USER} -- test -w {compute.JOBS} && echo there"
    lab.until(lambda: lab.run(victim, there, check=False) == "there", 60, f"{victim} is back")
    with operator(lab, "mpi", str(ROOT / "examples" / "pi.py"), "--per-node=1", "--", "efficient", "100000") as again:
        ended(again, 300)
    yield Figure("the next program ended with", again.returncode, 0, unit="")


# Runs a program of the job's folder with words, and with temporary files there, where all nodes see them.
IN_THE_SHARED_FOLDER = """
import os, runpy, sys

os.environ["TMPDIR"] = os.getcwd()
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""
CANNOT_SPAWN = ("-x", "test_spawn", "-x", "test_dynproc")
"""MPICH on UCX has no dynamic processes: MPI_Open_port itself ends in an error."""


def suite(lab: Lab) -> Path:
    """Return the source tree of the mpi4py that the role installs, by its checksum, once for all runs."""
    folder = lab.cluster.state / "drill-mpi4py"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=lab.cluster.state) as place:
            pinned = ROOT / "roles/mpi/files/mpi4py.txt"
            pip = [tool("python"), "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=mpi4py", "--require-hashes"]
            subprocess.run([*pip, f"--dest={place}", f"--requirement={pinned}"], check=True)
            archive = next(Path(place).glob("mpi4py-*.tar.gz"))
            subprocess.run(["tar", "-x", "-C", place, "-f", str(archive), "--no-same-owner"], check=True)
            tree = Path(place, archive.name.removesuffix(".tar.gz"))
            (tree / "in_the_shared_folder.py").write_text(IN_THE_SHARED_FOLDER, encoding="utf-8")
            tree.rename(folder)
    return folder


@drill()
def mpi_io(lab: Lab):
    """mpi4py's own tests on two nodes, and those of files on four, with their files in the shared folder"""
    tree = suite(lab)
    nodes = min(4, len(compute.slots(lab.cluster, "mpi")))
    for ranks, words, least in ((2, CANNOT_SPAWN, 2000), (nodes, ("-i", "test_io", "-i", "test_file"), 80)):
        program = (str(tree / "in_the_shared_folder.py"), f"--folder={tree}", f"-n={ranks}", "--per-node=1")
        with operator(lab, "mpi", *program, "--", "test/main.py", *words) as child:
            shown = ended(child, 3600)
        ran = re.findall(r"^Ran (\d+) tests", shown, re.MULTILINE)
        good = re.findall(r"^OK\b", shown, re.MULTILINE)
        if child.returncode or len(good) != ranks:
            lab.say(f"  {shown.strip()[-2000:]}")
        yield Figure(f"tests on each of {ranks} nodes", min(map(int, ran), default=0), least, unit="", least=True)
        yield Figure(f"ranks of {ranks} with an error", ranks - len(good), 0, unit="")
        yield Figure(f"ended with, on {ranks} nodes", child.returncode, 0, unit="")


@drill()
def data_sieving(lab: Lab):
    """Ranks write strided numbers into one file, and read, change and write back those of others, which the cluster's hints forbid"""
    program = base64.b64encode((ROOT / "tests" / "support" / "strided.py").read_bytes()).decode()
    path = f"/srv/jobs/strided-{uuid.uuid4().hex}"
    ranks = 2 * len(compute.slots(lab.cluster, "mpi"))
    python = ["python3", "-c", f"import base64; exec(base64.b64decode('{program}'))", path, "2000", "romio_ds_write=enable"]
    command = shlex.join(["sudo", "-iu", "mpi", "mpiexec", "-ppn", "2", "-n", str(ranks), *python])
    try:
        wrong = [one for _ in range(20) for one in json.loads(lab.run(lab.client, command, limit=120))]
    finally:
        lab.run(lab.client, f"rm -f {path}.*", check=False)
    for one in wrong:
        lab.say(f"  {json.dumps(one)}")
    yield Figure("rounds of 100 with lost writes", len(wrong), 0, unit="")


# Strangers


@drill()
def foreign_jobs(lab: Lab):
    """What is no compiler, what would make one run or write something else, and who is no compute node, gets nothing from distccd"""
    program = (ROOT / "tests" / "support" / "distcc_job.py").read_text(encoding="utf-8")
    outside = "192.0.2.1"  # of the documentation's network (RFC 5737)
    options = ("-wrapper /usr/bin/env", "-B/usr/bin", "@/dev/null", "-save-temps", "-dumpdir /tmp/", "-aux-info /tmp/x", "-fstack-usage")
    no_others = {name: address for name, address in lab.address.items() if name not in compute.slots(lab.cluster, "distcc")}
    answers = {}
    for node in compute.slots(lab.cluster, "distcc"):
        own = lab.address[node]

        def ask(compiler: str, source: str = own, words: str = "", node: str = node, own: str = own) -> str:
            return lab.run(node, shlex.join(["python3", "-c", program, own, "3632", source, compiler, *words.split()]))

        answers |= {(node, name): ask(name) for name in ("gcc", "sh", "/bin/sh", "/usr/lib/distcc/python3", "../../bin/sh")}
        answers |= {(node, words): ask("gcc", words=words) for words in options}
        lab.run(node, f"ip address add {outside}/32 dev lo")
        try:
            answers[node, outside] = ask("gcc", outside)
        finally:
            lab.run(node, f"ip address del {outside}/32 dev lo")
    # Others of the LAN cannot even connect; one node is enough to wait for.
    node = next(iter(compute.slots(lab.cluster, "distcc")))
    for name, address in no_others.items():
        words = ["python3", "-c", program, lab.address[node], "3632", address, "gcc"]
        answers[node, name] = lab.run(name, shlex.join(words))
    yield Figure(
        "taken", sum(answer not in ("nothing", "refused") for (_node, what), answer in answers.items() if what != "gcc"), 0, unit=""
    )
    idle = [node for (node, what), answer in answers.items() if what == "gcc" and answer != "object"]
    yield Figure("nodes whose compiler did not run", len(idle), 0, unit="")

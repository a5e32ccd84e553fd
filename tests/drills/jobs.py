"""The shared folder: its server and one of its clients lose their power, and nobody's files are lost."""

import shlex
import time

from beowulf.drill import drill
from beowulf.drill_lab import Lab
from beowulf.errors import Failure
from beowulf.figures import Figure

FOLDER = "/srv/jobs"
BACK = 30
"""Seconds after its power-on by which clients go on: a node boots (10), NFS waits for old locks (15), clients ask every few seconds (5)."""

# Appends a number to a file that stays open, ten times a second, each safe on the server before the next; a number that fails is told.
WRITER = """
import os, sys, time
with open(sys.argv[1], "wb", buffering=0) as file, open(sys.argv[2], "w", buffering=1) as diary:
    for number in range(int(sys.argv[3])):
        asked = time.time()
        try:
            file.write(b"%d\\n" % number)
            os.fsync(file.fileno())
            diary.write(f"{number} {time.time() - asked:.3f}\\n")
        except OSError as error:
            diary.write(f"{number} - {error.strerror}\\n")
        time.sleep(0.1)
"""


def mates(lab: Lab) -> tuple[str, str, str]:
    """Return the server and two clients."""
    server = (lab.variables["rack_jobs_server"] or {}).get("name")
    clients = [one["name"] for one in lab.variables["rack_jobs_nodes"] if one["name"] != server]
    if not server or len(clients) < 2:
        raise Failure("the drills of the shared folder need a server and two clients")
    return server, clients[0], clients[1]


def as_user(lab: Lab, node: str, command: str, limit: int = 20) -> str:
    """Run a command as the folder's user, for at most so many seconds."""
    return lab.run(node, f"timeout {limit} runuser -u mpi -- sh -c {shlex.quote(command)}", limit=limit + 10)


@drill(quick=True)
def power_off_jobs_server(lab: Lab):
    """The node that holds the shared folder loses its power while a client writes; it comes back, and the client goes on"""
    server, writer, reader = mates(lab)
    name, diary, unit = f"{FOLDER}/drill", "/tmp/drill-jobs", "drill-jobs"
    as_user(lab, writer, f"echo before > {name}.before; sync -f {name}.before")
    lab.run(writer, f"systemd-run --quiet --collect --unit={unit} --uid=mpi python3 -c {shlex.quote(WRITER)} {name} {diary} 2000")
    try:
        time.sleep(3)
        lab.power_off(server)
        time.sleep(15)
        # Nobody who does not use the folder waits for it.
        began = time.monotonic()
        lab.run(writer, "runuser -u mpi -- bash -lc true")
        login = time.monotonic() - began
        before = int(lab.run(writer, f"wc -l < {diary}"))
        began = time.monotonic()
        lab.power_on(server)
        lab.until(lambda: int(lab.run(writer, f"wc -l < {diary}")) > before + 5, 60, f"{writer} writes again")
        back = time.monotonic() - began
        lab.until(lambda: as_user(lab, reader, f"cat {name}.before", 5) == "before", 60, f"{reader} reads again")
        read = time.monotonic() - began
    finally:
        lab.run(writer, f"systemctl stop {unit}", check=False)
    entries = [line.split(" ", 2) for line in lab.run(writer, f"cat {diary}; rm {diary}").splitlines()]
    # A write that was told as failed leaves its place empty when the next one succeeds, as POSIX has it: zeros in front of a number.
    kept = set(as_user(lab, reader, f"tr '\\0' '\\n' < {name}").split())
    as_user(lab, reader, f"rm {name} {name}.before")
    yield Figure("client writes again after", back, BACK, loose=True)
    yield Figure("another reads again after", read, BACK, loose=True)
    yield Figure("login while it is away", login, 2, loose=True)
    yield Figure("acknowledged writes lost", sum(number not in kept for number, *rest in entries if rest[0] != "-"), 0, unit="")
    yield Figure("writes that ended in an error", sum(rest[0] == "-" for _number, *rest in entries), 1, unit="")


@drill()
def power_off_jobs_client(lab: Lab):
    """A client with a locked file loses its power; the others work on, its lock ends, and it finds the folder when it is back"""
    _server, victim, mate = mates(lab)
    name, unit = f"{FOLDER}/drill", "drill-jobs"
    lock = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX{}); time.sleep({})"
    as_user(lab, victim, f"echo before > {name}")
    take = f"python3 -c {shlex.quote(lock.format('', 600))} {name}.lock"
    lab.run(victim, f"systemd-run --quiet --collect --unit={unit} --uid=mpi {take}")
    attempt = f"python3 -c {shlex.quote(lock.format(' | fcntl.LOCK_NB', 0))} {name}.lock 2>/dev/null && echo free || echo taken"
    lab.until(lambda: as_user(lab, mate, attempt) == "taken", 20, f"{victim} has its lock")
    lab.power_off(victim)
    began = time.monotonic()
    as_user(lab, mate, f"echo after >> {name}")
    wrote = time.monotonic() - began
    lab.until(lambda: as_user(lab, mate, attempt) == "free", 90, f"the lock of {victim} ends")
    freed = time.monotonic() - began
    began = time.monotonic()
    lab.power_on(victim)
    lab.until(lambda: as_user(lab, victim, f"cat {name}", 5).split() == ["before", "after"], 60, f"{victim} finds the folder")
    back = time.monotonic() - began
    as_user(lab, mate, f"rm {name} {name}.lock")
    yield Figure("another writes meanwhile", wrote, 2, loose=True)
    yield Figure("lock of the dead client ends after", freed, 60, loose=True)
    yield Figure("client finds the folder after", back, BACK, loose=True)


RANKS = 20999
"""A port that is open to the ranks of jobs (mpi_port_last)."""
# Listens there, so that only a rule can keep somebody out.
LISTEN = """
import socket, time
with socket.create_server(({address!r}, {port})):
    time.sleep(300)
"""
KNOCK = """
import json, socket
try:
    socket.create_connection(({address!r}, {port}), 3, ({source!r}, 0)).close()
    print(json.dumps(True))
except OSError:
    print(json.dumps(False))
"""


@drill()
def take_dead_address(lab: Lab):
    """A compute node is off, and a machine that is none of it takes its address: the compute nodes let it in nowhere"""
    server, victim, mate = mates(lab)
    thief = lab.pair[0]
    address, unit = lab.address[victim], "drill-listen"
    listen = shlex.quote(LISTEN.format(address=lab.address[mate], port=RANKS))
    lab.run(mate, f"systemd-run --quiet --collect --unit={unit} python3 -c {listen}")
    doors = [(server, 24010), (server, 2049), (mate, RANKS)]

    def let_in(node: str, source: str) -> list[str]:
        knocks = [(name, door, KNOCK.format(address=lab.address[name], port=door, source=source)) for name, door in doors]
        return [f"{name}:{door}" for name, door, program in knocks if lab.python(node, program)]

    try:
        lab.until(lambda: f"{mate}:{RANKS}" in let_in(victim, address), 20, f"{mate} listens")
        before = let_in(victim, address)
        lab.power_off(victim)
        leg = lab.interface(thief)
        lab.run(thief, f"ip address add {address}/32 dev {leg}")
        try:
            # It asks anew who they are, and they learn who has the address now.
            lab.run(thief, f"ip neighbour flush dev {leg}")
            taken = let_in(thief, address)
        finally:
            lab.run(thief, f"ip address del {address}/32 dev {leg}")
    finally:
        lab.run(mate, f"systemctl stop {unit}", check=False)
        if victim in lab.off:
            lab.power_on(victim)
    yield Figure("doors that are open to the node itself", len(before), 2, unit="", least=True)
    yield Figure("doors that are open to who has its address", len(taken), 0, unit="")

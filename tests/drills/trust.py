"""Who may come in: what is revoked stays so, two controllers keep out of each other's way, and keys change without a refusal."""

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from beowulf import lock, playbook
from beowulf.drill import drill
from beowulf.drill_lab import Lab, unnoticed
from beowulf.errors import Failure
from beowulf.figures import INFINITE, Figure
from beowulf.pki import certificates, identity
from beowulf.process import ROOT, environment, output, tool

AUTHORITY = "/var/lib/cluster-ca"
KILLED_AFTER = 20
"""Seconds after which a rotation is killed: it takes longer, on any machine."""
KEA_TLS = "/etc/kea/tls"
RESTART = 30
"""Seconds until a DHCP server that was started anew serves beside the other one, and the other one knows."""


def task(lab: Lab, *words: str) -> list[str]:
    """Return the command of a task on this machine."""
    return [tool("invoke"), f"--search-root={ROOT}", *words, "--cluster", lab.cluster.name]


def done(lab: Lab, *words: str) -> None:
    """Run a task on this machine. Raises Failure when it fails."""
    result = output(task(lab, *words), timeout=900)
    if result.returncode:
        raise Failure(f"{' '.join(words)} ended with {result.returncode}: {(result.stderr or result.stdout).strip()[-500:]}")


def on_deployer(lab: Lab, command: str) -> list[str]:
    """Return the command that runs another one on the deployer as its user does, in the project's folder."""
    return lab.ssh(lab.variables["rack_deployer"]["name"], ["bash", "-lc", f"cd /srv/beowulf && exec {command}"])


@contextlib.contextmanager
def signed(lab: Lab, name: str) -> Iterator[Path]:
    """Sign this controller's key for another name; the certificate is gone afterwards."""
    place = lab.cluster.state / "drill-cert.pub"
    key = identity.own_key(lab.cluster)
    certificates.sign(lab.cluster, key.with_name(f"{key.name}.pub"), name, 2, [str(lab.variables["rack_ssh_user"])], place)
    try:
        yield place
    finally:
        place.unlink(missing_ok=True)


def holder(lab: Lab) -> dict[str, str]:
    """Return who holds the cluster's lock, as it says; nothing while it is free."""
    path = lock.FILE.format(cluster=lab.cluster.rack.cluster, user=lab.variables["rack_ssh_user"])
    return json.loads(lab.run(lab.variables["rack_deployer"]["name"], f"cat {path}", check=False) or "{}")


@drill()
def revoked_on_rebuilt_node(lab: Lab):
    """A certificate is revoked, and a node is made anew under its name; the node refuses it from the first minute on"""
    node = [name for name, one in lab.cluster.rack.nodes.items() if one.type == "compute"][-1]
    name = f"drill-{uuid.uuid4().hex[:12]}"
    with signed(lab, name) as certificate:
        yield Figure("admitted before", float(lab.admits(node, certificate)), 1, unit="", least=True)
        done(lab, "ca.revoke", name)
        lab.podman("rm", "--force", "--time=0", "--volumes", lab.cluster.container(node))
        lab.hang_up(node)
        began = time.monotonic()
        # With the deployer, which keeps the host keys of all.
        limit = f"--limit={node},{lab.variables['rack_deployer']['name']}"
        for command in (playbook.command(lab.cluster, "lab"), playbook.command(lab.cluster, "site", options=[limit])):
            code, _summary = lab.play(command)
            if code:
                raise Failure(f"the node was not made anew ({code})")
        yield Figure("made anew after", time.monotonic() - began, 240, loose=True)
        yield Figure("admitted on the new node", float(lab.admits(node, certificate)), 0, unit="")
        yield Figure("good ones refused there", float(not lab.admits(node, identity.own_certificate(lab.cluster))), 0, unit="")


@drill()
def two_controllers(lab: Lab):
    """The deployer changes the cluster, and the admin deploys; the admin is told at once who it is, and since when"""
    deployer = lab.variables["rack_deployer"]["name"]
    first = subprocess.Popen(
        on_deployer(lab, "invoke ca.renew"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    try:
        lab.until(lambda: holder(lab), 60, f"{deployer} holds the lock")
        who = holder(lab)
        began = time.monotonic()
        second = output(task(lab, "deploy"), timeout=60)
        took = time.monotonic() - began
        code = first.wait(timeout=600)
    finally:
        if first.poll() is None:
            first.kill()
            first.wait()
    told = f"{who['user']}@{who['host']} runs ca.renew since {who['since']}" in second.stderr
    yield Figure("refused after", took, 2, loose=True)
    yield Figure("refused with 2, told who and since when", float(second.returncode == 2 and told), 1, unit="", least=True)
    yield Figure("the first one was disturbed", float(code != 0), 0, unit="")


@drill()
def other_controller(lab: Lab):
    """The deployer deploys what the admin deployed last, and finds nothing to change"""
    result = output(on_deployer(lab, "invoke deploy"), timeout=900)
    told = re.search(r"(\d+) changed$", result.stdout + result.stderr, re.MULTILINE)
    if result.returncode or not told:
        raise Failure(f"the deploy from the deployer ended with {result.returncode}: {result.stdout.strip()[-500:]}")
    yield Figure("changed by the deployer", float(told[1]), 0, unit="")


def generations(lab: Lab) -> dict[str, int]:
    """Return which keys of the authority are good, and which sign."""
    return json.loads(lab.run(lab.variables["rack_deployer"]["name"], f"cat {AUTHORITY}/ssh/generations.json"))


def unreached(lab: Lab) -> int:
    """Count the nodes that the controller on the deployer does not reach."""
    result = output(on_deployer(lab, "ansible all -m ansible.builtin.ping -o"), timeout=120)
    return len(lab.address) - result.stdout.count("SUCCESS")


def refusals(lab: Lab, certificate: Path, child: subprocess.Popen) -> int:
    """Try all nodes in turn with a certificate until a program ends; return how often one was refused."""
    count = 0
    while child.poll() is None:
        for node in lab.address:
            count += not lab.admits(node, certificate)
        time.sleep(1)
    return count


def served(lab: Lab, client: str, address: str, port: int, proof: str = "") -> set[str]:
    """Return the serial numbers of the chain that a server shows."""
    ask = f"openssl s_client -showcerts {proof} -connect {address}:{port} </dev/null 2>/dev/null"
    text = lab.run(client, f"f=$(mktemp); {ask} >$f || :; openssl storeutl -noout -text -certs $f; rm $f")
    lines = [line.strip() for line in text.splitlines()]
    return {f"{line} {lines[number + 1]}" for number, line in enumerate(lines) if line.startswith("Serial Number:")}


def shown(lab: Lab) -> dict[str, set[str]]:
    """Return the serial numbers of the chains that all servers show."""
    deployer, certificate = lab.variables["rack_deployer"]["name"], f"{KEA_TLS}/node.crt"
    proof = f"-cert {certificate} -cert_chain {certificate} -key {KEA_TLS}/node.key"
    answers = {node: served(lab, lab.peer(node), lab.address[node], 8001, proof) for node in lab.pair}
    return answers | {deployer: served(lab, lab.pair[0], lab.address[deployer], 443)}


@contextlib.contextmanager
def asking(ask: Callable[[], str], every: float) -> Iterator[list[tuple[float, str]]]:
    """Ask again and again while the body runs; the answers are in the list, each with its time."""
    answers: list[tuple[float, str]] = []
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(every):
            answers.append((time.monotonic(), ask()))

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield answers
    finally:
        done.set()
        thread.join()


def longest(answers: list[tuple[float, str]], good: Collection[str]) -> float:
    """Return for how many seconds at most no answer was a good one; infinite when the last one was not."""
    since, most = None, 0.0
    for when, answer in answers:
        if answer in good:
            most, since = max(most, when - since if since is not None else 0.0), None
        elif since is None:
            since = when
    return INFINITE if since is not None or not answers else most


def in_pem(text: str) -> frozenset[str]:
    """Return the certificates in a file of them."""
    return frozenset(re.findall(r"-----BEGIN CERTIFICATE-----\n.*?-----END CERTIFICATE-----", text, re.DOTALL))


def belief(lab: Lab, roots: Path) -> str:
    """Ask ARA's server for its certificate, as one who has this file of roots: `believed`, `not believed`, or `silent`."""
    address = lab.variables["rack_deployer"]["address"]
    try:
        context = ssl.create_default_context(cafile=roots)
        with socket.create_connection((address, 443), timeout=5) as plain, context.wrap_socket(plain, server_hostname=address):
            return "believed"
    except ssl.SSLCertVerificationError:
        return "not believed"
    except OSError:
        return "silent"


def pair_state(lab: Lab, node: str) -> str:
    """Return the state of a DHCP server in its pair, or that it does not hear the other one, or does not answer."""
    try:
        servers = lab.kea(node, "status-get")["arguments"]["high-availability"][0]["ha-servers"]
        return "interrupted" if servers["remote"].get("communication-interrupted") else servers["local"]["state"]
    except (Failure, LookupError, ValueError):
        return "silent"


def heard(lab: Lab, node: str, certificate: str) -> bool:
    """Say whether the other DHCP server answers one that shows a certificate for the key of this node."""
    question = '{"command": "ha-heartbeat"}'
    ask = f"POST / HTTP/1.0\\r\\nContent-Type: application/json\\r\\nContent-Length: {len(question)}\\r\\n\\r\\n{question}"
    proof = f"-cert {certificate} -cert_chain {certificate} -key {KEA_TLS}/node.key"
    client = f"openssl s_client -quiet -CAfile {KEA_TLS}/root.crt {proof} -connect {lab.address[lab.peer(node)]}:8001"
    return '"result": 0' in lab.run(node, f"(printf '{ask}'; sleep 1) | timeout 10 {client} 2>&1", check=False)


def complaints(lab: Lab, since: dict[str, str]) -> int:
    """Count how often a DHCP server did not believe the other one, or was not believed."""
    words = "certificate verify failed|unknown ca|unknown_ca"
    question = "journalctl --no-pager --quiet --unit=kea-dhcp4-server --since=@{} | grep --ignore-case --count --extended-regexp '{}' || :"
    return sum(int(lab.run(node, question.format(since[node], words))) for node in lab.pair)


@contextlib.contextmanager
def watching_tls(lab: Lab) -> Iterator[list[Figure]]:
    """Watch those who use TLS while the body runs, and a client; what is to be said of it is in the list afterwards."""
    known, figures = lab.cluster.state / "ca" / "root.crt", []
    since = {node: lab.run(node, "date +%s") for node in lab.pair}
    with contextlib.ExitStack() as stack:
        watch = stack.enter_context(lab.watching(lab.looks_up(), lab.leases()))
        ara = stack.enter_context(asking(lambda: belief(lab, known), 0.5))
        pair = {node: stack.enter_context(asking(lambda node=node: pair_state(lab, node), 1)) for node in lab.pair}
        yield figures
        lab.until_healthy()
        time.sleep(3)
    words = [answer for _when, answer in ara]
    figures += [
        Figure("answers of ARA", words.count("believed"), 1, unit="", least=True),
        Figure("answers of ARA that were not believed", words.count("not believed"), 0, unit=""),
        Figure("longest time without ARA", longest(ara, {"believed"}), 10, loose=True),
        Figure("DHCP servers that did not believe the other one", complaints(lab, since), 0, unit=""),
        Figure("longest time without the pair", max(longest(each, {"hot-standby"}) for each in pair.values()), RESTART, loose=True),
        Figure("failed lookups", watch.failed("lookups"), 0, unit=""),
        Figure("longest wait for a new lease", watch.longest("leases"), 30, loose=True),
    ]


@contextlib.contextmanager
def old_tls(lab: Lab) -> Iterator[list[Figure]]:
    """Keep what the authority of TLS is and signed now; what it is worth after the body is in the list."""
    deployer, node, kept, figures = lab.variables["rack_deployer"]["name"], lab.pair[0], "/run/drill-node.crt", []
    root, old_root = lab.cluster.state / "ca" / "root.crt", lab.cluster.state / "drill-root.crt"
    places = [(deployer, f"/srv/beowulf/.beowulf/{lab.cluster.rack.cluster}/ca/root.crt"), (deployer, "/etc/ssl/cluster/root.crt")]
    places += [(one, f"{KEA_TLS}/root.crt") for one in lab.pair]
    old_root.write_bytes(root.read_bytes())
    try:
        lab.run(node, f"cp {KEA_TLS}/node.crt {kept}")
        before = shown(lab)
        yield figures
        now, newest = shown(lab), generations(lab)["newest"]
        old = in_pem(old_root.read_text(encoding="ascii"))
        copies = {in_pem(text) for text in (root.read_text(encoding="ascii"), *(lab.run(one, f"cat {path}") for one, path in places))}
        keys = lab.run(deployer, f"find {AUTHORITY}/tls -type f -name '*.key' -printf '%f\\n'").splitlines()
        figures += [
            Figure("files of roots that are not the same", len(copies) - 1, 0, unit=""),
            Figure("roots in a file", max(len(copy) for copy in copies), 1, unit=""),
            Figure("files with an old root", sum(bool(copy & old) for copy in copies), 0, unit=""),
            Figure("keys of TLS but the new ones", len(set(keys) ^ {f"root.{newest}.key", f"intermediate.{newest}.key"}), 0, unit=""),
            Figure("servers that show a part of the old chain", sum(bool(now[one] & before[one]) for one in now), 0, unit=""),
            Figure("servers that show no chain of two", sum(len(now[one]) != 2 for one in now), 0, unit=""),
            Figure("ARA is not refused by who has the old root", float(belief(lab, old_root) != "not believed"), 0, unit=""),
            Figure("the new certificate is heard by a DHCP server", float(heard(lab, node, f"{KEA_TLS}/node.crt")), 1, unit="", least=True),
            Figure("an old certificate is heard by a DHCP server", float(heard(lab, node, kept)), 0, unit=""),
        ]
    finally:
        old_root.unlink(missing_ok=True)
        lab.run(node, f"rm -f {kept}")


@drill()
def rotate_authority(lab: Lab):
    """The authority gets new keys: with a node away, killed half-way, repeated; nobody is refused until the old ones are dropped"""
    away = [name for name, one in lab.cluster.rack.nodes.items() if one.type == "compute"][-1]
    before = generations(lab)
    lab.power_off(away)
    result = output(task(lab, "ca.rotate"), timeout=60)
    lab.power_on(away)
    lab.until_healthy()
    named = result.returncode == 2 and f"\n  {away}: " in result.stderr
    yield Figure("refused with 2 and the node's name while a node is away", float(named), 1, unit="", least=True)
    yield Figure("keys changed by that", float(generations(lab) != before), 0, unit="")
    with signed(lab, "drill") as certificate, old_tls(lab) as after, watching_tls(lab) as figures:
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment()}
        child = subprocess.Popen(task(lab, "ca.rotate"), start_new_session=True, **quiet)
        time.sleep(KILLED_AFTER)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        lab.until(lambda: not holder(lab), 10, "the lock of the one that was killed is free")
        child = subprocess.Popen(task(lab, "ca.rotate"), **quiet)
        count = refusals(lab, certificate, child)
        yield Figure("a killed rotation goes on", float(child.returncode == 0), 1, unit="", least=True)
        yield Figure("refusals on the way", count, 0, unit="")
        now = generations(lab)
        made = now == {"oldest": before["oldest"], "signs": before["newest"] + 1, "newest": before["newest"] + 1}
        yield Figure("new keys sign, one pair of them", float(made), 1, unit="", least=True)
        yield Figure("nodes that the other controller does not reach", unreached(lab), 0, unit="")
        done(lab, "ca.rotate", "--finish")
        good = identity.own_certificate(lab.cluster)
        yield Figure("nodes that refuse the new certificate", sum(not lab.admits(node, good) for node in lab.address), 0, unit="")
        yield Figure("nodes that admit an old one", sum(lab.admits(node, certificate) for node in lab.address), 0, unit="")
    yield from (*figures, *after)
    yield Figure("nodes that the other controller does not reach in the end", unreached(lab), 0, unit="")
    members = len(lab.cluster.group("mpi"))
    ranks = lab.run(lab.client, f"sudo -iu mpi mpiexec -ppn 1 -n {members} hostname | sort -u | wc -l")
    yield Figure("compute nodes without a rank", members - int(ranks), 0, unit="")


@drill()
def renew_tls(lab: Lab):
    """The certificates of TLS and their intermediate are past half of their life; the daily run renews them, and the servers show it"""
    deployer = lab.variables["rack_deployer"]["name"]
    kept = {deployer: [f"{AUTHORITY}/tls/intermediate.crt", "/etc/ssl/cluster/node.crt"]} | {
        node: [f"{KEA_TLS}/node.crt"] for node in lab.pair
    }
    # And what the authority remembers of them.
    kept[deployer] += [f"{AUTHORITY}/tls/issued/{node}.crt" for node in (deployer, *lab.pair)]
    before = shown(lab)
    for node, paths in kept.items():
        lab.run(node, " && ".join(f"cp -p {path} {path}.drill" for path in paths))
    try:
        # As if they had been signed for so long that they are old already.
        with lab.watching(lab.looks_up(), lab.leases()) as watch:
            code, _summary = lab.play(
                playbook.command(lab.cluster, "ca_renew", options=["--extra-vars={ca_intermediate_days: 3000, tls_days: 400}"])
            )
            time.sleep(2)
        after = shown(lab)
    finally:
        for node, paths in kept.items():
            lab.run(node, " && ".join(f"cp {path}.drill {path} && rm {path}.drill" for path in paths))
        again, _summary = lab.play(playbook.command(lab.cluster, "ca_renew"))
    yield Figure("runs that failed", float(bool(code)) + float(bool(again)), 0, unit="")
    yield Figure("servers that show a part of the old chain", sum(bool(before[node] & after[node]) for node in kept), 0, unit="")
    yield Figure("servers that show no chain of two", sum(len(after[node]) != 2 for node in kept), 0, unit="")
    # What was put back is older than what is in use: the servers have noticed it all the same.
    yield Figure("servers that do not use what was put back", sum(shown(lab)[node] != before[node] for node in kept), 0, unit="")
    yield Figure("failed lookups", watch.failed("lookups"), 0, unit="")
    yield Figure("longest wait for a new lease", watch.longest("leases"), 30, loose=True)


@drill()
def link_in_home(lab: Lab):
    """The user of MPI puts a link to a folder of root's in the place of .ssh, and a deploy follows it nowhere"""
    node, target = lab.client, "/var/tmp/drill-target"
    look = f"stat -c '%U %G %a %Z' {target}; find {target} -mindepth 1 -printf '%p %U %G %m\n'"
    plant = f"test ! -e ~/.ssh || mv ~/.ssh ~/.ssh.drill; ln -s {target} ~/.ssh"
    lab.run(node, f"install -d -m 0755 {target}; touch {target}/authorized_keys {target}/id_ed25519.pub")
    try:
        lab.run(node, f"sudo -u mpi -H sh -c {shlex.quote(plant)}")
        before = lab.run(node, look)
        code, _summary = lab.play(playbook.command(lab.cluster, "site", options=[f"--limit={node}", "--tags=cluster_ssh,ca,sshd"]))
        yield Figure("runs that failed", float(bool(code)), 0, unit="")
        yield Figure("the folder of root's is as before", float(lab.run(node, look) == before), 1, unit="", least=True)
    finally:
        lab.run(node, "sudo -u mpi -H sh -c 'rm -f ~/.ssh; test ! -e ~/.ssh.drill || mv ~/.ssh.drill ~/.ssh'")
        lab.run(node, f"rm -r {target}")


@drill()
def bad_keys_of_a_node(lab: Lab):
    """A node's keys are damaged, or another's: it is left out and named, all others are renewed, and nobody waits"""
    node = [name for name, one in lab.cluster.rack.nodes.items() if one.type == "compute"][-1]
    folder = "/etc/ssh/cluster/users/mpi"
    kept = f"{folder}/id_ed25519.drill"
    renewed = {name: lab.run(name, "stat -c %Y /etc/ssh/cluster/renewed") for name in lab.address}
    lab.run(node, f"mv {folder}/id_ed25519 {kept}")
    try:
        for what, plant in (
            ("a FIFO", f"mkfifo {folder}/id_ed25519"),
            ("what never ends", f"ln -s /dev/zero {folder}/id_ed25519"),
            ("a gigabyte", f"truncate -s 1G {folder}/id_ed25519"),
            ("a host key", f"cp /etc/ssh/ssh_host_ed25519_key {folder}/id_ed25519"),
        ):
            lab.run(node, plant)
            began = time.monotonic()
            result = output(task(lab, "ca.renew"), timeout=300)
            took = time.monotonic() - began
            lab.run(node, f"rm {folder}/id_ed25519")
            named = result.returncode == 1 and f"  {node} failed in " in result.stderr and f"mpi@{node}: the " in result.stderr
            yield Figure(f"{what}: ended with 1 and the node's name", float(named), 1, unit="", least=True)
            yield Figure(f"{what}: took", took, 240, loose=True)
            now = {name: lab.run(name, "stat -c %Y /etc/ssh/cluster/renewed") for name in lab.address}
            left = {name for name in lab.address if now[name] == renewed[name]}
            yield Figure(f"{what}: others that were left out", float(len(left - {node})) + float(node not in left), 0, unit="")
            renewed = now
    finally:
        lab.run(node, f"rm -f {folder}/id_ed25519; mv {kept} {folder}/id_ed25519")
    done(lab, "ca.renew")


NAMED_LEASE = """
import json
with Conversation({interface!r}, b"\\x02\\x00\\x5ekey") as client:
    offer = next(client.discover(10))
    server = (SERVER_ID, offer["options"][SERVER_ID])
    client.send(REQUEST, [(REQUESTED_ADDRESS, socket.inet_aton(offer["address"])), server, (HOSTNAME, b"rolled")])
    ack = next(client.replies({{ACK}}, 5))
    if {release}:
        client.release(ack)
print(json.dumps(ack["address"]))
"""


@drill()
def stolen_keys_of_names(lab: Lab):
    """The keys that a stolen LAN server changes and transfers zones with are replaced; they are refused, and nobody else notices"""
    first, dynamic = lab.variables["rack_dns_primary"]["name"], lab.variables["rack_dyn_domain"]
    stolen = {name: lab.run(first, f"cat /etc/bind/{name}.key") for name in ("transfer", "update")}
    place = lab.run(lab.client, "mktemp -d")

    def let_in() -> int:
        """Count the servers that transfer to the thief, and the changes that the thief may make."""
        update = f"server {lab.address[first]}\\nzone {dynamic}\\nupdate add thief.{dynamic} 60 A 192.0.2.9\\nsend\\n"
        undo = update.replace("add", "delete")
        asks = [f"dig +time=2 +tries=1 -k {place}/transfer.key @{lab.address[node]} {zone} AXFR | grep -q SOA"
                for node in lab.pair for zone in (lab.domain, dynamic)]  # fmt: skip
        asks.append(f"printf '{update}' | nsupdate -t 3 -k {place}/update.key && printf '{undo}' | nsupdate -t 3 -k {place}/update.key")
        return sum(lab.run(lab.client, f"({ask}) >/dev/null 2>&1 && echo yes || :") == "yes" for ask in asks)

    try:
        for name, text in stolen.items():
            lab.run(lab.client, f"umask 077; printf %s {shlex.quote(text)} >{place}/{name}.key")
        before = let_in()
        with lab.watching(lab.asks_vip(), lab.looks_up()) as watch:
            code, _summary = lab.play(playbook.command(lab.cluster, "tsig_renew"))
            time.sleep(2)
        after = let_in()
    finally:
        lab.run(lab.client, f"rm -r {place}")
    keys = {node: lab.run(node, "sha256sum /etc/bind/transfer.key /etc/bind/update.key") for node in lab.pair}
    interface = lab.interface(lab.client)
    lab.python(lab.client, NAMED_LEASE.format(interface=interface, release=False))
    try:
        told = [f"dig +short +time=1 +tries=1 @{lab.address[node]} rolled.{dynamic}" for node in lab.pair]
        came = lab.until(lambda: all(lab.run(lab.client, ask) for ask in told), 20, "a new machine has its name on both servers")
    finally:
        lab.python(lab.client, NAMED_LEASE.format(interface=interface, release=True))
    yield Figure("what the stolen keys opened before", before, 5, unit="", least=True)
    yield Figure("runs that failed", float(bool(code)), 0, unit="")
    yield Figure("what the stolen keys open after", after, 0, unit="")
    yield Figure("servers with keys of their own", len(set(keys.values())) - 1, 0, unit="")
    yield Figure("name of a new machine on both servers after", came, 10, loose=True)
    yield from unnoticed(watch)


def kept_out(lab: Lab, principals: dict[str, list[str]]) -> Iterator[Figure]:
    """Deploy a list of users and their principals that would keep the controller out of a node, and look whether it changed anything."""
    node = lab.client
    rules = "find /etc/ssh/sshd_config.d /etc/ssh/cluster -type f ! -name renewed -printf '%p %m %U\\n' -exec sha256sum {} + | sort"
    before = lab.run(node, rules)
    options = [f"--limit={node}", "--tags=sshd", f"--extra-vars={json.dumps({'sshd_principals': principals})}"]
    code, _summary = lab.play(playbook.command(lab.cluster, "site", options=options))
    lab.run(node, "rm -f /etc/ssh/cluster/principals/nobody-of-ours")
    yield Figure("the deploy says that it failed", float(code != 0), 1, unit="", least=True)
    yield Figure("rules and files as before", float(lab.run(node, rules) == before), 1, unit="", least=True)
    # Who failed too often is kept out for a while (PerSourcePenalties).
    yield Figure("let in after", lab.until(lambda: lab.admits(node, identity.own_certificate(lab.cluster)), 60, "let in"), 60, loose=True)


@drill()
def locked_out_of_ssh(lab: Lab):
    """New rules of the SSH server would lock the controller out of a node; it gets its old ones back in the same run"""
    yield from kept_out(lab, {"nobody-of-ours": ["none"]})


@drill()
def locked_out_by_principals(lab: Lab):
    """A new list of principals, which is asked for at each login, would lock the controller out; the old one is back in the same run"""
    yield from kept_out(lab, {lab.variables["rack_ssh_user"]: ["none"]})


@drill()
def rules_stay_when_a_check_fails(lab: Lab):
    """A node's clock was wrong and the check of its door fails: the rules that are in use stay, and no password is asked for"""
    node = lab.client
    rules = "cat /etc/ssh/sshd_config.d/10-cluster.conf; sshd -T | grep -iE '^(passwordauth|authorizedkeys|authenticationm|trustedu)'"
    before = lab.run(node, rules)
    lab.run(node, "touch -d 2025-01-01 /run/sshd.pid")
    options = [f"--limit={node}", "--tags=sshd", "--extra-vars=sshd_check_command=false"]
    code, _summary = lab.play(playbook.command(lab.cluster, "site", options=options))
    yield Figure("the deploy says that it failed", float(code != 0), 1, unit="", least=True)
    yield Figure("rules as before", float(lab.run(node, rules) == before), 1, unit="", least=True)
    yield Figure("let in after", lab.until(lambda: lab.admits(node, identity.own_certificate(lab.cluster)), 60, "let in"), 60, loose=True)


@drill()
def torn_list_of_what_is_revoked(lab: Lab):
    """A power cut tears the list of what is revoked, with which the server would refuse everyone: the last good one comes back"""
    node, good = lab.client, identity.own_certificate(lab.cluster)
    before = lab.run(node, "sha256sum </etc/ssh/cluster/revoked.krl")
    lab.run(node, "truncate -s 30 /etc/ssh/cluster/revoked.krl")
    yield Figure("admitted with the torn one", float(lab.admits(node, good)), 0, unit="")
    lab.power_off(node)
    lab.power_on(node)
    yield Figure("let in after", lab.until(lambda: lab.admits(node, good), 60, "let in"), 60, loose=True)
    yield Figure("the list is as before", float(lab.run(node, "sha256sum </etc/ssh/cluster/revoked.krl") == before), 1, unit="", least=True)
    lab.until_healthy()

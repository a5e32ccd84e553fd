"""What nodes are asked about their health, as shell commands."""

from __future__ import annotations

import shlex

from beowulf import backup, kea
from beowulf.pki import identity

LIMIT = 10.0
LARGEST = 1 << 20
"""Bytes that a node may answer with; whoever says more is not listened to."""
# One connection to a node: what follows a line `== name` is the answer to that question.
# What a node has of each: the certificates that it shows others, and on the authority those that signed them.
SSH_CERTIFICATES = {
    "/etc/ssh/ssh_host_ed25519_key-cert.pub": "SSH certificate",
    "/etc/ssh/cluster/users/mpi/id_ed25519-cert.pub": "SSH certificate for MPI",
}
TLS_CERTIFICATES = {
    "/etc/kea/tls/node.crt": "TLS certificate of DHCP",
    "/etc/ssl/cluster/node.crt": "TLS certificate of ARA",
    f"{identity.FOLDER}/tls/intermediate.crt": "TLS intermediate",
    f"{identity.FOLDER}/tls/root.crt": "TLS root",
}
KRL = "/etc/ssh/cluster/revoked.krl"
AUTHORITY_KRL = f"{identity.FOLDER}/public/revoked.krl"
# `file PATH` before the times of each certificate in it; then the sums of the lists of what is revoked.
TRUST_ASK = f"""sudo -n sh -c '
for one in {" ".join(SSH_CERTIFICATES)}; do test ! -e $one || {{ echo "file $one"; TZ=UTC ssh-keygen -L -f $one | grep Valid: ; }}; done
for one in {" ".join(TLS_CERTIFICATES)}; do
  test ! -e $one || {{ echo "file $one"; openssl storeutl -noout -text -certs $one | grep -E "Not (Before|After)" ; }}
done
for one in {KRL} {AUTHORITY_KRL}; do test ! -e $one || sha256sum $one; done'"""
# What is kept on a disk: /dev/shm and the like are of the memory. `df` fails for one that it cannot ask, and tells the others.
DISKS_ASK = "df --local --output=target,pcent,ipcent --exclude-type=tmpfs --exclude-type=devtmpfs --exclude-type=squashfs"
QUESTIONS = {
    "addresses": "ip -brief -4 address",
    "name": "uname -n",
    "now": "date +%s.%N",
    "clock": "chronyc -c tracking",
    "uptime": "cat /proc/uptime",
    "units": "systemctl list-units --failed --plain --no-legend --no-pager",
    "disks": DISKS_ASK,
    "trust": TRUST_ASK,
    "renewed": "sudo -n sh -c 'test ! -e /etc/ssh/cluster/renewed || stat -c %Y /etc/ssh/cluster/renewed'",
}
# When each task was there first, when it ended well the last time (roles/schedule), and what it is; what never ran well has no second time.
TASKS = "/var/lib/beowulf/tasks"
TASKS_ASK = f"""cd /etc/systemd/system && for one in cluster-*.timer; do
one=${{one%.timer}}; one=${{one#cluster-}}
echo "$one $(stat -c %W:%Y cluster-$one.timer) $(test ! -e {TASKS}/$one || stat -c %Y {TASKS}/$one)"
done"""
BACKUP_ASK = f"! sudo -n test -e {backup.REPOSITORY} || {{ {backup.ASK} ; }}"
BACKUP_QUESTIONS = QUESTIONS | {"backup": BACKUP_ASK, "tasks": TASKS_ASK}
# Nothing is said where k3s is not installed, and `down` where it is and does not answer.
K3S_NODES = (
    'jsonpath={range .items[*]}{.metadata.name}{" "}{.status.nodeInfo.kubeletVersion}{" "}'
    '{.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'
)
K3S_QUESTIONS = QUESTIONS | {
    "k3s": f"! test -e /etc/systemd/system/k3s.service || sudo -n k3s kubectl get nodes --request-timeout=5s -o '{K3S_NODES}' || echo down"
}
DHCP_QUESTIONS = QUESTIONS | {
    "backup": BACKUP_ASK,
    "refused": backup.ASK_REFUSED,
    "dhcp": f"sudo -n {shlex.join(kea.question('status-get'))}",
    "strangers": "sudo -n cat /run/dhcp-watch/strangers.json",
    "pair": "cat /run/dhcp-pair/state.json",
}

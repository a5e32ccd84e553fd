"""What no function needs is closed: in the kernel, for modules, for core dumps, and before the login."""

from __future__ import annotations

import pytest
import yaml

from beowulf.process import ROOT

testinfra_hosts = ["ansible://all"]
DEFAULTS = yaml.safe_load((ROOT / "roles/hardening/defaults/main.yml").read_text(encoding="utf-8"))
KERNEL = """
import glob, os
wanted = {wanted!r}
found = {{}}
for name, value in wanted.items():
    for path in glob.glob("/proc/sys/" + name.replace(".", "/")):
        if os.access(path, os.W_OK):  # root may write everything but what is mounted read-only
            found[path] = [open(path).read().strip(), str(value)]
print(json.dumps(found))
"""


@pytest.fixture
def own(host, hostvars):
    return hostvars[host.backend.host]


def test_the_kernel_has_every_value_that_this_node_may_set(host, python):
    found = python(host, KERNEL.format(wanted=DEFAULTS["hardening_sysctls"]))
    assert "/proc/sys/net/ipv4/conf/all/send_redirects" in found
    assert {path: values for path, values in found.items() if values[0] != values[1]} == {}


def test_nobody_leaves_a_core_dump(host, own):
    """Nor may anyone ask for one, as somebody finds who logs in now."""
    for user in (own["rack_ssh_user"], "root"):
        assert host.check_output("sudo su --login %s --command 'ulimit -H -c'", user) == "0"


def test_a_login_shell_does_not_wait_for_ever(host):
    """And what it starts does not know of it."""
    assert host.check_output("bash --login -c 'echo $TMOUT; printenv TMOUT || echo none'") == f"{DEFAULTS['hardening_idle_seconds']}\nnone"


def test_nobody_loads_a_module_that_no_node_needs(host):
    """A node without modprobe loads none at all."""
    if host.exists("/usr/sbin/modprobe"):
        for module in DEFAULTS["hardening_modules"]:
            assert host.check_output("sudo /usr/sbin/modprobe --dry-run --verbose %s", module).strip() == "install /bin/false"


@pytest.mark.parametrize("path", ["/etc/issue", "/etc/issue.net"])
def test_nothing_says_what_system_it_is_before_the_login(host, path):
    assert host.file(path).content_string.strip() == DEFAULTS["hardening_banner"]


def test_ssh_forwards_to_other_nodes_and_not_back(host, own):
    effective = host.check_output(f"sudo sshd -T -C user={own['rack_ssh_user']}").splitlines()
    assert {"allowtcpforwarding local", "tcpkeepalive no", "clientalivecountmax 2"} <= set(effective)

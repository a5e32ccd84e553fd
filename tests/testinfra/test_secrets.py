"""No secret of the cluster is where others may find it: not in git, not in the controller's state, not on a node."""

import base64
import os
import secrets

import pytest

from beowulf.cluster import Cluster
from beowulf.secret_scan import Needles, in_controller, in_node
from beowulf.secrets import store_of

testinfra_hosts = ["ansible://all"]


@pytest.fixture(scope="module")
def cluster():
    return Cluster(os.environ["BEOWULF_CLUSTER"])


@pytest.fixture(scope="module")
def values(cluster):
    """All secrets, and the password of the vault."""
    store = store_of(cluster)
    store.create()
    return {**store.read(), "password of the vault": store.password()}


def test_the_controller_holds_them_in_the_vault_alone(values):
    assert [str(finding) for finding in in_controller(Needles(values))] == []


# Who reads all that was recorded keeps ARA from recording meanwhile.
@pytest.mark.xdist_group("recorded run")
def test_a_node_shows_none(host, cluster, values):
    """In logs, journal, processes, facts in Redis and recorded runs. What is put there on purpose proves that the search sees."""
    planted = secrets.token_hex(20)
    logged = base64.b64encode(planted.encode()).decode()
    # The process outlives the search of the logs, which comes first.
    host.check_output(f"logger -t secret-search {logged}; (sleep 60; : {planted}) > /dev/null 2>&1 & echo")
    needles = Needles({**values, "planted": planted})
    found = in_node(needles, cluster.ssh(host.backend.host), values["redis"])
    assert {finding.place for finding in found if finding.name == "planted"} >= {"journal", "processes"}
    assert [str(finding) for finding in found if finding.name != "planted"] == []

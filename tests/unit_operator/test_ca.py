"""User certificates: really signed, by an encrypted key whose passphrase comes out of a real vault."""

import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from beowulf import ca
from beowulf import secrets as vault
from beowulf.errors import Failure, Refusal


def make_key(path: Path, passphrase: str = "") -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "test", "-f", str(path)], check=True)
    return path


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """What this module asks of a cluster, in a folder of its own."""
    monkeypatch.setenv("PASSWORD_STORE_DIR", str(tmp_path / "none"))
    state = tmp_path / "state"
    (state / "ca").mkdir(parents=True)
    (state / "ssh").mkdir()
    rack = SimpleNamespace(cluster="lab", ca=SimpleNamespace(user_hours=16), nodes={"gamma": None})
    key = make_key(state / "ssh" / "id_ed25519")
    variables = {"rack_ssh_private_key": str(key), "rack_ssh_user": "admin", "rack_deployer": {"name": "psi"}}
    found = SimpleNamespace(name="lab", state=state, rack=rack, variables=variables)
    make_key(state / "ca" / "user_ca", vault.store_of(found).get("ca"))
    return found


def shown(path: Path) -> dict[str, str]:
    [one] = ca.summary(
        subprocess.run(["ssh-keygen", "-L", "-f", str(path)], check=True, capture_output=True, text=True, env={"TZ": "UTC"}).stdout
    )
    return one


def test_a_certificate_says_who_for_how_long_and_what_for(cluster, tmp_path):
    place = tmp_path / "ada-cert.pub"
    serial = ca.sign(cluster, make_key(tmp_path / "ada").with_suffix(".pub"), "ada", 2, ["compute"], place)
    one = shown(place)
    assert (one["name"], one["type"], one["principals"], one["serial"]) == ("ada", "user", "compute", str(serial))
    assert 2 * 3600 - 60 < ca.ends(one) - time.time() <= 2 * 3600 + 60
    first, last = ca.validity(place)
    assert last - first == pytest.approx(2 * 3600 + 300, abs=60)


def test_a_wrong_passphrase_makes_no_certificate(cluster, tmp_path):
    (cluster.state / "ca" / "user_ca").unlink()
    make_key(cluster.state / "ca" / "user_ca", "another one")
    place = tmp_path / "none-cert.pub"
    with pytest.raises(Failure, match="ssh-keygen does not sign"):
        ca.sign(cluster, Path(f"{cluster.variables['rack_ssh_private_key']}.pub"), "ada", 2, ["admin"], place)
    assert not place.exists()


def test_a_controller_renews_its_own_certificate_when_a_quarter_of_its_life_is_left(cluster):
    assert ca.refresh(cluster)
    place = ca.own_certificate(cluster)
    assert shown(place)["principals"] == "admin"
    assert not ca.refresh(cluster)
    public = Path(f"{cluster.variables['rack_ssh_private_key']}.pub")
    ca.sign(cluster, public, "me", 3, ["admin"], place, since="-7h")
    assert not ca.refresh(cluster), "three of ten hours are left"
    ca.sign(cluster, public, "me", 2, ["admin"], place, since="-8h")
    assert ca.refresh(cluster), "two of ten hours are left"
    assert ca.validity(place)[1] - time.time() > 15 * 3600


def test_before_there_is_an_authority_nothing_is_signed(cluster):
    (cluster.state / "ca" / "user_ca").unlink()
    assert not ca.refresh(cluster)
    assert not ca.own_certificate(cluster).exists()
    with pytest.raises(Refusal, match=r"made by \./bootstrap deploy"):
        ca.user(cluster, "ada", 1, "", "", "")


@pytest.mark.parametrize(
    ("name", "hours", "principals", "key", "why"),
    [
        ("a b", 1, "", "", "is no name for a certificate"),
        ("", 1, "", "", "is no name for a certificate"),
        ("ada", 200, "", "", "--hours 200: more than 0 and at most 168"),
        ("ada", -1, "", "", "--hours -1: more than 0"),
        ("ada", 1, "compute,roots", "", "no node admits roots"),
        ("ada", 1, "", "missing.pub", "cannot be read"),
        ("ada", 1, "", "private", "is no public key"),
    ],
)
def test_what_makes_no_sense_is_refused(cluster, tmp_path, monkeypatch, name, hours, principals, key, why):
    monkeypatch.chdir(tmp_path)
    Path("private").write_text("no key\n")
    with pytest.raises(Refusal, match=why):
        ca.user(cluster, name, hours, principals, key, str(tmp_path / "made"))
    assert not (tmp_path / "made").exists()


def test_a_user_gets_a_certificate_beside_the_key(cluster, tmp_path, capsys):
    public = make_key(tmp_path / "ada").with_suffix(".pub")
    ca.user(cluster, "ada", 0, "compute,router", str(public), "")
    one = shown(tmp_path / "ada-cert.pub")
    assert (one["name"], one["principals"]) == ("ada", "compute router")
    assert "opens the nodes of type compute, router as admin" in capsys.readouterr().out


def test_what_is_revoked_is_said_in_the_words_of_ssh_keygen(cluster):
    assert ca.revocation(cluster, "17") == ["serial: 17"]
    assert ca.revocation(cluster, "ada@desk") == ["id: ada@desk"]
    with pytest.raises(Refusal, match="neither a node"):
        ca.revocation(cluster, "a\nserial: 0")


@pytest.mark.parametrize("serial", ["0", str(2**64)])
def test_a_number_that_would_spoil_the_list_is_refused(cluster, serial):
    with pytest.raises(Refusal, match="is no serial number"):
        ca.revocation(cluster, serial)


@pytest.mark.parametrize("name", ["psi", "admin@psi", ca.own_name()])
def test_no_controller_is_shut_out_for_good(cluster, name):
    with pytest.raises(Refusal, match="is a controller"):
        ca.revocation(cluster, name)


def test_a_certificate_for_some_nodes_does_not_take_the_place_of_the_controllers_own(cluster):
    ca.refresh(cluster)
    before = ca.own_certificate(cluster).read_bytes()
    with pytest.raises(Refusal, match="shut it out"):
        ca.user(cluster, "ada", 1, "compute", "", "")
    assert ca.own_certificate(cluster).read_bytes() == before

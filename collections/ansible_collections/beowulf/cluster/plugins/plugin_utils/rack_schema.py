# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rack file as pydantic models: which keys there are, what each holds, what it is for. No rule here sees two keys."""

from __future__ import annotations

from functools import cache
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, PlainValidator, PrivateAttr, TypeAdapter, ValidationError, WithJsonSchema

from ansible_collections.beowulf.cluster.plugins.plugin_utils import rack_values as values

PLUGIN = "beowulf.cluster.rack"
TYPES = ("router", "deployer", "lanservices", "compute")
BOARDS = {  # board: how many processes it runs at once
    **dict.fromkeys(("A+", "B", "B+", "Zero", "Zero W", "CM1"), 1),  # one ARMv6 core, no k3s
    **dict.fromkeys(("2B", "3A+", "3B", "3B+", "4B", "5", "400", "500", "CM3", "CM4", "CM5", "Zero 2 W", "generic"), 4),
}
ARMV6 = tuple(board for board, slots in BOARDS.items() if slots == 1)

_IPV4 = r"^(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])(\.(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])){3}$"
_LABEL = r"^(?!-)(?![0-9]+$)[a-z0-9-]{1,63}(?<!-)$"
_MAC = r"^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$|^[0-9A-Fa-f]{12}$|^([0-9A-Fa-f]{4}\.){2}[0-9A-Fa-f]{4}$"
_DOMAIN = r"^(?!.*\.local$)(?!-)[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})+$"


def _string(check: Any, pattern: str | None = None, **schema: Any) -> tuple[PlainValidator, WithJsonSchema]:
    return PlainValidator(check), WithJsonSchema({"type": "string", **({"pattern": pattern} if pattern else {}), **schema})


def _number(low: float, high: float, unit: str = "", whole: bool = True) -> tuple[PlainValidator, WithJsonSchema]:
    schema = {"type": "integer" if whole else "number", "minimum": low, "maximum": high}
    return PlainValidator(values.number(low, high, unit, whole)), WithJsonSchema(schema)


def _choice(*choices: Any) -> tuple[PlainValidator, WithJsonSchema]:
    return PlainValidator(values.one_of(*choices)), WithJsonSchema({"enum": list(choices)})


Label = Annotated[str, *_string(values.label, _LABEL)]
Domain = Annotated[str, *_string(values.domain, _DOMAIN, maxLength=values.LONGEST_DOMAIN)]
Address = Annotated[IPv4Address, *_string(values.address, _IPV4)]
Subnet = Annotated[IPv4Network, *_string(values.subnet, _IPV4[:-1] + r"/(1[6-9]|2[0-9])$")]
Pool = Annotated[values.Pool, *_string(values.pool, _IPV4[:-1] + r" *- *" + _IPV4[1:])]
Mac = Annotated[str, *_string(values.mac, _MAC)]
Serial = Annotated[str, *_string(values.serial, r"^[0-9a-f]{8}$")]
Forwarder = Annotated[str, *_string(values.forwarder, _IPV4 + r"|^[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*$")]
NtpServer = Annotated[str, *_string(values.ntp_server, r"^[A-Za-z0-9.:-]+$")]
Bool = Annotated[bool, PlainValidator(values.boolean), WithJsonSchema({"type": "boolean"})]
Expression = Annotated[str, *_string(values.expression)]
Variable = Annotated[str, *_string(values.variable, r"^[A-Za-z_][A-Za-z0-9_]*$")]
Word = Annotated[str, *_string(values.word)]


class Model(BaseModel):
    """Unknown keys are refused; the text below each key describes it in editors."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Network(Model):
    """The one LAN that all nodes share."""

    subnet: Subnet
    """The LAN, a private IPv4 network from /16 to /29."""
    gateway: Address
    """The LAN address of the router node."""
    vip: Address
    """The floating address that one of the two lanservices nodes holds."""
    pool: Pool
    """The addresses DHCP gives to machines that are not in this file, and to new nodes before their first deploy, FIRST-LAST."""
    forwarders: list[Forwarder] = []
    """DNS servers outside, by address. Empty: names are resolved from the root servers."""
    ntp: list[NtpServer] = []
    """Time servers outside, by name or address. Empty: the cluster keeps its own time."""


class Node(Model):
    """One machine; its key in `nodes` is its host name."""

    type: Annotated[Literal["router", "deployer", "lanservices", "compute"], *_choice(*TYPES)]
    """What the node is for: router (1 of it), deployer (1), lanservices (2), compute (1 or more)."""
    address: Address
    """The node's address in the LAN."""
    mac: Mac
    """The Ethernet address of the node's LAN interface, whatever its name."""
    board: Annotated[str, *_choice(*BOARDS)] = "generic"
    """The Raspberry Pi model, or generic for any other Debian machine."""
    serial: Serial | None = None
    """The serial number of a Raspberry Pi, 8 hexadecimal digits; it boots from the LAN with the files in the folder of this name."""
    uplink: Address | None = None
    """router only: its address outside the LAN, where the controller meets it first. Default: the LAN address is met first, too."""
    aliases: list[Label] = []
    """More names for the node in DNS."""
    k3s: Annotated[str | bool | None, *_choice("server", "agent", False)] = None
    """compute only: the node's part in Kubernetes. Default: agent when a node of the file is a server, else false."""
    distcc: Annotated[bool | None, PlainValidator(values.boolean), WithJsonSchema({"type": "boolean"})] = None
    """compute only: whether the node compiles for the others. Default: true."""
    mpi: Annotated[bool | None, PlainValidator(values.boolean), WithJsonSchema({"type": "boolean"})] = None
    """compute only: whether MPI runs on the node. Default: true."""
    jobs: Annotated[str | bool | None, *_choice("server", "client", False)] = None
    """compute only: the node's part in the shared folder /srv/jobs. Default: client; server for the first one, when nobody else is it."""
    slots: Annotated[int | None, *_number(1, 1024)] = None
    """compute only: how many processes the node runs at once. Default: the cores of its board."""
    dns: Annotated[str | None, *_choice("primary", "secondary")] = None
    """lanservices only: the node's part in DNS. Default: the first one in the file is the primary."""
    vrrp_priority: Annotated[int | None, *_number(1, 254)] = None
    """lanservices only: the higher number holds the VIP first. Default: 150 for the first one in the file, 100 for the second."""


class Ssh(Model):
    """How the controller reaches the nodes."""

    user: Annotated[str, *_string(values.user, r"^(?!root$)[a-z_][a-z0-9_-]{0,31}$")] = "admin"
    """The account on every node, with sudo and without a password; not root."""
    private_key: Annotated[str | None, *_string(values.path)] = None
    """The path of the private key. Default: .beowulf/CLUSTER/ssh/id_ed25519 in the repository."""


class Lab(Model):
    """Its presence says that the nodes are containers on this host."""

    address: Address
    """The address this host takes in the LAN."""
    release: Annotated[str, *_choice("trixie")] = "trixie"
    """The Debian release of the containers; the LAN services run on no older one."""
    uplink: Subnet = IPv4Network("10.78.0.0/24")
    """The network between this host and the router's container, by which the LAN reaches the outside."""


class Vrrp(Model):
    """The floating address (VRRPv3, RFC 5798)."""

    router_id: Annotated[int, *_number(1, 255)] = 51
    """The virtual router id; it must be unique in the LAN."""
    advert_interval: Annotated[float, *_number(0.01, 40.95, "seconds", whole=False)] = 0.3
    """Seconds between advertisements."""


class Dhcp(Model):
    """The timers of DHCP (RFC 2131) and of Kea's hot standby."""

    valid_lifetime: Annotated[int, *_number(60, 604800, "seconds")] = 3600
    """Seconds that a node's lease lasts."""
    renew_timer: Annotated[int, *_number(10, 604800, "seconds")] = 900
    """Seconds until a node renews its lease (T1)."""
    rebind_timer: Annotated[int, *_number(10, 604800, "seconds")] = 1800
    """Seconds until a node asks any server (T2)."""
    pool_lifetime: Annotated[int, *_number(60, 604800, "seconds")] = 300
    """Seconds that a lease of the pool lasts."""
    heartbeat_delay: Annotated[int, *_number(100, 600000, "milliseconds")] = 1000
    """Milliseconds between the heartbeats of the two servers."""
    max_response_delay: Annotated[int, *_number(200, 600000, "milliseconds")] = 4000
    """Milliseconds of silence after which a server takes its partner for dead."""


class Ca(Model):
    """What the certificate authority issues."""

    user_hours: Annotated[int, *_number(1, 168, "hours")] = 16
    """Hours that a user's SSH certificate lasts."""
    host_days: Annotated[int, *_number(1, 365, "days")] = 60
    """Days that a host's SSH certificate lasts."""
    key_type: Annotated[str, PlainValidator(values.key_type), WithJsonSchema({"enum": ["ed25519"]})] = "ed25519"
    """The type of every key."""


class KeyedGroup(Model):
    """A family of groups, one for each value of `key`."""

    key: Expression
    """The Jinja2 expression whose values name the groups."""
    prefix: Word = ""
    """What the groups' names begin with."""
    separator: Word = "_"
    """What stands between prefix and value."""
    parent_group: Variable | None = None
    """The group that holds the groups."""
    default_value: Word | None = None
    """The value to take when the expression is empty."""
    trailing_separator: Bool = True
    """Whether the separator stays when the value is empty."""


class Rack(Model):
    """A rack file: everything that exists in one cluster."""

    plugin: Annotated[str, *_choice(PLUGIN)]
    """The inventory plugin that reads this file."""
    cluster: Label
    """The cluster's name: prefix of its containers, label in ARA, id of its vault. At most 11 characters for a lab."""
    domain: Domain
    """The cluster's own domain. `.internal` is reserved for private use. At most 51 characters."""
    network: Network
    nodes: dict[Label, Node]
    """The machines, by host name."""
    ssh: Ssh = Ssh()
    lab: Lab | None = None
    vrrp: Vrrp = Vrrp()
    dhcp: Dhcp = Dhcp()
    ca: Ca = Ca()
    timezone: Annotated[str, *_string(values.timezone)] = "Etc/UTC"
    """The time zone of every node."""
    registry: Annotated[str | None, *_string(values.registry, r"^rediss?://")] = None
    """The Redis that remembers whom the LAN has seen; strangers become the group `discovered`."""
    compose: dict[Variable, Expression] = {}
    """Variables to add to every node, as Jinja2 expressions."""
    groups: dict[Variable, Expression] = {}
    """Groups to add, each with the Jinja2 condition for a node to be in it."""
    keyed_groups: list[KeyedGroup] = []
    """Groups to add, named after values."""
    strict: Bool = True
    """Whether a wrong expression stops the run."""
    use_extra_vars: Bool = False
    """Whether expressions see the variables of the command line."""
    leading_separator: Bool = True
    """Whether a keyed group without a prefix begins with the separator."""

    _path: str = PrivateAttr("")

    @property
    def path(self) -> str:
        """The file this rack was read from."""
        return self._path


def rack_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a rack file, for editors. It knows single keys; `load_rack` knows how they relate."""
    schema = Rack.model_json_schema()
    schema["properties"]["nodes"]["propertyNames"] = {"pattern": _LABEL}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": f"Rack file of {PLUGIN}"}


def salvage(model: type[BaseModel], data: dict[str, Any]) -> Any:
    """A ``model`` with whatever in ``data`` is right: what is wrong or missing is None, and left out of lists and dicts."""
    built: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if name not in data:
            built[name] = None if field.is_required() else field.get_default(call_default_factory=True)
            continue
        value, inner = data[name], _inner_model(field.annotation)
        if inner is Node and isinstance(value, dict):
            built[name] = {key: salvage(Node, each) for key, each in value.items() if isinstance(each, dict)}
        elif inner and isinstance(value, dict):
            built[name] = salvage(inner, value)
        elif isinstance(value, list) and isinstance(field.default, list):
            built[name] = [good[0] for each in value if (good := _accepted(model, name, [each]))]
        else:
            built[name] = _accepted(model, name, value)
    return model.model_construct(**built)


def _accepted(model: type[BaseModel], name: str, value: Any) -> Any:
    try:
        return _adapter(model, name).validate_python(value)
    except ValidationError:
        return None


@cache
def _adapter(model: type[BaseModel], name: str) -> TypeAdapter[Any]:
    field = model.model_fields[name]
    return TypeAdapter(Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation)


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)), None)

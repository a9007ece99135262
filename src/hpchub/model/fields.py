"""The types of the model's fields. Each type has its own error messages. No I/O.

The types are annotations for pydantic: ``Memory = Annotated[str, Text(...)]``. An error's context carries the texts
``message`` and ``valid`` for :class:`hpchub.model.problems.Problem`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from urllib.parse import urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, SecretStr
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from hpchub.gpus import Gpus
from hpchub.messages import listing, near, show, type_in_words, unprintable
from hpchub.model.patterns import takes_too_long
from hpchub.names import CLUSTER_NAME, GROUP_NAME_LIMIT, QUEUE_NAME, USER_NAME
from hpchub.units import mebibytes, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydantic.json_schema import JsonSchemaValue

_MAXIMUM_ID = 2**32 - 2  # the largest numeric id of a user or group on Linux

COMPLAINT = "hpchub"
"""The pydantic error type of errors that carry their own message."""


def complain(message: str, valid: str = "") -> NoReturn:
    """Reject a value in a pydantic validator, with what is wrong and what is valid."""
    raise PydanticCustomError(COMPLAINT, "{message}", {"message": message, "valid": valid})


@dataclass(frozen=True)
class Text:
    """One line of text that matches a pattern.

    Attributes:
        what: The name of the type with its article, as in ``a size``, for messages such as "is not a size".
        pattern: A pattern that the whole text must match.
        valid: What to write, as in ``write a number and M, G or T, as in 4G``.
        empty: Whether an empty text is permitted. It means that the option is not used.
        check: A function with further conditions. It reports errors with :func:`complain`.
        number: The message for a number that YAML may have made of a text without quotes.
        whole: Whether a numeric id is permitted too, as a number. It becomes text.
    """

    what: str
    pattern: str
    valid: str
    empty: bool = False
    check: Callable[[str], None] | None = None
    number: str = ""
    whole: bool = False

    def _validate(self, value: object) -> str:
        if self.whole and type(value) is int and 0 < value <= _MAXIMUM_ID:
            value = str(value)
        if not isinstance(value, str):
            self._not_text(value)
        if value == "" and self.empty:
            return value
        if value == "":
            complain("is empty", self.valid)
        if not value.isprintable():
            message, advice = unprintable(value)
            complain(message, advice or self.valid)
        if not re.fullmatch(self.pattern, value):
            complain(f"is not {self.what}", self.valid)
        if self.check:
            self.check(value)
        return value

    def _not_text(self, value: object) -> NoReturn:
        """Reject a value that is not text. Advise quotes only if the same text in quotes would be valid."""
        kind = type_in_words(value)
        if self.whole and kind == "a number":
            complain("is not a numeric id", self.valid)
        if kind in ("a number", "a date") and re.fullmatch(self.pattern, str(value)):
            complain(f"is {kind}, not text; put it in quotes", self.valid)
        if kind == "a number" and self.number:
            complain(self.number, self.valid)
        if isinstance(value, Mapping) and list(value.values()) == [None]:  # {connection_file} without quotes
            complain(f"is {kind}, not {self.what}", f'put it in quotes: "{{{next(iter(value))!s:.60}}}"')
        complain(f"is {kind}, not {self.what}", self.valid)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        pattern = f"^(?:{self.pattern})?$" if self.empty else f"^(?:{self.pattern})$"
        text: JsonSchemaValue = {"type": "string", "pattern": pattern}
        return {"anyOf": [text, {"type": "integer", "minimum": 1, "maximum": _MAXIMUM_ID}]} if self.whole else text


@dataclass(frozen=True)
class Whole:
    """A whole number from ``minimum`` to ``maximum``, both included."""

    minimum: int
    maximum: int

    def validate(self, value: object) -> int:
        """Return a valid number, or reject the value with :func:`complain`."""
        valid = f"write a whole number from {self.minimum} to {self.maximum}"
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
            complain("is text, not a number", f"{valid}, without quotes")
        if isinstance(value, bool) or not isinstance(value, int):
            complain("is not a whole number" if value is not None else "is empty", valid)
        if value < self.minimum:
            complain(f"is below {self.minimum}", valid)
        if value > self.maximum:
            complain(f"is above {self.maximum}", valid)
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validate)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}


@dataclass(frozen=True)
class Choice:
    """One of a few words.

    Attributes:
        available: The words that are permitted.
    """

    available: Sequence[str]

    def _validate(self, value: object) -> str:
        valid = f"available: {listing(self.available)}"
        if not isinstance(value, str):
            complain(f"is {type_in_words(value)}, not text", valid)
        if value in self.available:
            return value
        close = near(value, self.available)
        complain("is unknown", f'did you mean "{close}"? {valid}' if close else valid)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "enum": list(self.available)}


PLACEHOLDER = re.compile(
    r"(?i)\W*(?:change[ _-]?(?:me|it|this)?|(?:please[ _-]?)?replace[ _-]?(?:me|it|this)?|todo|tbd|fixme|x{3,}|dummy"
    r"|placeholder|(?:my|your|the)?[ _-]?(?:client[ _-]?)?secret(?:[ _-]?here)?|your[ _-]\w+|password|<.*>)\W*"
)
"""Words that stand for a value that somebody has yet to write."""


class Secret:
    """A secret. It never appears in a message, a ``repr`` or a schema's example."""

    _valid = "put the real secret into the inventory's vault"

    def _validate(self, value: object) -> SecretStr:
        if isinstance(value, SecretStr):
            return value
        if not isinstance(value, str):
            complain(f"is {type_in_words(value)}, not text", self._valid)
        self._check(value)
        return SecretStr(value)

    def _check(self, value: str) -> None:
        if value.strip() == "":
            complain("is empty", self._valid)
        self._check_placeholder(value)
        if name := re.fullmatch(r"(?!\{\{.*\}\}$)\{{1,2}\s*([A-Za-z_]\w*)\s*\}{1,2}", value):
            complain("is an expression with too few braces", f'write "{{{{ {name[1]} }}}}"')
        self._check_printable(value)
        # Apache's configuration would interpret these characters. mod_auth_openidc would run the text after "exec:".
        if any(mark in value for mark in ('"', "\\", "${", "%{")) or value.startswith("exec:"):
            complain('contains one of " \\ ${ %{ or begins with exec:', "create a new secret at the provider")

    def _check_placeholder(self, value: str) -> None:
        if PLACEHOLDER.fullmatch(value):
            complain("is still a placeholder", self._valid)

    def _check_printable(self, value: str) -> None:
        if not value.isprintable():
            message, advice = unprintable(value)
            complain(message, advice or self._valid)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "format": "password", "writeOnly": True}


class DatabasePassword(Secret):
    """The password of a user of a database. It may be empty, and contain every printable character."""

    _valid = "put the real password into the inventory's vault"

    def _check(self, value: str) -> None:
        self._check_placeholder(value)
        self._check_printable(value)


# Sizes and times


def _memory(value: str) -> None:
    if mebibytes(value) == 0:
        complain("is zero", "write a number and M, G or T, as in 4G")


def _runtime(value: str) -> None:
    days, _, rest = value.rpartition("-")
    hours, minutes, secs = (int(part) for part in rest.split(":"))
    if minutes > 59 or secs > 59 or (days and hours > 23):
        complain("has more than 59 minutes or seconds, or days and more than 23 hours", "write 90 minutes as 1:30:00")
    if seconds(value) == 0:
        complain("is zero", _RUNTIME_VALID)


_RUNTIME_VALID = 'write hours, minutes and seconds, as in "8:00:00", or days too, as in "2-00:00:00"'

Memory = Annotated[str, Text("a size", r"[0-9]{1,9}[MGT]", "write a number and M, G or T, as in 4G", check=_memory)]
OptionalMemory = Annotated[
    str, Text("a size", r"[0-9]{1,9}[MGT]", "write a number and M, G or T, as in 4G", check=_memory, empty=True)
]
Runtime = Annotated[
    str,
    Text(
        "a time",
        r"(?:[0-9]{1,3}-)?[0-9]{1,4}:[0-9]{2}:[0-9]{2}",
        _RUNTIME_VALID,
        check=_runtime,
        number="is a number, because YAML reads a time without quotes as seconds",
    ),
]
OptionalRuntime = Annotated[
    str,
    Text(
        "a time",
        r"(?:[0-9]{1,3}-)?[0-9]{1,4}:[0-9]{2}:[0-9]{2}",
        _RUNTIME_VALID,
        empty=True,
        check=_runtime,
        number="is a number, because YAML reads a time without quotes as seconds",
    ),
]
Cores = Annotated[int, Whole(1, 100_000)]
Nodes = Annotated[int, Whole(1, 1000)]
SessionLimit = Annotated[int, Whole(0, 1000)]


_GPU_TYPE = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
_GPUS_VALID = "write a number, or a type and a number, as in {type: a100, count: 1}"


@dataclass(frozen=True)
class GpuNumber:
    """A number of GPUs, or ``{type: TYPE, count: NUMBER}``.

    Attributes:
        several: Whether a list of types is permitted too.
    """

    several: bool = False

    def validate(self, value: object) -> Gpus:
        """Return a valid number, or reject the value with :func:`complain`."""
        if isinstance(value, Gpus):
            return value
        if isinstance(value, Mapping):
            return Gpus(types=dict([self._typed(value)]))
        if isinstance(value, list) and self.several and value:
            if not all(isinstance(each, Mapping) for each in value):
                complain("is a list with other items than types", "write each item as {type: a100, count: 1}")
            types = [self._typed(each) for each in value]
            if len(dict(types)) < len(types):
                complain("names a type twice", "write each type once")
            return Gpus(types=dict(types))
        if isinstance(value, (str, list)) and not (isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value)):
            complain(f"is {type_in_words(value)}, not a number of GPUs", _GPUS_VALID)
        return Gpus(Whole(0, 10_000).validate(value))

    def _typed(self, value: Mapping[Any, Any]) -> tuple[str, int]:
        for name in value:
            if name not in ("type", "count"):
                complain(f"has the unknown key {name!s:.40}", _GPUS_VALID)
        kind, count = value.get("type"), value.get("count", 1)
        if not isinstance(kind, str) or not re.fullmatch(_GPU_TYPE, kind):
            complain("has no valid type of GPU", "write letters, digits and _ . -, as in {type: a100, count: 1}")
        return kind, Whole(1, 10_000).validate(count)

    @staticmethod
    def _serialize(value: Gpus) -> Any:
        typed = [{"type": kind, "count": count} for kind, count in getattr(value, "types", {}).items()]
        return typed if len(typed) > 1 else typed[0] if typed else int(value)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.validate, serialization=core_schema.plain_serializer_function_ser_schema(self._serialize)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        typed = {
            "type": "object",
            "properties": {
                "type": {"type": "string", "pattern": f"^{_GPU_TYPE}$"},
                "count": {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 1},
            },
            "required": ["type"],
            "additionalProperties": False,
        }
        forms: list[dict[str, Any]] = [{"type": "integer", "minimum": 0, "maximum": 10_000}, typed]
        return {"anyOf": [*forms, {"type": "array", "items": typed, "minItems": 1}] if self.several else forms}


def gpus_of(value: object) -> Gpus:
    """Return the number of GPUs of a valid value, which may be as it was written. None is no GPU."""
    return GpuNumber(several=True).validate(value or 0)


GpuCount = Annotated[int, Whole(0, 10_000)]
GpuType = Annotated[str, Text("a type of GPU", _GPU_TYPE, "write letters, digits and _ . -, as in a100")]
GpusOfJob = Annotated[Gpus, GpuNumber()]
GpusOfQueue = Annotated[Gpus, GpuNumber(several=True)]
Port = Annotated[int, Whole(1, 65535)]
HighPort = Annotated[int, Whole(1024, 65535)]
Uid = Annotated[int, Whole(500, 2**31 - 1)]


# Names

Line = Annotated[str, Text("text of one line", r"\S(?:.{0,198}\S)?", "write one line of at most 200 characters")]
OptionalLine = Annotated[
    str, Text("text of one line", r"\S(?:.{0,998}\S)?", "write one line of at most 1000 characters", empty=True)
]


def _cluster_name(value: str) -> None:
    if value.endswith(("_login", "_compute")):
        complain(
            "ends like the name of the inventory group of a cluster's nodes",
            "choose a name that does not end in _login or _compute",
        )


ClusterName = Annotated[
    str,
    Text(
        "a cluster's name",
        CLUSTER_NAME,
        "write lower-case letters, digits and _, a letter first",
        check=_cluster_name,
    ),
]
_HOST_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?"
PlaceName = Annotated[
    str, Text("a place's name", CLUSTER_NAME, "write lower-case letters, digits and _, a letter first")
]
PlaceReference = Annotated[str, Text("a place's name", r".{1,200}", "name a place of hpc_places", empty=True)]
ImageName = Annotated[
    str,
    Text(
        "an image's name",
        r"[a-z0-9][a-z0-9._-]{0,63}",
        "write lower-case letters, digits, . _ and -, a letter or digit first",
    ),
]
ImageReference = Annotated[
    str, Text("an image's name", r".{1,200}", "name an image of the profile's place", empty=True)
]


def _pinned(value: str) -> None:
    name, found, digest = value.rpartition("sha256:")
    if not found:
        complain("has no digest, so its content could change", _PINNED)
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        complain("has a digest that is not sha256: and 64 hexadecimal digits", _PINNED)
    if name and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,252}(?::[0-9]{1,5})?(?:/[a-z0-9][a-z0-9._-]{0,127})*@", name):
        complain("is not the name of an image with its digest and without a tag", _PINNED)


_PINNED = (
    "write NAME@sha256:DIGEST, as `docker images --digests` shows it; for an image that was imported, write its id,"
    " sha256:ID, as `docker images --no-trunc` shows it"
)
PinnedImage = Annotated[str, Text("an image with its digest", r"[!-~]{1,400}", _PINNED, check=_pinned)]
Pids = Annotated[int, Whole(64, 1_000_000)]
DockerNetwork = Annotated[
    str,
    Text(
        "the name of a user-defined Docker network",
        r"(?!(?:host|none|bridge|default|container)\b)[a-z0-9][a-z0-9_-]{0,63}",
        "write lower-case letters, digits, _ and -; the networks bridge, host and none isolate nobody",
    ),
]
DockerUrl = Annotated[
    str,
    Text(
        "the address of a Docker engine",
        rf"https://{_HOST_NAME}(?::[0-9]{{1,5}})?|unix:///[A-Za-z0-9._/-]{{1,100}}",
        "write https://HOST:2376, or unix:///PATH for an engine on the hub host; without TLS, anybody could control it",
    ),
]


KubernetesUrl = Annotated[
    str, Text("the address of an API server", rf"https://{_HOST_NAME}(?::[0-9]{{1,5}})?", "write https://HOST:6443")
]
_DNS_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DNS_LABEL_ADVICE = "write lower-case letters, digits and -, a letter or digit first and last"
KubernetesName = Annotated[str, Text("a name in Kubernetes", _DNS_LABEL, _DNS_LABEL_ADVICE)]
OptionalKubernetesName = Annotated[
    str, Text("a name in Kubernetes", rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*", _DNS_LABEL_ADVICE, empty=True)
]
KubernetesLabel = Annotated[
    str,
    Text(
        "the key of a label",
        rf"(?:{_DNS_LABEL}(?:\.{_DNS_LABEL})*/)?[A-Za-z0-9](?:[A-Za-z0-9._-]{{0,61}}[A-Za-z0-9])?",
        "write it as kubectl shows it, for example kubernetes.io/arch",
    ),
]
KubernetesLabelValue = Annotated[
    str,
    Text(
        "the value of a label",
        r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?",
        "write letters, digits, . _ and -, a letter or digit first and last",
        empty=True,
    ),
]
KubernetesQuantity = Annotated[
    str, Text("a size in Kubernetes", r"[1-9][0-9]{0,5}(?:Ki|Mi|Gi|Ti)", "write a number with Mi, Gi or Ti, like 10Gi")
]


def _mount_source(value: str) -> None:
    parts = value.split("/")[1:]
    if any(part in ("", ".", "..") for part in parts):
        complain("contains an empty part, . or ..", "write the real path")
    if any("{" in part and part != "{user}" for part in parts):
        complain("contains {user} as a part of a name", "write it as a whole name, as in /home/{user}")
    if value.split("/")[1] in ("proc", "sys", "dev", "boot", "etc", "run") or value.startswith(
        ("/var/run", "/var/lib/docker")
    ):
        complain("belongs to the system of the Docker host", "name a directory with data of users")


MountSource = Annotated[
    str,
    Text(
        "a directory for mounting",
        r"(?:/[A-Za-z0-9._{}@-]{1,128}){1,20}",
        "write an absolute path without spaces; {user} stands for the user's name, as in /home/{user}",
        check=_mount_source,
    ),
]
# References to a cluster, a queue or a kernel are looked up later. Here only their type is checked.
ClusterReference = Annotated[str, Text("a cluster's name", r".{1,200}", "name a cluster of hpc_clusters")]
OptionalClusterReference = Annotated[
    str, Text("a cluster's name", r".{1,200}", "name a cluster of hpc_clusters", empty=True)
]
QueueName = Annotated[
    str,
    Text(
        "a queue's name",
        QUEUE_NAME,
        "write letters, digits, _ . @ and -, a letter or digit first",
    ),
]
QueueReference = Annotated[
    str, Text("a queue's name", r".{1,200}", "name a queue of the profile's cluster", empty=True)
]
ProfileKey = Annotated[
    str,
    Text(
        "a profile's key",
        r"[a-z0-9][a-z0-9_-]{0,63}",
        "write lower-case letters, digits, _ and -, a letter or digit first",
    ),
]
KernelName = Annotated[
    str,
    Text(
        "a kernel's name",
        r"[a-z0-9][a-z0-9._-]{0,63}",
        "write lower-case letters, digits, . _ and -, a letter or digit first",
    ),
]
AppName = Annotated[
    str,
    Text(
        "an application's name",
        r"[a-z][a-z0-9-]{0,31}",
        "write a small letter, then small letters, digits and hyphens, as in tensorboard",
    ),
]
AppPath = Annotated[
    str, Text("a path", r"[A-Za-z0-9._~!$&'()*+,;=:@%/?#-]{1,500}", "write the part after the address", empty=True)
]
InterfaceReference = Annotated[
    str,
    Text(
        "an interface",
        r"[a-z][a-z0-9-]{0,31}",
        "write lab, notebook, nbclassic, or the name of an application of hpc_apps",
    ),
]
Geometry = Annotated[
    str,
    Text("a size", r"[1-9][0-9]{2,3}x[1-9][0-9]{2,3}", "write the width and the height in pixels, as in 1280x800"),
]
StartLimit = Annotated[int, Whole(1, 3600)]
MemoryPercent = Annotated[int, Whole(10, 90)]
MaxJobs = Annotated[int, Whole(1, 10_000)]
OptionalInterface = Annotated[
    str,
    Text(
        "a network interface", r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,14}", "write its name on the nodes, as in ib0", empty=True
    ),
]
KernelReference = Annotated[str, Text("a kernel's name", r".{1,200}", "name a kernel of hpc_kernels", empty=True)]
HostName = Annotated[
    str,
    Text("a host's name", _HOST_NAME, "write the name of a host in the inventory"),
]
DnsName = Annotated[
    str,
    Text("a host's name", _HOST_NAME, "write a host name or an address: letters, digits, . and -"),
]
OptionalDnsName = Annotated[
    str,
    Text("a host's name", _HOST_NAME, "write a host name or an address: letters, digits, . and -", empty=True),
]
OptionalMailAddress = Annotated[
    str,
    Text(
        "a mail address",
        r"[A-Za-z0-9](?:[A-Za-z0-9._+-]{0,62}[A-Za-z0-9])?@[A-Za-z0-9-]{1,63}(?:[.][A-Za-z0-9-]{1,63})+",
        "write one address without a name, as in jupyter@example.org",
        empty=True,
    ),
]
DatabaseName = Annotated[
    str,
    Text(
        "a name in PostgreSQL",
        r"[a-z_][a-z0-9_]{0,62}",
        "write lower-case letters, digits and _, no digit first",
    ),
]
OptionalHostName = Annotated[
    str, Text("a host's name", _HOST_NAME, "write the name of a host in the inventory", empty=True)
]
HostSuffix = Annotated[
    str,
    Text(
        "the end of a host's name",
        r"[A-Za-z0-9._-]{0,251}[A-Za-z0-9]",
        "write what follows the node's name, as in .ib.example.org or -ib",
        empty=True,
    ),
]
AddressPattern = Annotated[
    str,
    Text(
        "a pattern for addresses",
        r"[0-9A-Fa-f.:*?\[\]-]{1,200}",
        "write an address in which * stands for any text, as in 10.20.*",
        empty=True,
    ),
]
InterfaceName = Annotated[
    str,
    Text(
        "the name of a network interface",
        r"[A-Za-z0-9][A-Za-z0-9._@-]{0,14}",
        "write the name that `ip address` shows on the nodes, as in ib0",
        empty=True,
    ),
]
UserName = Annotated[
    str,
    Text(
        "a user's name",
        USER_NAME,
        "write letters, digits and _ . @ -, a letter, digit or _ first; neither root nor digits only",
    ),
]
OptionalUserName = Annotated[
    str,
    Text(
        "a user's name",
        USER_NAME,
        "write letters, digits and _ . @ -, a letter, digit or _ first; neither root nor digits only",
        empty=True,
    ),
]

# A subset of regular expressions that has the same meaning in Python, in Apache, and on a submit host with Python 3.9.
_PATTERN_PART = re.compile(r"[A-Za-z0-9_.@*+?|(){},:-]|\\[.@+_dw-]|\[\^?(?:[A-Za-z0-9_.@+*-]|\\[.@+_dw-])+\]")
_PATTERN_PITFALLS = re.compile(r"\(\?(?!:)|[*+?}][*+]|\{,")
AMBIGUOUS = (
    "can read some names in very many ways, and whoever has such a name stops the service",
    "begin each repeated group with a character that occurs nowhere else in it, as in [a-z]+(?:[.-][a-z]+)*",
)
_NEVER_A_NAME = ("a/b", "a b", "a;b", "a$b", "a\nb", "")


def _user_pattern(value: str) -> None:
    valid = r"write a regular expression for the whole name, as in [A-Za-z0-9]+(?:\.[a-z]+)*"
    body = value.removeprefix("^").removesuffix("$")
    rest = _PATTERN_PART.sub("", body)
    if rest or _PATTERN_PITFALLS.search(body):
        complain(
            f"contains {show(rest)}" if rest else "uses a construct that not all components understand",
            f"use literal characters, sets, ( | ) and * + ? {{n,m}}, and ^ and $ only around the whole; {valid}",
        )
    try:
        pattern = re.compile(value)
    except re.error as error:
        complain(f"is not a regular expression: {error}", valid)
    for name in _NEVER_A_NAME:
        if pattern.fullmatch(name):
            complain(
                f"admits {show(name)}, which can never be a user's name",
                "admit letters, digits and _ . @ - only",
            )
    if takes_too_long(value):
        complain(*AMBIGUOUS)


UserPattern = Annotated[
    str,
    Text(
        "a regular expression",
        r".{1,200}",
        "write a regular expression of at most 200 characters",
        check=_user_pattern,
    ),
]


def _group(value: str) -> None:
    if value != value.strip() or "{{" in value:
        complain("begins or ends with a blank, or contains {{", "write the group's name exactly")
    if re.fullmatch(r"\.?\*", value):
        complain("is a wildcard, but hpchub compares whole names", "list the groups")


def _sso_group(value: str) -> None:
    _group(value)
    if re.fullmatch(r"(?i)(?:ou|dc)=[^,]*", value):
        message = "is a part of a distinguished name, because a comma without quotes separates two items"
        complain(message, 'put the whole name in quotes, as in "CN=HPC Users,DC=cl,DC=org"')


def _unix_group(value: str) -> None:
    _group(value)
    if value == "root" or (re.fullmatch(r"[0-9]+", value) and (value[0] == "0" or int(value) > _MAXIMUM_ID)):
        complain("is root's group or not a numeric id", "name a group of ordinary users")
    # sudo would interpret these characters.
    if value[0] in "#:%+" or re.search(r'"|\\(?:x|$)', value):
        complain('begins with # : % or +, contains " or \\x, or ends with \\', "write the group's numeric id instead")


SsoGroup = Annotated[
    str,
    Text(
        "a group's name",
        rf".{{1,{GROUP_NAME_LIMIT}}}",
        f"write the name as the provider sends it, at most {GROUP_NAME_LIMIT} characters",
        check=_sso_group,
    ),
]
UnixGroup = Annotated[
    str,
    Text(
        "a Unix group's name",
        rf".{{1,{GROUP_NAME_LIMIT}}}",
        "write the name as `getent group` on the submit host shows it, or the numeric id",
        check=_unix_group,
        whole=True,
    ),
]
GroupsSeparator = Annotated[
    str,
    Text(
        "a separator",
        r"[;,:| ]{1,2}",
        'write the exact text between two names, as in "; ", or leave it empty if the provider sends a list',
        empty=True,
    ),
]
Word = Annotated[
    str,
    Text("a word without spaces", r"[A-Za-z0-9_.:/@+~-]{1,200}", "write letters, digits and _ . : / @ + ~ -"),
]


def _age_recipient(value: str) -> None:
    if value.upper().startswith("AGE-SECRET-KEY-"):
        complain("is a private key", "replace this key, because it is no longer secret; write its public key (age1...)")
    if not re.fullmatch(
        r"age1[02-9ac-hj-np-z]{50,4000}|ssh-(?:ed25519|rsa) [A-Za-z0-9+/]{60,4000}={0,3}(?: .*)?", value
    ):
        complain("is not a public key", "write a key that age-keygen prints (age1...), or an ssh key (ssh-ed25519 ...)")


AgeRecipient = Annotated[
    str, Text("a public key", r".{1,5000}", "write a key that age-keygen prints (age1...)", check=_age_recipient)
]
KeptBackups = Annotated[int, Whole(1, 10_000)]
KeptDays = Annotated[int, Whole(0, 36_500)]
SessionsAtOnce = Annotated[int, Whole(1, 100)]
Calendar = Annotated[
    str,
    Text(
        "a time of systemd",
        r"[A-Za-z0-9*.,:/~ +-]{1,100}",
        "write it as for OnCalendar= of systemd.timer, as in hourly, 02:30 or *:0/15",
    ),
]
ClaimName = Annotated[str, Text("a claim's name", r"[A-Za-z0-9_.:/-]{1,200}", "write letters, digits and _ . : / -")]
AttributeName = Annotated[
    str, Text("an attribute's name", r"[A-Za-z0-9_-]{1,100}", "write letters, digits and _ -, as in memberOf")
]
EnvironmentName = Annotated[
    str,
    Text(
        "an environment variable's name", r"[A-Za-z_][A-Za-z0-9_]{0,127}", "write letters, digits and _, no digit first"
    ),
]
EnvironmentValue = Annotated[str, Text("text of one line", r".{1,4000}", "write one line of text", empty=True)]
Argument = Annotated[str, Text("an argument", r".{1,4000}", "write one line of text")]
PackageName = Annotated[
    str, Text("a package's name", r"[A-Za-z0-9][A-Za-z0-9+.:_-]{0,127}", "write letters, digits and + . : _ -")
]


def _check_versions(value: str) -> None:
    try:
        Requirement(value)
    except InvalidRequirement:
        complain("has an invalid version", "write a version, as in numpy==2.4.6")


_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?"
_VERSION = r"(?:==|~=|!=|>=|<=|<|>)[A-Za-z0-9.*+!]{1,40}"
PythonPackage = Annotated[
    str,
    Text(
        "a Python package's name",
        rf"{_NAME}(?:\[{_NAME}(?:,{_NAME}){{0,9}}\])?(?:{_VERSION}(?:,{_VERSION}){{0,4}})?",
        "write the name in a package index, with a version if needed, as in numpy or numpy==2.4.6; addresses, paths "
        "and options are not possible",
        check=_check_versions,
    ),
]
PythonModule = Annotated[
    str,
    Text(
        "a Python module's name",
        r"[A-Za-z_][A-Za-z0-9_]{0,63}(?:\.[A-Za-z_][A-Za-z0-9_]{0,63}){0,5}",
        "write the name of a module, as in jupyterlab_git",
    ),
]
ModuleName = Annotated[
    str,
    Text(
        "a module's name",
        r"[A-Za-z0-9_][A-Za-z0-9_.+/@:-]{0,127}",
        "write the name for `module load`, as in gcc/13.2",
    ),
]
LanguageName = Annotated[
    str, Text("a language's name", r"[A-Za-z0-9][A-Za-z0-9_.+# -]{0,63}", "write letters, digits and _ . + # -")
]


# Values in batch scripts: no quotes, no spaces, no characters that a shell or a scheduler interprets

Account = Annotated[
    str,
    Text(
        "an account",
        r"[A-Za-z0-9_][A-Za-z0-9_.@:+-]{0,63}",
        "write letters, digits and _ . @ : + -, or leave it empty for the user's default account",
        empty=True,
    ),
]
Reservation = Annotated[
    str,
    Text(
        "a reservation",
        r"[A-Za-z0-9_][A-Za-z0-9_.,@:+-]{0,127}",
        "write letters, digits and _ . , @ : + -, or leave it empty",
        empty=True,
    ),
]
Qos = Annotated[
    str,
    Text(
        "a quality of service",
        r"[A-Za-z0-9_][A-Za-z0-9_.@:+-]{0,63}",
        "write letters, digits and _ . @ : + -, or leave it empty for the user's default",
        empty=True,
    ),
]
NodeConstraint = Annotated[
    str,
    Text(
        "a constraint",
        r"[A-Za-z0-9_(\[!][A-Za-z0-9_.,:=&|*!()\[\]+-]{0,254}",
        "write names joined by & | , with ( ) [ ] * = : and no spaces, as in intel&ib, or leave it empty",
        empty=True,
    ),
]
BatchOption = Annotated[
    str,
    Text(
        "an option",
        r"-.{1,200}",
        "write each option as a separate item, as in [--exclusive, --qos=debug]",
    ),
]


_RESOURCE = (r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", "write letters, digits and _ . -, a letter first")
ResourceName = Annotated[str, Text("a resource's name", *_RESOURCE)]
OptionalResourceName = Annotated[str, Text("a resource's name", *_RESOURCE, empty=True)]
OptionalEnvironmentOfNodes = Annotated[
    str,
    Text(
        "the name of a parallel environment",
        r"[A-Za-z_][A-Za-z0-9_.-]{0,31}(?:\{cores\}[A-Za-z0-9_.-]{0,31})?",
        "write letters, digits and _ . -, a letter first; {cores} stands for the cores per node, as in mpi_{cores}",
        empty=True,
    ),
]


# Paths, networks and addresses


def _no_way_up(value: str) -> None:
    if ".." in value.split("/"):
        complain("contains ..", "write the path without it")


_PATH = ("an absolute path", r"(?:/[A-Za-z0-9_.+@=,~-]+)+", "begin with /, use no spaces, and do not end with /")
_OF_THE_SYSTEM = re.compile(
    r"/(?:bin|boot|dev|etc|lib|lib64|proc|run|sbin|sys)(?:/.*)?|/(?:home|media|mnt|opt|root|srv|usr|var)"
    r"|/usr/(?:bin|include|lib|lib64|libexec|local|sbin|share)|/var/(?:cache|lib|log|run|spool)"
)
_TEMPORARY = re.compile(r"(?:/var|/usr)?/tmp(?:/.*)?|/dev/shm(?:/.*)?|/var/run/.*")


def _own_directory(value: str) -> None:
    _no_way_up(value)
    if _OF_THE_SYSTEM.fullmatch(value):
        complain("is a directory of the operating system", "name a directory for hpchub alone, as in /opt/hpchub")
    if _TEMPORARY.fullmatch(value):
        complain("is a directory for temporary files", "name a directory that lasts, as in /opt/hpchub")


WorkingDirectory = Annotated[
    str,
    Text(
        "a directory",
        r"~|~?(?:/(?:[A-Za-z0-9_.+@=,~-]|\{user\})+)+",
        "begin with / or ~/, use no spaces, and do not end with /; {user} stands for the user's name",
        empty=True,
        check=_no_way_up,
    ),
]
DirectoryTitle = Annotated[
    str,
    Text(
        "a title",
        r"(?![. ])(?:[^/{}\\]|\{group\}){1,60}(?<! )",
        "write at most 60 characters without /, no dot at the beginning; {group} stands for the name of a group",
    ),
]
DirectoryPath = Annotated[
    str,
    Text(
        "a directory",
        r"(?:~|\{home\})?(?:/(?!\.)(?:[^/{}\\]|\{user\}|\{group\})+)+",
        "begin with /, ~/ or {home}/, use no name that begins with a dot, and do not end with /; {user} stands for the"
        " user's name, {group} for each group",
    ),
]
Path = Annotated[str, Text(*_PATH, check=_no_way_up)]
OptionalPath = Annotated[str, Text(*_PATH, empty=True, check=_no_way_up)]
OwnDirectory = Annotated[str, Text(*_PATH, check=_own_directory)]
ControllerPath = Annotated[
    str,
    Text(
        "an absolute path",
        r"/.{1,1000}",
        "write the full path of a file on the machine that runs Ansible, or leave it empty",
        empty=True,
    ),
]
Bind = Annotated[
    str,
    Text(
        "a bind",
        r"/[A-Za-z0-9_./+@=,~-]*(?::/[A-Za-z0-9_./+@=,~-]*(?::r[ow])?)?",
        "write /source, /source:/target or /source:/target:ro",
        check=_no_way_up,
    ),
]


def _network(value: str, members: str = "the networks of the compute nodes") -> None:
    try:
        network = ipaddress.ip_network(value)
    except ValueError:
        try:
            meant = ipaddress.ip_network(value, strict=False)
        except ValueError:
            complain("is not a network", "write an address and a prefix length, as in 10.20.0.0/16")
        complain("has bits set after its prefix", f"write {meant}")
    if network.prefixlen == 0:
        complain("admits every address", f"name {members}")
    if network.prefixlen < (8 if network.version == 4 else 16):
        complain("is larger than any cluster's network", f"name {members}")


def _scraper_network(value: str) -> None:
    _network(value, "the addresses of the Prometheus servers, as in 10.20.0.7/32")


_NETWORK = Text(
    "a network",
    r"[0-9A-Fa-f:.]+/[0-9]{1,3}",
    "write an address and a prefix length, as in 10.20.0.0/16",
    check=_network,
)
Network = Annotated[str, _NETWORK]
ScraperNetwork = Annotated[str, replace(_NETWORK, check=_scraper_network)]

_HOST = r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?"
_PORT = r"(?::[0-9]{1,5})?"


def _port(value: str) -> None:
    try:
        port = urlsplit(value).port
    except ValueError:
        port = 0
    if port == 0:
        complain("has an invalid port", "write a port from 1 to 65535")


def url_host(url: str) -> str:
    """Return the host of a valid URL."""
    return urlsplit(url).hostname or ""


def is_address(host: str) -> bool:
    """Return whether a host is an IP address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return whether a host's name or address always means the machine that uses it."""
    if is_address(host):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() in ("localhost", "localhost.localdomain")


def url_port(url: str) -> int:
    """Return the port of a valid https URL."""
    return urlsplit(url).port or 443


ServiceUrl = Annotated[
    str,
    Text(
        "a service's address",
        rf"https://{_HOST}{_PORT}",
        "write https:// and the host in lower-case letters, with a port if needed, without a path or a / at the end, "
        "as in https://jupyter.example.org",
        check=_port,
    ),
]


_IN_URL = r"[^\s\"'<>\\{}]*"
SupportForm = Annotated[
    str,
    Text(
        "the address of a form with placeholders",
        rf"https://{_HOST}{_PORT}[/?]{_IN_URL}(?:\{{(?:subject|report)\}}{_IN_URL})+",
        "write https://, a host, and a path or query with the placeholders {subject} and {report}, as in"
        " https://helpdesk.example.org/new?title={subject}&text={report}",
        empty=True,
    ),
]


def _metadata(value: str) -> None:
    _port(value)
    if value.endswith("/"):
        complain("ends with /", "write the https address that ends in /.well-known/openid-configuration")


MetadataUrl = Annotated[
    str,
    Text(
        "an address of provider metadata",
        rf"https://{_HOST}{_PORT}/[A-Za-z0-9_.~/%+-]*",
        "write the https address of the provider that ends in /.well-known/openid-configuration",
        check=_metadata,
    ),
]


def _issuer(value: str) -> None:
    if "/.well-known" in value:
        complain("contains /.well-known", "write the issuer of the provider without it")


Issuer = Annotated[
    str,
    Text(
        "an issuer",
        rf"https://{_HOST}{_PORT}(?:/[A-Za-z0-9_.~/-]*)?",
        "write the address that the provider's metadata calls issuer, such as https://sso.example.org",
        check=_issuer,
    ),
]


SamlMetadataUrl = Annotated[
    str,
    Text(
        "an address of SAML metadata",
        rf"https://{_HOST}{_PORT}/[A-Za-z0-9_.~/%+-]*",
        "write the https address of the metadata of the provider or the federation",
        check=_port,
    ),
]


def _cas(value: str) -> None:
    _port(value)
    if re.search(r"/(?:login|p3|serviceValidate)?$", value):
        complain("contains the path of a page", "write the address without /login and without a / at the end")


CasUrl = Annotated[
    str,
    Text(
        "the address of a CAS server",
        rf"https://{_HOST}{_PORT}(?:/[A-Za-z0-9_.~-]+)*/?",
        "write the https address of the server, as in https://login.example.org/cas",
        check=_cas,
    ),
]

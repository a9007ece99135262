"""From a profile and the values that a user chose to the profile that is granted, or to what is wrong. No I/O.

The same functions check the form, the REST API, links, saved settings, and the last choice at a restart of a session.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from hpchub.gpus import Gpus, gpu_type
from hpchub.messages import Message, listing, marked, sentences
from hpchub.model import fields as f
from hpchub.model.adjustable import Adjustable, Amount
from hpchub.model.entries import Cluster
from hpchub.model.field_texts import LABELS, in_words
from hpchub.model.field_texts import NAMES as WORDS
from hpchub.schedulers import SCHEDULERS
from hpchub.units import mebibytes, memory_in_words, runtime_in_words, seconds

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from hpchub.model.entries import Profile, Queue
    from hpchub.model.places import PlaceBase
    from hpchub.schedulers.knowledge import Allocations

NAMES = tuple(Adjustable.model_fields)
"""The names of all fields that a profile can let users change."""
LONGEST = 300
"""The largest number of characters of a value."""

_WHOLE = re.compile(r"[0-9]{1,6}")
_PROFILE_FIELDS = {"kernel": "default_kernel"}
"""The fields of a choice that have another name in a profile. ``gpu_type`` is a part of ``gpus``."""
_KINDS: dict[str, Any] = {
    "memory": f.Memory,
    "runtime": f.Runtime,
    "gpu_type": f.GpuType,
    "account": f.Account,
    "qos": f.Qos,
    "reservation": f.Reservation,
    "node_constraint": f.NodeConstraint,
    "queue": f.QueueName,
    "working_directory": f.WorkingDirectory,
    "kernel": f.KernelReference,
}
_TYPES: dict[str, TypeAdapter[str]] = {name: TypeAdapter(kind) for name, kind in _KINDS.items()}
"""The types of the values. The other fields are whole numbers, or always have choices."""
ADVICE = (
    marked("Write letters, digits and _ . -, as in a100."),
    marked("Write letters, digits and _ . @ : + -, or leave it empty for the user's default account."),
    marked("Write letters, digits and _ . @ : + -, or leave it empty for the user's default."),
    marked("Write letters, digits and _ . , @ : + -, or leave it empty."),
    marked("Write letters, digits and _ . @ + -, or leave it empty."),
    marked("Write the id of a reservation, as in R123, or leave it empty."),
    marked("Write names joined by & | , with ( ) [ ] * = : and no spaces, as in intel&ib, or leave it empty."),
    marked("Write letters, digits, _ . @ and -, a letter or digit first."),
    marked("Begin with / or ~/, use no spaces, and do not end with /; {user} stands for the user's name."),
)
"""The sentences of the types about a value that is not valid. The catalogue of texts gets them from here."""

NOT_VALID = marked("{value!r} is not valid here. {advice}")


@dataclass(frozen=True)
class Complaint:
    """A whole sentence about the fault of a value, for the user.

    Attributes:
        field: The name of the field, or empty if the complaint concerns the choice as a whole.
        text: The sentence, with placeholders in braces.
        values: The values of the placeholders.
    """

    field: str
    text: str
    values: Mapping[str, object] = dataclasses.field(default_factory=dict)

    @property
    def message(self) -> str:
        """The sentence with the values."""
        return Message(self.text, **self.values)

    @property
    def labelled(self) -> str:
        """The sentence after the label of its field, for a text that does not stand beside the field."""
        if not self.field:
            return self.message
        return Message("{field}: {text}", field=LABELS[self.field], text=self.message)


class ChoiceError(ValueError):
    """A choice is not valid.

    Attributes:
        complaints: What is wrong, field by field.
        message: All of it in one text.
    """

    def __init__(self, complaints: list[Complaint]) -> None:
        self.complaints = tuple(complaints)
        self.message = sentences(*(each.labelled for each in complaints))
        super().__init__(self.message)


# The users of a profile


@dataclass(frozen=True)
class Person:
    """A user, as far as restrictions of profiles are concerned.

    Attributes:
        name: The name.
        groups: The groups of the identity provider.
        unix_groups: The names and numeric ids of the Unix groups. None means that they are unknown.
        is_unknown: Whether ``groups`` are unknown.
    """

    name: str
    groups: frozenset[str] = frozenset()
    unix_groups: frozenset[str] | None = None
    is_unknown: bool = False

    def may_use(self, profile: Profile) -> bool | None:
        """Return whether the person may use a profile, or None if this depends on groups that are unknown."""
        if not profile.is_restricted or self.name in profile.users or self.groups & set(profile.groups):
            return True
        if (self.unix_groups or frozenset()) & set(profile.unix_groups):
            return True
        unknown = (self.unix_groups is None and profile.unix_groups) or (self.is_unknown and profile.groups)
        return None if unknown else False


def refusal(profile: Profile, person: Person) -> Complaint | None:
    """Return why a person may not use a profile, or None if the person may. What is unknown does not permit it."""
    may_use = person.may_use(profile)
    if may_use:
        return None
    if may_use is None:
        text = marked(
            "The service cannot find out at the moment whether you may use this profile. Try again in a few minutes."
        )
        return Complaint("", text)
    groups = [*profile.groups, *profile.unix_groups]
    if groups:
        text = marked(
            "This profile is only for members of these groups: {groups}. To become a member, ask the support."
        )
        return Complaint("", text, {"groups": listing(groups)})
    return Complaint("", "This profile is only for certain users. To become one of them, ask the support.")


# The fields


def own_value(profile: Profile, name: str) -> str:
    """Return the profile's own value of a field, as text."""
    if name == "gpu_type":
        return gpu_type(profile.gpus)
    if name == "gpus":
        return str(int(profile.gpus))
    return str(getattr(profile, _PROFILE_FIELDS.get(name, name)))


def default_value(profile: Profile, name: str) -> str:
    """Return the value that an adjustable field has without a choice, as text."""
    limits = profile.adjustable.get(name)
    if limits is not None and limits.default is not None:
        return str(limits.default)
    return own_value(profile, name)


@dataclass(frozen=True)
class Options:
    """What a user may choose for a field.

    Attributes:
        values: The valid values, as text. Empty if any value that follows ``hint`` is valid.
        is_known: Whether the values are known to be this user's. If not, the scheduler decides.
    """

    values: tuple[str, ...] = ()
    is_known: bool = True


def options(
    profile: Profile,
    name: str,
    cluster: Cluster | PlaceBase,
    allocations: Allocations | None = None,
    *,
    now: float = 0.0,
    account: str | None = None,
) -> Options:
    """Return what a user may choose for an adjustable field.

    Args:
        profile: The profile.
        name: The field.
        cluster: The profile's cluster or place.
        allocations: What the scheduler lets the user request, or None if this is unknown.
        now: The time, in seconds since 1970.
        account: The account of the choice, which decides about the qualities of service. None: any account.
    """
    limits = profile.adjustable.get(name)
    if limits is None:
        return Options((own_value(profile, name),))
    if isinstance(limits, Amount):
        return Options(tuple(str(each) for each in limits.values()))
    choices = tuple(str(each) for each in limits.choices)
    if name == "queue":
        return Options(tuple(each for each in choices if (queue := cluster.queue(each)) and queue.enabled))
    if name not in ("account", "qos", "reservation"):
        return Options(choices)
    known = _known(name, allocations, now, account)
    if known is None:
        return Options(choices, is_known=False)
    found = [each for each in known if not choices or each in choices]
    # An empty text means the user's default. It is valid if the profile itself leaves the field to the scheduler.
    if default_value(profile, name) == "" or "" in choices:
        found.insert(0, "")
    return Options(tuple(dict.fromkeys(found)))


def _known(name: str, allocations: Allocations | None, now: float, account: str | None) -> tuple[str, ...] | None:
    """Return the accounts, qualities of service or reservations of a user, or None if they are unknown."""
    if allocations is None:
        return None
    if name == "account":
        accounts = allocations.accounts
        return None if accounts is None else tuple(dict.fromkeys(each.name for each in accounts if not each.unusable))
    if name == "reservation":
        found = allocations.reservations
        return None if found is None else tuple(each.name for each in found if each.end is None or each.end > now)
    wanted = allocations.default_account if account == "" else account
    of_account = [each.qos for each in allocations.accounts or () if each.name == wanted]
    if of_account and all(each is not None for each in of_account):
        return tuple(dict.fromkeys(name for each in of_account for name in each or ()))
    return allocations.qos


# The choice


def choose(
    profile: Profile,
    cluster: Cluster | PlaceBase,
    fields: Mapping[str, object],
    allocations: Allocations | None = None,
    now: float = 0.0,
) -> Profile:
    """Return the profile that a choice grants. It has no adjustable fields and no restrictions any more.

    Args:
        profile: The profile that the user chose.
        cluster: Its cluster or place.
        fields: The values that the user chose, by field. Other fields keep their defaults.
        allocations: What the scheduler lets the user request, or None if this is unknown.
        now: The time, in seconds since 1970.

    Raises:
        ChoiceError: A value is not valid.
    """
    complaints = [*_unknown(profile, fields)]
    values = {name: default_value(profile, name) for name in NAMES}
    for name in profile.adjustable.names:
        if name in fields:
            try:
                values[name] = _normal(profile, name, fields[name])
            except _Invalid as error:
                complaints.append(error.complaint)
    complaints += _against_scheduler(profile, cluster, values)
    if not complaints:
        complaints += _not_offered(profile, cluster, values, allocations, now)
    if complaints:
        raise ChoiceError(complaints)
    granted = _granted(profile, values)
    complaints += [
        *_above_queue(profile, granted, cluster.queue(granted.queue)),
        *_against_allocations(profile, granted, allocations),
    ]
    if complaints:
        raise ChoiceError(complaints)
    return granted


def normal_fields(profile: Profile, fields: Mapping[str, object]) -> dict[str, str]:
    """Return the values of a valid choice in their canonical form, as they are saved."""
    return {name: _normal(profile, name, fields[name]) for name in profile.adjustable.names if name in fields}


class _Invalid(Exception):
    """A value is not valid."""

    def __init__(self, name: str, text: str, **values: object) -> None:
        super().__init__(text)
        self.complaint = Complaint(name, text, values)


def _unknown(profile: Profile, fields: Mapping[str, object]) -> Iterator[Complaint]:
    names = profile.adjustable.names
    for each in fields:
        if each not in names:
            shown = WORDS.get(str(each), str(each)[:40])
            own = listing(WORDS[name] for name in names)
            if names:
                text = marked("The profile {profile} does not let you change {field!r}. You can change: {names}.")
            else:
                text = marked(
                    "The profile {profile} does not let you change {field!r}. You cannot change any of its values."
                )
            yield Complaint("", text, {"profile": profile.display_name, "field": shown, "names": own})
            return


def _shown(value: object) -> str:
    """Return a value as it appears in a message."""
    text = "".join(each if each.isprintable() else "�" for each in str(value)[:40])
    return text if len(str(value)) <= 40 else f"{text}…"


def _normal(profile: Profile, name: str, value: object) -> str:
    """Return a value in its canonical form.

    Raises:
        _Invalid: The value has another form than the field's, or is not in its limits.
    """
    limits = profile.adjustable.get(name)
    assert limits is not None  # noqa: S101 the caller checks it
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise _Invalid(name, "Write text or a number.")
    text = str(value).strip() if len(str(value)) <= LONGEST else str(value)
    if len(text) > LONGEST:
        raise _Invalid(name, "The value is too long: at most {most} characters are possible.", most=LONGEST)
    if isinstance(limits, Amount):
        return _amount(name, limits, text)
    if text == default_value(profile, name):
        return text
    if limits.choices and text not in map(str, limits.choices):
        valid = _choices(name, limits.choices)
        raise _Invalid(name, "{value!r} is not offered. {valid}", value=_shown(text), valid=valid)
    if name in _TYPES:
        try:
            _TYPES[name].validate_python(text)
        except ValidationError as error:
            context = error.errors(include_url=False)[0].get("ctx", {})
            advice = str(context.get("valid", ""))
            if not advice:
                raise _Invalid(name, "{value!r} is not valid here.", value=_shown(text)) from None
            raise _Invalid(name, NOT_VALID, value=_shown(text), advice=_sentence(advice)) from None
    return text


def _sentence(advice: str) -> Message:
    """Return one of ``ADVICE``, from the same words for administrators."""
    return Message(f"{advice[:1].upper()}{advice[1:]}.")


def _amount(name: str, limits: Amount, text: str) -> str:
    try:
        number = _number(name, limits, text)
    except ValueError:
        examples = {
            "memory": marked("Write a size such as {example}: choose {valid}."),
            "runtime": marked("Write hours, minutes and seconds such as {example}: choose {valid}."),
        }
        raise _Invalid(
            name,
            examples.get(name, marked("Write a whole number such as {example}: choose {valid}.")),
            example=type(limits).write(limits.most),
            valid=limits.valid,
        ) from None
    if not limits.accepts(number):
        value = type(limits).words(number)
        raise _Invalid(name, "{value} is not possible here. Choose {valid}.", value=value, valid=limits.valid)
    return str(type(limits).write(number))


def _number(name: str, limits: Amount, text: str) -> int:
    """Return an amount as a number.

    Raises:
        ValueError: The text is not an amount.
    """
    if name in _TYPES:
        return type(limits).measure(_TYPES[name].validate_python(text))
    if not _WHOLE.fullmatch(text):
        raise ValueError(text)
    return int(text)


def _against_scheduler(
    profile: Profile, cluster: Cluster | PlaceBase, values: Mapping[str, str]
) -> Iterator[Complaint]:
    """Check the reservation in the scheduler's own syntax, wherever it comes from."""
    value = values["reservation"]
    if not value or not isinstance(cluster, Cluster):
        return
    if found := SCHEDULERS[cluster.scheduler].reservation_problem(value, cluster):
        name = "reservation" if profile.adjustable.reservation else ""
        yield Complaint(name, NOT_VALID, {"value": _shown(value), "advice": _sentence(found[1])})


def _not_offered(
    profile: Profile,
    cluster: Cluster | PlaceBase,
    values: Mapping[str, str],
    allocations: Allocations | None,
    now: float,
) -> Iterator[Complaint]:
    """Compare the values with what is known of the cluster and of the user."""
    texts = {
        "account": marked("You cannot charge the account {value!r}. {valid}"),
        "qos": marked("You cannot use the quality of service {value!r}. {valid}"),
        "reservation": marked("You cannot use the reservation {value!r}. {valid}"),
        "queue": marked("The queue {value!r} is not available at the moment. {valid}"),
    }
    for name, text in texts.items():
        if profile.adjustable.get(name) is None:
            continue
        offered = options(profile, name, cluster, allocations, now=now, account=values["account"])
        if not offered.is_known or values[name] in offered.values:
            continue
        yield Complaint(name, text, {"value": _shown(values[name]), "valid": _choices(name, offered.values)})


def _choices(name: str, values: Iterable[object]) -> str:
    """Return which values are valid, in whole sentences."""
    texts = [str(each) for each in values]
    names = [in_words(name, each) for each in texts if each]
    if not names:
        return Message("Leave it empty.") if texts else Message("There is none that you can use.")
    empty = Message("You can also leave it empty.") if "" in texts else ""
    return sentences(Message("Choose one of: {names}.", names=listing(names)), empty)


def _granted(profile: Profile, values: Mapping[str, str]) -> Profile:
    update: dict[str, Any] = {"adjustable": Adjustable(), "groups": [], "unix_groups": [], "users": []}
    for name in profile.adjustable.names:
        if name in ("nodes", "cores"):
            update[name] = int(values[name])
        elif name not in ("gpus", "gpu_type"):
            update[_PROFILE_FIELDS.get(name, name)] = values[name]
    number, kind = int(values["gpus"]), values["gpu_type"]
    update["gpus"] = Gpus(types={kind: number}) if kind and number else Gpus(number)
    return profile.model_copy(update=update)


def _above_queue(profile: Profile, granted: Profile, queue: Queue | None) -> Iterator[Complaint]:
    """Compare a profile with the limits of its queue, as far as the user's choice can break them."""
    if queue is None:
        return
    chosen = profile.adjustable.names
    for name, asked, most, write in (
        ("nodes", granted.nodes, queue.max_nodes, str),
        ("cores", granted.cores, queue.max_cores, str),
        ("memory", granted.memory_mib, mebibytes(queue.max_memory), memory_in_words),
        ("runtime", granted.runtime_seconds, seconds(queue.max_runtime), runtime_in_words),
        ("gpus", int(granted.gpus), _most_gpus(granted, queue), str),
    ):
        if asked > most and (name in chosen or "queue" in chosen):
            text = marked("{value} is more than the queue {queue} permits. Choose at most {most}.")
            if granted.place:
                text = marked("{value} is more than {queue} permits. Choose at most {most}.")
            elif name == "gpus" and not most:
                text = marked("The queue {queue} has no GPUs of this kind. Choose another queue, or no GPUs.")
            yield Complaint(
                name if name in chosen else "queue",
                text,
                {"value": write(asked), "queue": queue.name, "most": write(most)},
            )


def _most_gpus(granted: Profile, queue: Queue) -> int:
    kind, types = gpu_type(granted.gpus), queue.max_gpus.types
    return types.get(kind, 0) if kind and types else int(queue.max_gpus)


def _against_allocations(profile: Profile, granted: Profile, allocations: Allocations | None) -> Iterator[Complaint]:
    """Compare a choice with what its account and its reservation permit."""
    if allocations is None:
        return
    chosen = profile.adjustable.names
    wanted = granted.account or allocations.default_account
    accounts = [each for each in allocations.accounts or () if each.name == wanted]
    queues = {queue for each in accounts for queue in each.queues or ()}
    if accounts and all(each.queues is not None for each in accounts) and granted.queue not in queues:
        text = marked("You cannot use the account {account} in the queue {queue}. Its queues are: {valid}.")
        at = next((name for name in ("account", "queue") if name in chosen), "")
        if at:
            valid = listing(sorted(queues)) or Message(marked("none"))
            values = {"account": wanted, "queue": granted.queue, "valid": valid}
            yield Complaint(at, text, values)
    limits = [each.max_runtime for each in accounts]
    if "runtime" in chosen and limits and None not in limits:
        most = max(each for each in limits if each is not None)
        if granted.runtime_seconds > most:
            text = marked("The account {account} permits sessions of at most {most}.")
            yield Complaint("runtime", text, {"account": wanted, "most": runtime_in_words(most)})
    if "reservation" in chosen and granted.reservation:
        found = [each for each in allocations.reservations or () if each.name == granted.reservation]
        if found and found[0].queue not in ("", granted.queue):
            text = marked(
                "The reservation {reservation} belongs to the queue {queue}. Choose that queue, or no reservation."
            )
            yield Complaint("reservation", text, {"reservation": granted.reservation, "queue": found[0].queue})


def permitted(profiles: Collection[Profile], person: Person) -> list[Profile]:
    """Return the profiles that a person may use."""
    return [profile for profile in profiles if refusal(profile, person) is None]

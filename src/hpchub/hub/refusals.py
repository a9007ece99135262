"""What a user reads if the scheduler refuses a value that the form has accepted. No I/O.

A quality of service, an account or a reservation can vanish between the form and the submission.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hpchub.messages import Message, marked
from hpchub.model.choice import own_value
from hpchub.model.field_texts import in_words

if TYPE_CHECKING:
    from hpchub.model.entries import Profile
    from hpchub.schedulers.terms import Terms

ADVICE = Message("Choose another value in the form. If you are sure that you may use this one, ask the support.")

TEXTS = {
    "account": marked("The cluster {cluster} does not let you use the account '{value}' at the moment ({words})."),
    "qos": marked(
        "The cluster {cluster} does not let you use the quality of service '{value}' at the moment ({words})."
    ),
    "reservation": marked(
        "The cluster {cluster} does not let you use the reservation '{value}' at the moment ({words})."
    ),
    "queue": marked("The cluster {cluster} does not let you use the queue '{value}' at the moment ({words})."),
    "node_constraint": marked("The cluster {cluster} has no node with the features '{value}' ({words})."),
    "runtime": marked("The cluster {cluster} does not permit a session of {value} ({words})."),
    "nodes": marked("The cluster {cluster} cannot give your session this number of nodes: {value} ({words})."),
    "cores": marked("The cluster {cluster} cannot give your session {value} ({words})."),
    "memory": marked("The cluster {cluster} cannot give your session {value} of memory ({words})."),
    "gpus": marked("The cluster {cluster} cannot give your session this number of GPUs: {value} ({words})."),
    "gpu_type": marked("The cluster {cluster} cannot give your session GPUs of the type '{value}' ({words})."),
}
"""What the user reads, by the field."""
_EMPTY = {
    "account": marked("The cluster {cluster} does not let you use your default account at the moment ({words})."),
    "qos": marked(
        "The cluster {cluster} does not let you use your default quality of service at the moment ({words})."
    ),
}
"""The sentences for fields that the user has left to the scheduler."""


class Refusal(NamedTuple):
    """A value that the scheduler refused.

    Attributes:
        field: The field; see ``hpchub.model.choice.NAMES``.
        text: What happened, in a sentence for the user.
    """

    field: str
    text: str


def refused_value(scheduler: Terms, profile: Profile, message: str) -> Refusal | None:
    """Return which value of a job the scheduler refused, or None if its message names none.

    Args:
        scheduler: The scheduler.
        profile: The profile that the session was granted.
        message: The scheduler's message.
    """
    found = scheduler.refusal(message)
    if found is None:
        return None
    words, fields = found
    # A value that the job does not request is refused only if no other value can be meant.
    field = next((each for each in fields if not each or own_value(profile, each)), fields[0])
    if not field:
        return None
    value = own_value(profile, field)
    text = TEXTS[field] if value else _EMPTY.get(field, TEXTS[field])
    return Refusal(field, Message(text, cluster=profile.where, value=in_words(field, value), words=words))

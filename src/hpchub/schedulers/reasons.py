"""Why jobs wait, in plain words, and whether such a wait ends by itself. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from hpchub.messages import Message

if TYPE_CHECKING:
    from collections.abc import Iterable


class Outlook(Enum):
    """How the wait of a job can end."""

    WAITS = "waits"
    """The job starts when other jobs, times or resources permit it."""
    WAITS_FOR_PERSON = "waits for a person"
    """The job starts only after a person has acted: the user, the owner of an allowance or an administrator."""
    NEVER = "never starts"
    """The job can never start as it is. The hub ends the start soon."""


@dataclass(frozen=True)
class Reason:
    """A reason why a job waits.

    Attributes:
        words: A clause in plain words without a full stop, for example ``jobs with a higher priority start first``.
        outlook: How the wait can end.
        advice: Sentences that explain what the user can do. A reason that never ends has advice.
    """

    words: str
    outlook: Outlook = Outlook.WAITS
    advice: str = ""

    def __post_init__(self) -> None:
        """Make messages of the texts, which can be translated."""
        for name in ("words", "advice"):
            text = getattr(self, name)
            if text and not isinstance(text, Message):
                object.__setattr__(self, name, Message(text))


# What the user can do

ASK_FOR_ACCOUNT = Message(
    "Ask the administrators of the cluster which account you may use. Ask the "
    "administrators of this service to set it in the profile."
)
CHOOSE_SMALLER = Message(
    "Choose a profile that requests less. If there is none, tell the administrators of "
    "this service, because the profile does not fit the cluster."
)
CHOOSE_ANOTHER = Message(
    "Choose another profile, and tell the administrators of this service, because the profile does not fit the cluster."
)
TELL = Message("Tell the administrators of the cluster. Then start again.")
RELEASE = Message("If you have not put it on hold yourself, ask the administrators of the cluster.")
ASK_FOR_TIME = Message("Ask the administrators of the cluster, or whoever manages your project.")

# Reasons that several schedulers report

DEPENDENCY = Reason("your job starts only after another job has ended")
DEPENDENCY_NEVER = Reason("your job waits for another job that will never end as required", Outlook.NEVER, TELL)
HOLD = Reason("your job is on hold until somebody releases it", Outlook.WAITS_FOR_PERSON, RELEASE)
HOLD_ADMIN = Reason(
    "an administrator has put your job on hold",
    Outlook.WAITS_FOR_PERSON,
    Message("Ask the administrators of the cluster to release it."),
)
LAUNCH_FAILED = Reason("your job could not be started, and is on hold now", Outlook.NEVER, TELL)
LIMIT_REACHED = Reason("a limit of resources is reached, for you, your group or the queue")
LIMIT_OF_JOBS = Reason("the limit of running jobs is reached, for you, your group or the queue")
LICENCES = Reason("all licences for the software that your job needs are in use")
MAINTENANCE = Reason("maintenance begins before your job would end")
NO_ACCESS = Reason(
    "you may not use the queue or the nodes that your job needs",
    Outlook.NEVER,
    Message("Ask the administrators of the cluster for access, or choose another profile."),
)
NO_FREE_NODE = Reason("no node has enough free resources for your job at the moment")
NODES_DOWN = Reason(
    "the nodes that your job needs are not available, perhaps because of maintenance",
    Outlook.WAITS_FOR_PERSON,
    Message("Ask the administrators of the cluster when they are available again."),
)
NOT_CONSIDERED = Reason("the scheduler has not considered your job yet")
PREPARING = Reason("the node for your job is being prepared")
PRIORITY = Reason("jobs with a higher priority start first")
QUEUE_CLOSED = Reason(
    "the queue is closed",
    Outlook.WAITS_FOR_PERSON,
    Message("Ask the administrators of the cluster when it opens, or choose a profile with another queue."),
)
REQUEUED = Reason("your job is prepared for another attempt to start")
RESERVATION = Reason("the nodes that your job needs are reserved")
SCHEDULER_FAILED = Reason("the scheduler had an error, and will try again")
START_TIME = Reason("the start time of your job has not come yet")
TIME_WINDOW = Reason("the queue starts jobs only at certain times")
TOO_LARGE = Reason("your job requests more than the cluster can ever provide", Outlook.NEVER, CHOOSE_SMALLER)
TOO_LONG = Reason("your job requests more time than the queue permits", Outlook.NEVER, CHOOSE_SMALLER)
UNSATISFIABLE = Reason("no node has what your job needs", Outlook.NEVER, CHOOSE_ANOTHER)

OUT_OF_LINE = frozenset(reason.words for reason in (DEPENDENCY, START_TIME, RESERVATION))
"""The words of waits that end by themselves, but in which the job does not stand in line."""


def find_reason(text: str, reasons: Iterable[tuple[str, Reason]]) -> Reason:
    """Return the first reason with a pattern that occurs in a scheduler's text, or a reason with the text itself.

    Args:
        text: The reason in the scheduler's terms.
        reasons: Patterns of parts of such texts, the most specific ones first. Upper and lower case are the same.
    """
    return next((reason for part, reason in reasons if re.search(part, text, re.IGNORECASE)), Reason(text))


def letters(text: str) -> str:
    """Return the letters and digits of a text in lower case, to compare texts that differ in punctuation only."""
    return re.sub(r"[\W_]+", "", text).casefold()

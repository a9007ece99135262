"""The doctor: what would make a user's job fail or wait for long, before it is submitted. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from hpchub.messages import Message, marked
from hpchub.schedulers import JobState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from hpchub.model.entries import Profile
    from hpchub.schedulers import Job
    from hpchub.schedulers.knowledge import Account, Allocations, JobNumbers

MAX_AGE = 1800.0
"""How old an answer may be that prevents a start, in seconds."""


@dataclass(frozen=True)
class Finding:
    """Something that would make a user's job fail.

    Attributes:
        kind: ``home``, ``quota``, ``account`` or ``jobs``.
        message: What is wrong, in whole sentences for the user.
        advice: What to do, in whole sentences for the user.
    """

    kind: str
    message: str
    advice: str


# The home directory

_FULL = ("EDQUOT", "ENOSPC")
_CLEAN_UP = Message(
    "Sign in to the cluster with ssh and delete files that you do not need, or ask for more space. Then start again."
)


def examine_home(content: Mapping[str, Any], cluster: str) -> tuple[Finding, ...]:
    """Return what is wrong with a home directory.

    Args:
        content: What the gate's doctor answered; see ``examine_home`` in ``hpchub.remote.gate``.
        cluster: The cluster's name.
    """
    home, error, quota, message = (str(content.get(name, "")) for name in ("home", "error", "quota", "message"))
    if error == "ENOENT":
        return (
            Finding(
                "home",
                Message(
                    "Your home directory {home} does not exist on the cluster {cluster}.", home=home, cluster=cluster
                ),
                Message(
                    "Sign in to the cluster with ssh once. If it is still missing, ask the administrators "
                    "of the cluster."
                ),
            ),
        )
    if quota == "files":
        return (Finding("quota", Message("You have as many files in {home} as you may have.", home=home), _CLEAN_UP),)
    if quota or error in _FULL:
        return (Finding("quota", Message("Your home directory {home} is full.", home=home), _CLEAN_UP),)
    if error:
        return (
            Finding(
                "home",
                Message(
                    "Your home directory {home} cannot be written on the cluster {cluster}.", home=home, cluster=cluster
                ),
                Message(
                    "Sign in to the cluster with ssh and check its permissions, or ask the administrators "
                    "of the cluster."
                ),
            ),
        )
    return (Finding("quota", message, _CLEAN_UP),) if message else ()


# The account and the limits

_ASK = Message("Choose another account, or ask the administrators of the cluster.")


class Jobs(NamedTuple):
    """The jobs of a user that run and that exist, waiting ones included."""

    running: int
    total: int


def count_live(jobs: Iterable[Job], user: str) -> Jobs:
    """Return the numbers of a user's jobs in the scheduler's last answer."""
    states = [job.state for job in jobs if job.user == user and job.state is not JobState.ENDED]
    return Jobs(sum(state is JobState.RUNNING for state in states), len(states))


def examine_account(profile: Profile, allocations: Allocations | None, cluster: str, now: float) -> tuple[Finding, ...]:
    """Return why a user may not run a job with a profile, as far as the scheduler has reported it recently."""
    if allocations is None or allocations.accounts is None or now - allocations.taken > MAX_AGE:
        return ()
    if not allocations.accounts:
        message = Message(
            "You have no account on the cluster {cluster} that may run jobs. It may have expired.", cluster=cluster
        )
        advice = Message("Ask the administrators of the cluster, or the person who leads your project.")
        return (Finding("account", message, advice),)
    name = profile.account or allocations.default_account
    account = _find(allocations, name)
    if account is not None:
        return tuple(Finding("account", *texts) for texts in _account_problems(account, profile))[:1]
    return (Finding("account", Message("You may not use the account {name}.", name=name), _ASK),) if name else ()


def _account_problems(account: Account, profile: Profile) -> Iterator[tuple[str, str]]:
    """Yield what prevents a job with an account, each with what to do."""
    name, queue, qos = account.name, profile.queue, profile.qos
    if account.unusable == "used_up":
        message = Message("The account {name} has used up its computing time.", name=name)
        yield message, Message("Choose another account, or ask the person who leads your project.")
    elif account.unusable:
        yield Message("The account {name} accepts no jobs. It may have expired.", name=name), _ASK
    if account.queues is not None and queue not in account.queues:
        yield (
            Message("You may not use the account {name} in the queue {queue}.", name=name, queue=queue),
            Message("Choose another account, or another profile."),
        )
    if qos and account.qos is not None and qos not in account.qos:
        message = Message("You may not use the quality of service {qos} with the account {name}.", qos=qos, name=name)
        yield message, Message("Choose another quality of service, or another profile.")


def examine_jobs(
    profile: Profile,
    allocations: Allocations | None,
    counted: Mapping[tuple[str, str], JobNumbers] | None,
    live: Jobs,
    now: float,
) -> tuple[Finding, ...]:
    """Return which limit of the user's jobs is reached.

    Args:
        profile: The profile.
        allocations: What the user may request.
        counted: The numbers of the user's jobs by account and quality of service, some minutes old. None if unknown.
        live: The user's jobs as of now.
        now: The time, in seconds since 1970.
    """
    if allocations is None or now - allocations.taken > MAX_AGE:
        return ()
    for most, have, running in _limits(profile, allocations, counted or {}, live):
        if most is not None and have >= most:
            text = marked("You have {have} jobs on the cluster, and you may have at most {most}.")
            if running:
                text = marked("You have {have} running jobs on the cluster, and you may have at most {most}.")
            message = Message(text, have=have, most=most)
            return (Finding("jobs", message, Message("Stop one of your sessions or jobs, or wait until one ends.")),)
    return ()


def _limits(
    profile: Profile, allocations: Allocations, counted: Mapping[tuple[str, str], JobNumbers], live: Jobs
) -> Iterator[tuple[int | None, int, bool]]:
    """Yield each limit, the number of jobs that count for it, and whether only running jobs count."""
    name = profile.account or allocations.default_account
    account = _find(allocations, name)
    qos = profile.qos or (account.default_qos if account else "")
    everything = Jobs(sum(each.running for each in counted.values()), sum(each.total for each in counted.values()))
    ended = Jobs(max(0, everything.running - live.running), max(0, everything.total - live.total))

    def jobs(place: int, wanted: str) -> Jobs:
        # Some of the counted jobs may have ended since then. Do not blame the user for a job that is gone.
        mine = [each for key, each in counted.items() if key[place] == wanted]
        return Jobs(
            max(0, sum(each.running for each in mine) - ended.running),
            max(0, sum(each.total for each in mine) - ended.total),
        )

    yield allocations.max_submitted, live.total, False
    yield allocations.max_jobs, live.running, True
    if account:
        yield account.max_submitted, jobs(0, name).total, False
        yield account.max_jobs, jobs(0, name).running, True
    if qos in allocations.limits_of_qos:
        yield allocations.limits_of_qos[qos].total, jobs(1, qos).total, False
        yield allocations.limits_of_qos[qos].running, jobs(1, qos).running, True


def _find(allocations: Allocations, name: str) -> Account | None:
    return next((each for each in allocations.accounts or () if each.name == name), None)

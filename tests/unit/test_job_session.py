"""Every decision of the state machine of a session. The clocks are plain numbers, and nothing waits."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from hpchub.hub import job_actions as actions
from hpchub.hub import job_events as events
from hpchub.hub.job_session import HOPELESS_AFTER, JobSession, Step
from hpchub.hub.session_state import Context, Now, Phase
from hpchub.model.entries import Cluster, NodeAddress, Profile
from hpchub.schedulers import SCHEDULERS, Job, JobState
from hpchub.schedulers.records import unreadable

HUB = "hub.example.org"
SESSION, OTHER = "a" * 16, "b" * 16
DAY = 24 * 3600.0
NOW = Now(monotonic=1000.0, wall=2e9)
PROPAGATION = SCHEDULERS["slurm"].propagation

CONTEXT = Context(
    hub=HUB,
    user="alice",
    cluster=Cluster.model_validate(
        {
            "name": "demo",
            "scheduler": "slurm",
            "submit": {"method": "local"},
            "networks": ["192.0.2.0/24"],
            "node_hosts": [{"node": "n9", "host": "n9.example"}],
            "queues": [{"name": "q", "max_cores": 4, "max_memory": "8G", "max_runtime": "12:00:00"}],
        }
    ),
    profile=Profile(
        key="small", display_name="Small", cluster="demo", queue="q", cores=1, memory="1G", runtime="1:00:00"
    ),
    scheduler=SCHEDULERS["slurm"],
    poll_interval=2.0,
    launch_timeout=60.0,
)
IDLE = JobSession(CONTEXT, session=SESSION, job_id="7", submitted=NOW.wall, last_seen=NOW.monotonic)
SUBMITTING = JobSession(CONTEXT, session=SESSION, phase=Phase.SUBMITTING, last_seen=NOW.monotonic)
SEARCHING = dataclasses.replace(SUBMITTING, phase=Phase.SEARCHING, deadline=NOW.monotonic + PROPAGATION)
QUEUED = dataclasses.replace(IDLE, phase=Phase.QUEUED, patience=PROPAGATION)


def job(state: JobState, **changes: Any) -> Job:
    """Return the session's job as the scheduler shows it."""
    host = "n1" if state is JobState.RUNNING else ""
    comment = f"hpchub/{HUB}/alice/{SESSION}"
    found = Job("7", state, state.name, host=host, name=f"hpchub-{SESSION}", user="alice", comment=comment)
    return dataclasses.replace(found, **changes)


RUNNING, PENDING = job(JobState.RUNNING), job(JobState.PENDING)
LAUNCHING = dataclasses.replace(
    QUEUED, phase=Phase.LAUNCHING, job=RUNNING, node="n1", deadline=NOW.monotonic + 60, status=JobState.RUNNING
)
RECONNECTING = dataclasses.replace(IDLE, phase=Phase.RECONNECTING, host="n1", port=20001, restarted=True)
FOREIGN = job(JobState.RUNNING, name=f"hpchub-{OTHER}", user="bob", comment=f"hpchub/{HUB}/bob/{OTHER}")


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer to a submission."""

    ok: bool = True
    stdout: str = ""
    stderr: str = ""
    error: str = ""
    timed_out: bool = False
    message: object = None


def later(seconds: float) -> Now:
    """Return the clocks after some seconds."""
    return Now(NOW.monotonic + seconds, NOW.wall + seconds)


def snapshot(*jobs: Job, after: float = 0.0) -> events.SnapshotTaken:
    """Return the event for a snapshot that was taken after some seconds."""
    return events.SnapshotTaken(NOW.monotonic + after, {each.id: each for each in jobs})


def failure(step: Step) -> actions.Fail:
    """Return the failure that a step decided."""
    assert isinstance(step.action, actions.Fail)
    return step.action


# -- The submission


def test_start_begins_a_new_session_and_forgets_the_previous_one() -> None:
    ended = dataclasses.replace(LAUNCHING, port=20001, host="n1", cancelled=True, message="old")
    state = ended.step(events.StartRequested(OTHER), NOW).state
    assert state == dataclasses.replace(SUBMITTING, session=OTHER)
    assert state.saved == {"session": OTHER, "job_id": "", "submitted": 0.0, "started": 0.0, "host": "", "port": 0}
    assert state.message == "Your job is being submitted."


def test_submitted_job_is_queued_and_has_its_id_and_time_saved() -> None:
    step = SUBMITTING.step(events.SubmissionAnswered(Answer(stdout="7\n")), later(5))
    assert (step.state.phase, step.action) == (Phase.QUEUED, actions.Done())
    assert step.state.saved == {
        "session": SESSION,
        "job_id": "7",
        "submitted": NOW.wall + 5,
        "started": 0.0,
        "host": "",
        "port": 0,
    }
    assert (step.state.last_seen, step.state.patience) == (NOW.monotonic + 5, PROPAGATION)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(ok=False, stderr="noise\nover quota\n"), "The cluster demo did not accept your job: over quota"),
        (Answer(ok=False, error="no account"), "The cluster demo did not accept your job: no account"),
        (
            Answer(ok=False, error="x", message={"id": "no_account", "values": {"user": "alice"}}),
            "The cluster demo did not accept your job: alice has no account on this cluster",
        ),
    ],
    ids=["message-of-the-submit-command", "text-of-the-gate", "message-of-the-gate"],
)
def test_refused_submission_fails_with_the_reason(answer: Answer, message: str) -> None:
    fail = failure(SUBMITTING.step(events.SubmissionAnswered(answer), NOW))
    assert (fail.message, fail.reason, fail.status_code) == (message, "refused", 400)
    assert "Choose another profile" in fail.advice
    assert not fail.field


def test_refused_submission_names_the_value_that_the_scheduler_refuses() -> None:
    stderr = "sbatch: error: Batch job submission failed: Invalid partition name specified\n"
    fail = failure(SUBMITTING.step(events.SubmissionAnswered(Answer(ok=False, stderr=stderr)), NOW))
    assert (fail.field, fail.reason, fail.status_code) == ("queue", "refused", 400)
    assert "(Invalid partition name specified)" in fail.message
    assert "Choose another value in the form" in fail.advice


@pytest.mark.parametrize("stdout", ["7\n", "Welcome\n7\n", "7\nYour project has 12 hours left.\n", "7\nbye"])
def test_lines_of_a_submit_wrapper_do_not_hide_the_job_id(stdout: str) -> None:
    state = SUBMITTING.step(events.SubmissionAnswered(Answer(stdout=stdout)), NOW).state
    assert (state.phase, state.job_id) == (Phase.QUEUED, "7")


@pytest.mark.parametrize(
    "event",
    [
        events.SubmissionUnanswered("connection reset"),
        events.SubmissionAnswered(Answer(ok=False, timed_out=True)),
        events.SubmissionAnswered(Answer(stdout="noise\n")),
        events.SubmissionAnswered(Answer(stdout="1")),
        events.SubmissionAnswered(Answer(stdout="noise\n1")),
        events.SubmissionAnswered(Answer(stdout="7\n1")),
        events.SubmissionAnswered(Answer(stdout="7\n8\n")),
        events.SubmissionAnswered(Answer()),
    ],
    ids=[
        "no-answer",
        "timeout",
        "no-job-id",
        "id-is-cut-off",
        "id-after-noise-is-cut-off",
        "second-id-is-cut-off",
        "two-ids",
        "no-output",
    ],
)
def test_submission_without_a_job_id_starts_the_search(event: events.Event) -> None:
    step = SUBMITTING.step(event, NOW)
    assert step.state == SEARCHING
    assert step.action == actions.Observe(max_age=2.0)
    assert "in doubt" in step.note


def test_search_ends_when_the_job_is_found_by_its_name() -> None:
    neighbour = job(JobState.PENDING, id="6", name=f"hpchub-{OTHER}", comment=f"hpchub/{HUB}/alice/{OTHER}")
    observed = SEARCHING.step(snapshot(neighbour, PENDING, after=1), later(2))
    assert observed.state.job_id == "7"
    step = observed.state.step(events.Observed(), later(3))
    assert (step.state.phase, step.action, step.state.submitted) == (Phase.QUEUED, actions.Done(), NOW.wall + 3)


def test_search_repeats_until_a_new_job_must_be_visible() -> None:
    missing = SEARCHING.step(snapshot(after=1), later(1)).state
    assert missing.status is JobState.UNKNOWN
    assert missing.step(events.Observed(), later(1)).action == actions.Wait(2.0)
    assert missing.step(events.Waited(), later(PROPAGATION - 0.1)).action == actions.Observe(max_age=2.0)
    fail = failure(missing.step(events.Waited(), later(PROPAGATION)))
    assert fail.reason == "unanswered"
    assert fail.message == "The cluster demo does not answer at the moment."
    assert fail.advice == "Please try again in a few minutes."


def test_failed_search_shows_the_message_of_the_submit_command() -> None:
    answer = Answer(stderr="sbatch: error: You are over quota\n")
    state = SUBMITTING.step(events.SubmissionAnswered(answer), NOW).state
    fail = failure(state.step(events.Waited(), later(PROPAGATION)))
    assert fail.message == "The cluster demo did not confirm your job: sbatch: error: You are over quota."


@pytest.mark.parametrize("state", [SUBMITTING, SEARCHING], ids=lambda state: state.phase.name)
def test_missing_job_is_unknown_during_its_submission_and_over_after_a_failed_one(state: JobSession) -> None:
    long_after = snapshot(after=10 * PROPAGATION)
    assert state.step(long_after, later(10 * PROPAGATION)).state.status is JobState.UNKNOWN
    ended = state.step(events.SubmissionEnded(), NOW).state
    assert ended.phase is Phase.IDLE
    assert ended.step(long_after, later(10 * PROPAGATION)).state.status is JobState.ENDED


def test_end_of_the_submission_does_not_change_a_submitted_job() -> None:
    assert QUEUED.step(events.SubmissionEnded(), NOW).state == QUEUED


# -- Observations


@pytest.mark.parametrize("state", list(JobState), ids=lambda state: state.name)
def test_job_in_a_snapshot_has_the_state_that_the_scheduler_reports(state: JobState) -> None:
    step = dataclasses.replace(IDLE, silent=True).step(snapshot(job(state), after=5), later(6))
    assert (step.state.status, step.state.job, step.state.silent) == (state, job(state), False)
    assert (step.state.last_seen, step.state.patience) == (NOW.monotonic + 5, PROPAGATION)
    assert (step.action, step.note) == (None, "")


def test_damaged_record_makes_the_state_unknown_and_keeps_what_is_known() -> None:
    damaged = unreadable("7", "…")
    state = dataclasses.replace(QUEUED, job=RUNNING).step(snapshot(damaged, after=9999), later(9999)).state
    assert (state.status, state.job) == (JobState.UNKNOWN, RUNNING)


@pytest.mark.parametrize(("tag", "status"), [(SESSION, JobState.UNKNOWN), (OTHER, JobState.ENDED)])
def test_session_without_a_job_id_is_unknown_while_a_damaged_record_has_its_tag(tag: str, status: JobState) -> None:
    damaged = unreadable("7", f'"HPCHUB_TAG":"hpchub/{HUB}/alice/{tag}", "')
    state = dataclasses.replace(IDLE, job_id="").step(snapshot(damaged, after=9999), later(9999)).state
    assert state.status is status


def test_older_snapshot_does_not_move_the_last_sighting_back() -> None:
    assert IDLE.step(snapshot(RUNNING, after=-50), NOW).state.last_seen == NOW.monotonic


@pytest.mark.parametrize(
    ("found", "status", "job_id"),
    [
        ([RUNNING], JobState.RUNNING, "7"),
        ([job(JobState.RUNNING, name="renamed")], JobState.RUNNING, "7"),
        ([job(JobState.RUNNING, name="renamed", user="")], JobState.RUNNING, "7"),
        ([job(JobState.RUNNING, user="ALICE")], JobState.RUNNING, "7"),
        ([FOREIGN], JobState.ENDED, "7"),
        ([job(JobState.RUNNING, name="mine", user="bob")], JobState.ENDED, "7"),
        ([job(JobState.RUNNING, name=f"hpchub-{OTHER}", comment=f"hpchub/{HUB}/alice/{OTHER}")], JobState.ENDED, "7"),
        ([FOREIGN, job(JobState.PENDING, id="8")], JobState.PENDING, "8"),
    ],
    ids=[
        "own-job",
        "job-renamed-by-its-user",
        "renamed-job-without-a-user",
        "user-name-differs-at-the-scheduler",
        "id-reused-by-another-session",
        "id-reused-by-another-user",
        "id-reused-by-the-same-user",
        "id-reused-and-own-job-found-by-name",
    ],
)
def test_job_with_the_saved_id(found: list[Job], status: JobState, job_id: str) -> None:
    step = IDLE.step(snapshot(*found, after=100), later(100))
    assert (step.state.status, step.state.job_id) == (status, job_id)


@pytest.mark.parametrize(
    ("found", "age", "status"),
    [
        ([RUNNING], 0, JobState.RUNNING),
        ([job(JobState.RUNNING, user="bob")], 0, JobState.UNKNOWN),
        ([job(JobState.RUNNING, comment=f"hpchub/other/alice/{SESSION}")], 0, JobState.UNKNOWN),
        ([], PROPAGATION + 90, JobState.UNKNOWN),
        ([], PROPAGATION + 91, JobState.ENDED),
    ],
    ids=["found", "job-of-another-user", "job-of-another-hub", "not-visible-yet", "was-never-submitted"],
)
def test_job_without_a_saved_id_is_found_by_its_name(found: list[Job], age: float, status: JobState) -> None:
    saved = {"session": SESSION, "job_id": "", "submitted": 0.0, "started": 0.0, "host": "", "port": 0}
    restored = JobSession.restore(CONTEXT, saved, NOW).extend_patience(90)
    step = restored.step(snapshot(*found, after=age), later(age))
    assert step.state.status is status
    assert step.state.job_id == ("7" if status is JobState.RUNNING else "")
    assert step.state.submitted == (NOW.wall + age if status is JobState.RUNNING else 0.0)
    assert step.action is None


def test_time_of_the_submission_is_kept_when_the_job_gets_a_new_id() -> None:
    step = IDLE.step(snapshot(FOREIGN, job(JobState.PENDING, id="8")), later(100))
    assert step.state.submitted == NOW.wall


@pytest.mark.parametrize(
    ("age", "cancelled", "action"),
    [
        (PROPAGATION, False, None),
        (PROPAGATION + 1, False, actions.LookUpJob("7")),
        (1, True, actions.LookUpJob("7")),
        (0, True, None),
    ],
    ids=["missing-briefly", "missing-for-long", "missing-after-cancellation", "snapshot-from-before-it-was-missing"],
)
def test_missing_job_is_looked_up_after_the_patience(age: float, cancelled: bool, action: actions.Action) -> None:
    state = QUEUED.step(events.CancelConfirmed(), NOW).state if cancelled else QUEUED
    step = state.step(snapshot(after=age), later(age))
    assert (step.state.status, step.action) == (JobState.UNKNOWN, action)


@pytest.mark.parametrize(
    ("event", "status"),
    [
        (events.JobLookedUp(None), JobState.ENDED),
        (events.JobLookedUp(job(JobState.ENDED)), JobState.ENDED),
        (events.JobLookedUp(RUNNING), JobState.RUNNING),
        (events.JobLookedUp(Job("7", JobState.UNKNOWN)), JobState.UNKNOWN),
        (events.LookUpUnanswered(), JobState.UNKNOWN),
    ],
    ids=["job-does-not-exist", "job-has-ended", "job-runs", "job-exists", "no-answer"],
)
def test_look_up_ends_the_session_only_if_the_scheduler_reports_the_end(event: events.Event, status: JobState) -> None:
    assert IDLE.step(event, NOW).state.status is status


def test_look_up_without_a_host_keeps_the_known_host() -> None:
    state = LAUNCHING.step(events.JobLookedUp(Job("7", JobState.UNKNOWN)), NOW).state
    assert state.job is not None
    assert state.job.host == "n1"


def test_silent_scheduler_ends_nothing() -> None:
    state = LAUNCHING.step(events.SnapshotUnanswered(), later(10 * DAY)).state
    assert (state.status, state.silent, state.job) == (JobState.UNKNOWN, True, RUNNING)


@pytest.mark.parametrize(
    ("port", "reported", "taken", "status"),
    [
        (0, -math.inf, 0, JobState.PENDING),
        (20001, 5, 4, JobState.PENDING),
        (20001, 5, 6, JobState.ENDED),
        (20001, -math.inf, 0, JobState.ENDED),
    ],
    ids=["before-the-report", "snapshot-from-before-the-report", "after-the-report", "after-a-restart-of-the-hub"],
)
def test_requeued_job_ends_the_session_only_after_its_server_has_started(
    port: int, reported: float, taken: float, status: JobState
) -> None:
    state = dataclasses.replace(IDLE, port=port, reported_at=NOW.monotonic + reported)
    assert state.step(snapshot(PENDING, after=taken), later(10)).state.status is status


# -- The port report


def test_port_is_accepted_once() -> None:
    step = LAUNCHING.step(events.PortReported(20001), later(3))
    assert (step.state.port, step.state.reported_at, step.state.saved["port"]) == (20001, NOW.monotonic + 3, 20001)
    for port in (20001, 20002):
        assert step.state.step(events.PortReported(port), later(4)).state is step.state


@pytest.mark.parametrize("state", [QUEUED, LAUNCHING], ids=["queued", "launching"])
def test_reported_problem_ends_the_start_with_its_reason(state: JobSession) -> None:
    state = dataclasses.replace(state, job=RUNNING)
    reported = state.step(events.ProblemReported("~/.jupyter/x.py, line 2: no"), later(3)).state
    fail = failure(reported.step(events.Waited(), later(4)))
    assert fail.reason == "problem"
    assert fail.message == (
        "Your job 7 runs on n1, but its notebook server could not start: ~/.jupyter/x.py, line 2: no"
    )


def test_report_after_a_problem_is_refused_and_the_other_way_round() -> None:
    broken = LAUNCHING.step(events.ProblemReported("no"), NOW).state
    assert broken.step(events.PortReported(20001), NOW).state is broken
    started = LAUNCHING.step(events.PortReported(20001), NOW).state
    assert started.step(events.ProblemReported("no"), NOW).state is started


def test_notice_of_the_launcher_is_shown() -> None:
    state = LAUNCHING.step(events.PortReported(20001, notice="Without x.py."), NOW).state
    assert state.step(events.TurnTaken(), NOW).state.message.endswith("Opening it. Without x.py.")


# -- The addresses of a node

REPORTED = (("eth0", "192.0.2.9"), ("ib0", "198.51.100.9"), ("eth1", "192.0.2.10"))


def with_rule(**rule: str) -> JobSession:
    """Return a session with a running job, on a cluster with two networks and a rule for the addresses of nodes."""
    networks = ["192.0.2.0/24", "2001:db8::/32"]
    cluster = CONTEXT.cluster.model_copy(update={"node_address": NodeAddress(**rule), "networks": networks})
    return dataclasses.replace(LAUNCHING, context=dataclasses.replace(CONTEXT, cluster=cluster), port=20001)


@pytest.mark.parametrize(
    ("rule", "hosts"),
    [
        pytest.param({}, ["n1", "192.0.2.9", "192.0.2.10"], id="no-rule"),
        pytest.param({"suffix": "-ib.example"}, ["n1-ib.example"], id="suffix"),
        pytest.param({"pattern": "192.0.2.1*"}, ["192.0.2.10"], id="pattern"),
        pytest.param({"interface": "eth1"}, ["192.0.2.10"], id="interface"),
    ],
)
def test_rule_chooses_the_addresses_in_the_networks_of_the_cluster(rule: dict[str, str], hosts: list[str]) -> None:
    state = dataclasses.replace(with_rule(**rule), addresses=REPORTED)
    tried = []
    step = state.step(events.TurnTaken(), NOW)
    while isinstance(step.action, actions.Probe):
        tried.append(step.action.host)
        step = step.state.step(events.Probed(reachable=False), NOW)
    assert tried == hosts


def test_first_address_that_answers_becomes_the_host_of_the_server() -> None:
    state = dataclasses.replace(with_rule(), addresses=(("eth0", "2001:db8::9"),))
    assert JobSession.restore(state.context, state.saved, NOW).addresses == state.addresses
    step = state.step(events.TurnTaken(), NOW)
    step = step.state.step(events.Probed(reachable=False), NOW)
    step = step.state.step(events.Probed(reachable=True), NOW)
    assert (step.state.host, step.action) == ("2001:db8::9", actions.Done("https://[2001:db8::9]:20001"))


def test_node_that_the_hub_cannot_reach_ends_the_start_soon() -> None:
    state = dataclasses.replace(with_rule(), addresses=REPORTED)
    step = state.step(events.TurnTaken(), NOW)
    seconds = 0.0
    while not isinstance(step.action, actions.Fail):
        match step.action:
            case actions.Probe():
                seconds += 5
                event: events.Event = events.Probed(reachable=False)
            case actions.Observe():
                event = events.Observed()
            case _:
                event = events.Waited()
        step = step.state.step(event, later(seconds))
    assert seconds <= 60
    assert step.action.reason == "unreachable"
    assert "tried: n1, 192.0.2.9, 192.0.2.10; port 20001" in step.action.message


def test_rule_without_a_matching_address_is_explained() -> None:
    state = dataclasses.replace(with_rule(interface="ib0"), addresses=REPORTED)
    fail = failure(state.step(events.TurnTaken(), NOW))
    assert "none of the node's addresses (eth0 192.0.2.9, ib0 198.51.100.9, eth1 192.0.2.10) matches" in fail.message


def test_port_is_refused_without_a_session() -> None:
    nothing = JobSession(CONTEXT)
    assert nothing.step(events.PortReported(20001), NOW).state is nothing


# -- The wait in the queue


@pytest.mark.parametrize(
    ("port", "reported", "max_age"),
    [(0, -math.inf, 1.7), (20001, -0.5, 0.5), (20001, -60, 1.7)],
    ids=["no-report", "report-is-new", "report-is-old"],
)
def test_observation_in_the_queue_is_newer_than_the_last_one_and_than_the_report(
    port: int, reported: float, max_age: float
) -> None:
    state = dataclasses.replace(QUEUED, port=port, reported_at=NOW.monotonic + reported)
    for event in (events.FollowRequested(), events.Waited()):
        assert state.step(event, NOW).action == actions.Observe(max_age)


def test_running_job_is_launching() -> None:
    state = dataclasses.replace(QUEUED, job=RUNNING, status=JobState.RUNNING)
    step = state.step(events.Observed(), NOW)
    assert (step.state.phase, step.state.node, step.action) == (Phase.LAUNCHING, "n1", actions.Observe(max_age=5.0))
    assert step.state.deadline == NOW.monotonic + 60
    assert step.state.message == "Your job 7 runs on n1. The notebook server is starting."


def test_running_job_without_a_host_keeps_waiting() -> None:
    state = dataclasses.replace(QUEUED, job=job(JobState.RUNNING, host=""), status=JobState.RUNNING)
    step = state.step(events.Observed(), NOW)
    assert (step.state.phase, step.action) == (Phase.QUEUED, actions.Wait(2.0))


def test_wait_is_shorter_after_the_port_report() -> None:
    for state in (QUEUED, LAUNCHING):
        waiting = dataclasses.replace(state, port=20001, job=PENDING, status=JobState.UNKNOWN)
        assert waiting.step(events.Observed(), NOW).action == actions.Wait(0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"job": PENDING, "status": JobState.PENDING}, "Your job 7 waits in the queue q of demo."),
        (
            {
                "job": job(JobState.PENDING, reason="Resources", start="2027-01-02T03:04:05"),
                "status": JobState.PENDING,
            },
            "Your job 7 waits in the queue q of demo: {Resources} (Resources).",
        ),
        (
            {"job": PENDING, "silent": True, "status": JobState.UNKNOWN},
            (
                "Your job 7 waits in the queue q of demo. The scheduler does not answer at the moment."
                " Your job keeps its place in the queue."
            ),
        ),
        (
            {"status": JobState.UNKNOWN},
            "Your job 7 waits in the queue q of demo. The scheduler has not reported its state yet.",
        ),
        (
            {"job_id": "", "status": JobState.UNKNOWN},
            "The service was restarted while it submitted your job to demo. It is searching for the job.",
        ),
    ],
    ids=["pending", "reason", "scheduler-is-silent", "state-is-unknown", "job-is-not-found-yet"],
)
def test_message_in_the_queue(changes: dict[str, Any], message: str) -> None:
    step = dataclasses.replace(QUEUED, **changes).step(events.Observed(), NOW)
    assert step.state.message == message.replace("{Resources}", CONTEXT.scheduler.explain("Resources"))
    assert step.action == actions.Wait(2.0)


NEVER = job(JobState.PENDING, reason="InvalidAccount")


def test_job_that_can_never_start_ends_the_start_with_advice() -> None:
    state = QUEUED.step(snapshot(NEVER, after=1), later(1)).state
    assert isinstance(state.step(events.Observed(), later(1)).action, actions.Wait)
    state = state.step(snapshot(NEVER, after=1 + HOPELESS_AFTER), later(12)).state
    fail = failure(state.step(events.Observed(), later(12)))
    assert (fail.reason, fail.field) == ("never_starts", "account")
    assert "can never start in the queue q of demo: your account does not exist, or is closed" in fail.message
    assert fail.message.endswith("(InvalidAccount).")
    assert "Ask the administrators" in fail.advice


@pytest.mark.parametrize("between", [PENDING, job(JobState.PENDING, reason="Priority"), RUNNING])
def test_reason_that_goes_away_ends_nothing(between: Job) -> None:
    state = QUEUED
    for i, shown in enumerate((NEVER, between, NEVER)):
        state = state.step(snapshot(shown, after=8.0 * i), later(8.0 * i)).state
        assert not isinstance(state.step(events.Observed(), later(8.0 * i)).action, actions.Fail)


def test_job_that_can_never_start_is_kept_while_the_scheduler_is_silent() -> None:
    state = QUEUED.step(snapshot(NEVER, after=1), later(1)).state.step(events.SnapshotUnanswered(), later(99)).state
    assert not isinstance(state.step(events.Observed(), later(99)).action, actions.Fail)


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("SomethingNew", "q of demo: SomethingNew."),
        ("Something new.", "q of demo: Something new."),
        ("Something new. ", "q of demo: Something new."),
        ("Something_new", "q of demo: Something_new."),
        ("Priority", "q of demo: jobs with a higher priority start first (Priority)."),
        (
            "JobHeldAdmin",
            "on hold (JobHeldAdmin). Ask the administrators of the cluster to release it.",
        ),
    ],
)
def test_message_in_the_queue_shows_a_reason_once(reason: str, message: str) -> None:
    state = QUEUED.step(snapshot(job(JobState.PENDING, reason=reason)), NOW).state.step(events.Observed(), NOW).state
    assert state.message.endswith(message)


@pytest.mark.parametrize("state", [JobState.PENDING, JobState.UNKNOWN, JobState.RUNNING], ids=lambda state: state.name)
def test_wait_longer_than_the_profile_allows_fails(state: JobState) -> None:
    waiting = dataclasses.replace(QUEUED, job=job(state, host=""), status=state)
    assert waiting.step(events.Observed(), later(7 * DAY)).action == actions.Wait(2.0)
    fail = failure(waiting.step(events.Observed(), later(7 * DAY + 1)))
    assert fail.reason == "waited"
    assert fail.message.startswith(
        "Your job 7 waited in the queue q of demo for longer than its profile allows (7 days),"
    )


@pytest.mark.parametrize(
    "changes",
    [{"silent": True}, {"submitted": 0.0}, {"job": None}],
    ids=["scheduler-is-silent", "submission-time-is-unknown", "job-was-not-seen"],
)
def test_long_wait_does_not_fail_if_the_job_may_have_started(changes: dict[str, Any]) -> None:
    waiting = dataclasses.replace(QUEUED, **{"job": PENDING, "status": JobState.UNKNOWN, **changes})
    assert waiting.step(events.Observed(), later(8 * DAY)).action == actions.Wait(2.0)


# -- The launch


@pytest.mark.parametrize(
    ("port", "after", "action"),
    [
        (0, 60, actions.Observe(max_age=5.0)),
        (20001, 0, actions.TakeTurn()),
        (20001, 100, actions.TakeTurn()),
    ],
    ids=["no-report", "report", "report-after-the-timeout"],
)
def test_launch_waits_for_the_report(port: int, after: float, action: actions.Action) -> None:
    state = dataclasses.replace(LAUNCHING, port=port)
    assert state.step(events.Waited(), later(after)).action == action


def test_launch_fails_after_its_timeout() -> None:
    fail = failure(LAUNCHING.step(events.Waited(), later(61)))
    assert fail.reason == "no_report"
    assert fail.message == "Your job 7 runs on n1, but its notebook server did not start within 60 seconds."
    assert fail.advice == "To find the reason, read its log on the cluster: ~/.hpchub/logs/7.log"


def test_job_that_is_pending_again_before_its_report_returns_to_the_queue_with_a_new_timeout() -> None:
    state = dataclasses.replace(LAUNCHING, job=PENDING, status=JobState.PENDING)
    step = state.step(events.Observed(), later(50))
    assert (step.state.phase, step.action) == (Phase.QUEUED, actions.Observe(max_age=1.7))
    again = dataclasses.replace(step.state, job=job(JobState.RUNNING, host="n2"), status=JobState.RUNNING)
    step = again.step(events.Observed(), later(55))
    assert (step.state.node, step.state.deadline) == ("n2", NOW.monotonic + 55 + 60)


def test_unknown_state_during_the_launch_keeps_waiting() -> None:
    state = dataclasses.replace(LAUNCHING, status=JobState.UNKNOWN)
    assert state.step(events.Observed(), NOW).action == actions.Wait(2.0)


@pytest.mark.parametrize(
    ("shown", "host"),
    [(RUNNING, "n1"), (job(JobState.RUNNING, host="n9"), "n9.example"), (job(JobState.UNKNOWN), "n1")],
    ids=["node", "node-with-another-host-name", "node-is-no-longer-shown"],
)
def test_server_is_ready_on_the_node_of_the_job(shown: Job, host: str) -> None:
    state = dataclasses.replace(LAUNCHING, port=20001, job=shown)
    step = state.step(events.TurnTaken(), NOW)
    assert (step.state.phase, step.action) == (Phase.READY, actions.Done(f"https://{host}:20001"))
    assert step.state.saved["host"] == host
    assert step.state.message == f"Your notebook server is ready on {host}. Opening it."


# -- The end


@pytest.mark.parametrize("state", [QUEUED, LAUNCHING, RECONNECTING], ids=lambda state: state.phase.name)
@pytest.mark.parametrize(
    "shown", [job(JobState.ENDED, detail="COMPLETING"), job(JobState.ENDED, detail="TIMEOUT"), RUNNING]
)
def test_ended_job_fails_the_start_with_its_log_and_without_a_term_of_the_scheduler(
    state: JobSession, shown: Job
) -> None:
    over = dataclasses.replace(state, job=shown, status=JobState.ENDED, port=20001)
    fail = failure(over.step(events.Observed(), NOW))
    assert fail.reason == "ended"
    assert fail.message == "Your job 7 ended before its notebook server was ready."
    assert fail.advice == "If it ran, you find the reason in its log on the cluster: ~/.hpchub/logs/7.log"


def test_start_whose_job_was_never_submitted_fails() -> None:
    state = dataclasses.replace(QUEUED, job_id="", status=JobState.ENDED)
    fail = failure(state.step(events.Observed(), NOW))
    assert fail.reason == "not_submitted"
    assert fail.message == "The service was restarted before your job was submitted."
    assert fail.advice == "Please start your session again."


@pytest.mark.parametrize(
    "event", [events.Observed(), events.Waited(), events.TurnTaken(), events.Probed(reachable=True)], ids=repr
)
def test_start_fails_if_its_session_was_cleared_meanwhile(event: events.Event) -> None:
    assert failure(JobSession(CONTEXT).step(event, NOW)).reason == "not_submitted"


# -- A restart of the hub


def test_restored_session_continues_its_start() -> None:
    step = IDLE.step(events.FollowRequested(after_restart=True), NOW)
    assert (step.state.phase, step.action) == (Phase.QUEUED, actions.Observe(max_age=1.7))
    assert step.state.message == "The service was restarted. Your session continues to start."


def test_restored_start_probes_the_server_before_it_is_ready() -> None:
    state = dataclasses.replace(LAUNCHING, port=20001, restarted=True)
    step = state.step(events.TurnTaken(), NOW)
    assert (step.state.phase, step.action) == (Phase.RECONNECTING, actions.Probe("n1", 20001))
    assert step.state.saved["host"] == "n1"


def test_restored_server_is_probed_until_it_answers() -> None:
    ready = dataclasses.replace(IDLE, host="n1", port=20001)
    step = ready.step(events.FollowRequested(after_restart=True), NOW)
    assert step == Step(dataclasses.replace(RECONNECTING, message=step.state.message), actions.Probe("n1", 20001))
    assert step.state.message == "The service was restarted. It is waiting for your session on n1 to answer."

    step = step.state.step(events.Probed(reachable=False), NOW)
    assert step.action == actions.Observe(max_age=5.0)
    unknown = step.state.step(events.SnapshotUnanswered(), NOW).state
    assert unknown.step(events.Observed(), NOW).action == actions.Wait(2.0)
    assert unknown.step(events.Waited(), NOW).action == actions.Probe("n1", 20001)
    step = unknown.step(events.Probed(reachable=True), NOW)
    assert (step.state.phase, step.action) == (Phase.READY, actions.Done("https://n1:20001"))


def test_saved_session_is_restored() -> None:
    saved = {"session": SESSION, "job_id": "7", "submitted": 1.5, "started": 2.5, "host": "n1", "port": 20001}
    state = JobSession.restore(CONTEXT, saved, NOW)
    assert state.saved == saved
    assert (state.last_seen, state.patience, state.reported_at) == (NOW.monotonic, PROPAGATION, -math.inf)


@pytest.mark.parametrize(
    ("name", "value", "restored"),
    [
        ("job_id", "7; rm", ""),
        ("job_id", None, ""),
        ("submitted", "yesterday", 0.0),
        ("started", "yesterday", 0.0),
        ("port", "20001", 0),
        ("port", True, 0),
    ],
    ids=repr,
)
def test_invalid_saved_values_are_ignored(name: str, value: object, restored: object) -> None:
    saved = {"session": SESSION, "job_id": "7", "submitted": 1.5, "started": 2.5, "host": "n1", "port": 20001}
    assert JobSession.restore(CONTEXT, {**saved, name: value}, NOW).saved == {**saved, name: restored}


@pytest.mark.parametrize("name", ["", "../../etc", "A" * 16, "a" * 17, None], ids=repr)
def test_invalid_session_name_is_no_session(name: object) -> None:
    assert JobSession.restore(CONTEXT, {"session": name, "job_id": "7"}, NOW).saved == {}


# -- The progress page


@pytest.mark.parametrize(
    ("state", "percent"),
    [(SUBMITTING, 10), (QUEUED, 30), (LAUNCHING, 60), (dataclasses.replace(LAUNCHING, port=20001), 90)],
    ids=["submitting", "queued", "launching", "reported"],
)
def test_progress_grows_with_the_start(state: JobSession, percent: int) -> None:
    assert state.percent == percent

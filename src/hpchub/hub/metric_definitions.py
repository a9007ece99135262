"""The definitions of the hub's metrics: names, meanings and labels. No I/O.

All labels have a bounded set of values: clusters and profiles of the inventory, and words of this package. No label is
the name of a user or a job. The reference in the documentation is generated from these definitions.
"""

from __future__ import annotations

from typing import NamedTuple

from hpchub.clusters import gate_client
from hpchub.clusters.versions import GATE, HUB, NOTEBOOK, PROXY
from hpchub.hub.outcome import STOPPED
from hpchub.schedulers import Cause

ACTIONS = ("submit", "query", "find", "cancel", "history", "limits", "log", "versions")
"""The requests that a gate accepts."""

STATES = ("submitting", "queued", "launching", "ready", "stopping")
"""The states of a session in ``hpchub_sessions``."""

_SHORT = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 90)
_WAIT = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400)
_LAUNCH = (1, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 360)
_WRITE = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metric(NamedTuple):
    """The definition of a metric.

    Attributes:
        name: The name. A counter is scraped with ``_total`` after it.
        kind: ``counter``, ``gauge`` or ``histogram``.
        about: What it measures.
        labels: Its labels, each with its values in words.
        buckets: The upper bounds of a histogram.
    """

    name: str
    kind: str
    about: str
    labels: dict[str, str] = {}  # noqa: RUF012 never changed
    buckets: tuple[float, ...] = ()


_CLUSTER = {"cluster": "a cluster of the inventory"}
_PROFILE = {**_CLUSTER, "profile": "the key of a profile"}
_PART = {**_CLUSTER, "part": f"{HUB}, {PROXY}, {GATE}, {NOTEBOOK}"}
_GATE = {**_CLUSTER, "action": ", ".join(ACTIONS)}

SIGN_IN_RESULTS = (
    "accepted",
    "no_identity",
    "not_permitted",
    "other_identity",
    "wrong_password",
    "throttled",
    "unavailable",
    "other",
)
"""The results of a sign-in. The refusals are the reasons of ``events.SignInRefused``."""

REASONS = (
    *("refused", "unanswered", "not_submitted", "never_starts", "waited", "ended", "problem", "no_report"),
    *(
        "no_address",
        "unreachable",
        "no_answer",
        "no_certificate",
        "no_profiles",
        "bad_choice",
        "bad_name",
        "drained",
        "unexpected",
    ),
    *("too_many", "incompatible", "doctor"),
    "other",
)
"""The reasons of starts that were refused or failed: those of ``StartError``. Others count as ``other``."""

CAUSES = (STOPPED, *(cause.value for cause in Cause))
"""The causes of the ends of sessions."""

SIGN_INS = Metric("hpchub_sign_ins", "counter", "Sign-ins", {"result": ", ".join(SIGN_IN_RESULTS)})
STARTS = Metric(
    "hpchub_starts",
    "counter",
    "Starts that are over: the notebook is ready, or the start was refused, failed or stopped. A refused start has no"
    " cluster and no profile",
    {**_PROFILE, "outcome": "ready, refused, failed, stopped", "reason": f"empty, {', '.join(REASONS)}"},
)
SUBMISSION_SECONDS = Metric(
    "hpchub_submission_seconds", "histogram", "From a request to its job's id, in seconds", _PROFILE, _SHORT
)
QUEUE_SECONDS = Metric(
    "hpchub_queue_wait_seconds", "histogram", "From the submission to the start of a job, in seconds", _PROFILE, _WAIT
)
LAUNCH_SECONDS = Metric(
    "hpchub_launch_seconds", "histogram", "From the start of a job to its notebook, in seconds", _PROFILE, _LAUNCH
)
START_SECONDS = Metric(
    "hpchub_start_seconds", "histogram", "From a request to its notebook, in seconds", _PROFILE, _WAIT
)
ENDS = Metric(
    "hpchub_session_ends",
    "counter",
    "Ends of sessions that were ready",
    {**_PROFILE, "cause": ", ".join(CAUSES)},
)
SESSIONS = Metric("hpchub_sessions", "gauge", "Sessions now", {**_PROFILE, "state": ", ".join(STATES)})
GATE_REQUESTS = Metric(
    "hpchub_gate_requests",
    "counter",
    "Requests to the gates of the clusters, which run the scheduler's commands",
    {**_GATE, "outcome": ", ".join(gate_client.OUTCOMES)},
)
GATE_SECONDS = Metric(
    "hpchub_gate_request_seconds", "histogram", "The time of a request to a gate, in seconds", _GATE, _SHORT
)
ANSWER_AGE = Metric(
    "hpchub_scheduler_answer_age_seconds",
    "gauge",
    "The age of the scheduler's last answer to the query for all jobs, in seconds. Before the first answer, the time"
    " since the hub started",
    _CLUSTER,
)
UNANSWERED = Metric(
    "hpchub_scheduler_unanswered_queries",
    "counter",
    "Queries for all jobs without an answer, or with an answer that cannot be parsed",
    _CLUSTER,
)
UNKNOWN_JOBS = Metric(
    "hpchub_unknown_jobs",
    "gauge",
    "Live jobs that carry the hub's name although its database does not know them; see `hpchub orphans`",
    _CLUSTER,
)
PROXY_ROUTES = Metric("hpchub_proxy_routes", "gauge", "Routes of the proxy when the hub last asked for them")
DATABASE_WRITES = Metric(
    "hpchub_database_writes", "counter", "Statements that wrote to the hub's database", {"outcome": "done, failed"}
)
DATABASE_SECONDS = Metric(
    "hpchub_database_write_seconds",
    "histogram",
    "The time of a statement that wrote to the hub's database, in seconds",
    {},
    _WRITE,
)
HEALTHY = Metric("hpchub_healthy", "gauge", "1 if the hub's health check has found no problem, else 0")
CERTIFICATE_DAYS = Metric(
    "hpchub_certificate_days_left",
    "gauge",
    "The days until a certificate on the hub host expires. If it has expired, the number is negative",
    {"certificate": "web_server, api_authority, notebook_authority, notebook_hub"},
)
BACKUP_STATUS = "backup-status.json"
"""The file in the hub's state directory that describes how the last backup went.

Shape: ``{"time": SECONDS, "ok": BOOL, "file": NAME}``. The time and the name are those of the newest good backup. If
there is none, the time is 0.
"""
BACKUP_AGE = Metric("hpchub_backup_age_seconds", "gauge", "The age of the newest backup, in seconds")
BACKUP_OK = Metric("hpchub_backup_ok", "gauge", "1 if the last backup succeeded, else 0")
SAML_STATUS = "/var/lib/hpchub-saml/status.json"
"""The file that describes how the last check of the SAML metadata went. The role ``reverse_proxy`` has its program.

Shape: ``{"time": SECONDS, "usable": BOOL}``. The time is that of the last metadata that was fetched and valid, or 0.
"""
ACCOUNT_STATUS = "/run/hpchub-account-status/status.json"
"""The file that describes the last run of the site's command for the account of a name: ``{"ok": BOOL}``."""
SAML_AGE = Metric(
    "hpchub_saml_metadata_age_seconds",
    "gauge",
    "The time since the metadata of the SAML identity providers was last fetched and found to be valid, in seconds",
)
SAML_USABLE = Metric(
    "hpchub_saml_metadata_usable", "gauge", "0 if nobody can sign in because there is no valid SAML metadata, else 1"
)
ACCOUNT_COMMAND_OK = Metric(
    "hpchub_account_command_ok",
    "gauge",
    "1 if the last run of the site's command for the account of a name succeeded, else 0. Nothing before the first one",
)
CANARY_GOOD = Metric(
    "hpchub_canary_good",
    "gauge",
    "1 if the profile worked in the last run of the canary, 0 if a stage failed. A profile that was skipped has none",
    {**_PROFILE, "stage": "empty, submission, queue, launch, kernel"},
)
CANARY_GOOD_AGE = Metric(
    "hpchub_canary_good_age_seconds",
    "gauge",
    "The time since the profile last worked in a run of the canary, in seconds",
    _PROFILE,
)
CANARY_AGE = Metric("hpchub_canary_age_seconds", "gauge", "The time since the last run of the canary, in seconds")
CANARY_SECONDS = Metric(
    "hpchub_canary_stage_seconds",
    "gauge",
    "How long a stage took in the last run of the canary, in seconds",
    {**_PROFILE, "stage": "submission, queue, launch, kernel"},
)
VERSION = Metric(
    "hpchub_version_info",
    "gauge",
    "1 for each part of the service whose version is known. The parts on the hub host have no cluster",
    {**_PART, "version": "the version in words"},
)
INCOMPATIBLE = Metric(
    "hpchub_version_incompatible",
    "gauge",
    "1 if the part does not work with the hub, so that no session can start, else 0. An unknown version has no value",
    _PART,
)
AUDIT_FAILURES = Metric("hpchub_audit_failures", "counter", "Lines that are missing in the audit log")

METRICS = (
    SIGN_INS,
    STARTS,
    SUBMISSION_SECONDS,
    QUEUE_SECONDS,
    LAUNCH_SECONDS,
    START_SECONDS,
    ENDS,
    SESSIONS,
    GATE_REQUESTS,
    GATE_SECONDS,
    ANSWER_AGE,
    UNANSWERED,
    UNKNOWN_JOBS,
    PROXY_ROUTES,
    DATABASE_WRITES,
    DATABASE_SECONDS,
    HEALTHY,
    CERTIFICATE_DAYS,
    BACKUP_AGE,
    BACKUP_OK,
    SAML_AGE,
    SAML_USABLE,
    ACCOUNT_COMMAND_OK,
    CANARY_GOOD,
    CANARY_GOOD_AGE,
    CANARY_AGE,
    CANARY_SECONDS,
    VERSION,
    INCOMPATIBLE,
    AUDIT_FAILURES,
)
"""All metrics of this package."""

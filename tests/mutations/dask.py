"""The mutants of Dask: who can use a cluster and see its pages, what its jobs get, and what ends them."""

from __future__ import annotations

from .mutants import HandWritten

_CLUSTER = "src/hpchub_dask/cluster.py"
_PLAN = "src/hpchub_dask/plan.py"


def _dask(name: str, path: str, old: str, new: str, keyword: str) -> HandWritten:
    return HandWritten(f"dask-{name}", path, old, new, ("tests/unit/test_dask.py",), keyword)


DASK = (
    _dask("key-of-all", _PLAN, "text: str, mode: int = 0o600", "text: str, mode: int = 0o644", "nobody_else"),
    _dask(
        "dashboard-of-all", _CLUSTER, "_dashboard_socket, mode=0o600", "_dashboard_socket, mode=0o666", "nobody_else"
    ),
    _dask("pages-of-workers", _CLUSTER, '"--worker-class", "hpchub_dask_worker.Worker"', "", "nobody_else"),
    _dask("pages-of-other-hosts", _CLUSTER, " if route[1].__module__ != PROXY", "", "test_dashboard"),
    _dask("token-in-jobs", _PLAN, " if not name.startswith(SECRET)", "", "jobs_get_no_secret"),
    _dask("data-of-workers", _CLUSTER, "local_directory='\"$directory\"'", "local_directory=None", "user_alone"),
    _dask("jobs-after-the-session", _PLAN, '[ "$(date +%s)" -lt {ends} ] || exit 0\n', "", "after_the_session"),
    _dask("time-after-the-session", _PLAN, ", int(self.ends - time.time()))", ")", "time_that_is_left"),
    _dask("jobs-of-a-killed-kernel", _PLAN, 'self._tell(f"+{job_id}\\n")', "pass", "killed_kernel and waiting"),
    _dask(
        "jobs-of-a-stopped-session",
        "src/hpchub_dask/keeper.py",
        "signal.signal(number, end)",
        "signal.signal(number, signal.SIG_IGN)",
        "session_that_is_stopped",
    ),
    _dask(
        "jobs-as-sessions",
        "src/hpchub/clusters/dask_jobs.py",
        'NAME = "dask"',
        'NAME = "0123456789abcdef"',
        "no_job_of_dask_for_a_session",
    ),
    _dask(
        "options-in-another-queue",
        "src/hpchub/clusters/dask_jobs.py",
        "if app.queue and app.queue != profile.queue:",
        "if False:",
        "has_in_its_queue",
    ),
)

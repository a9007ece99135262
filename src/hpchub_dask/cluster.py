"""The cluster, its scheduler and its jobs, as subclasses of dask-jobqueue's and Dask's classes."""

from __future__ import annotations

import contextlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask_jobqueue
import distributed
from dask_jobqueue.core import Job, JobQueueCluster
from distributed.http.routing import RoutingApplication
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_unix_socket

from hpchub_dask.plan import ClusterError, Plan, find_definition, own_address, without_secrets, write_private

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROXY = "distributed.http.proxy"  # it would open pages of other hosts with the rights of the user's address
TOO_MANY = "A Dask cluster of this session can have at most {} jobs at once."


class Scheduler(distributed.Scheduler):  # type: ignore[misc]
    """Dask's scheduler. Its pages are on a unix socket, where other accounts cannot reach them.

    Args:
        dashboard_socket: The path of the socket.
        options: Those of Dask's scheduler.
    """

    def __init__(self, *arguments: Any, dashboard_socket: str, **options: Any) -> None:
        self._dashboard_socket = dashboard_socket
        super().__init__(*arguments, **options)

    def start_http_server(self, routes: list[Any], *_arguments: Any, **_options: Any) -> None:
        """Serve the pages, except those that pass requests on to other hosts."""
        kept = [route for route in routes if route[1].__module__ != PROXY]
        self.http_application = RoutingApplication(kept)
        server: Any = HTTPServer(self.http_application)
        server.add_socket(bind_unix_socket(self._dashboard_socket, mode=0o600))
        server.port = 0  # Dask reads it
        self.http_server = self.services["dashboard"] = server


class Cluster(JobQueueCluster):  # type: ignore[misc]
    """A Dask cluster whose workers are jobs of the session's cluster.

    ``scale(jobs=N)`` starts jobs, and ``adapt(maximum_jobs=N)`` starts and ends them as they are needed. The site
    decides the size of a job; ``job_script()`` shows it.

    Args:
        app: The name of the application of ``hpc_apps``, if the site offers several sizes of jobs. The default is the
            first one.
        n_workers: How many workers to start at once.
        processes: How many processes share the cores and the memory of a job. Pure Python code needs one for each core.
        python: The Python of the workers. It must have the same packages as this one, which is the default. All nodes
            must see it.
        worker_extra_args: Further arguments of ``dask worker``.
        job_script_prologue: Shell commands that run before the worker, such as ``module load``.
        silence_logs: Which log messages of the scheduler the notebook does not show.
        asynchronous: Whether the methods are coroutines.

    Raises:
        ClusterError: The session has no such application, or the node cannot submit jobs.
    """

    def __init__(
        self,
        app: str | None = None,
        *,
        n_workers: int = 0,
        processes: int = 1,
        python: str | None = None,
        worker_extra_args: Sequence[str] = (),
        job_script_prologue: Sequence[str] = (),
        silence_logs: str = "error",
        asynchronous: bool = False,
    ) -> None:
        definition = find_definition(app)
        kind = getattr(dask_jobqueue, definition["jobs"]["class"]).job_cls
        self._plan = plan = Plan(
            definition, submit=kind.submit_command, cancel=kind.cancel_command, prologue=job_script_prologue
        )
        try:
            where = {"interface": definition["interface"]} if definition["interface"] else {"host": own_address()}
            super().__init__(
                n_workers=n_workers,
                job_cls=worker_job(kind),
                security=plan.security(),
                protocol="tls://",
                interface=definition["interface"] or None,
                scheduler_cls=Scheduler,
                scheduler_options={"dashboard_socket": str(plan.socket), "http_prefix": plan.path, **where},
                silence_logs=silence_logs,
                asynchronous=asynchronous,
                plan=plan,
                cores=definition["cores"],
                memory=f"{definition['memory_mib']}MiB",
                processes=processes,
                python=shlex.quote(python or definition["python"] or sys.executable),
                death_timeout=definition["start_limit"],
                local_directory='"$directory"',
                worker_extra_args=[
                    *("--no-dashboard", "--worker-class", "hpchub_dask_worker.Worker"),
                    *map(shlex.quote, [*definition["command"], *worker_extra_args]),
                ],
            )
        except BaseException:
            plan.keeper.end()
            raise

    @property
    def dashboard_link(self) -> str:
        """The path of the dashboard in the browser."""
        return f"{self._plan.path}/status"

    def new_worker_spec(self) -> dict[Any, Any]:
        """Return one more job for ``scale``.

        Raises:
            ValueError: The site permits no further job.
        """
        most = self._plan.definition["max_jobs"]
        if len(self.worker_spec) >= most:
            raise ValueError(TOO_MANY.format(most))
        found: dict[Any, Any] = super().new_worker_spec()
        return found

    def adapt(self, *arguments: Any, maximum_jobs: int | None = None, **options: Any) -> Any:
        """Start and end jobs as they are needed; see dask-jobqueue. The default of ``maximum_jobs`` is the site's."""
        most = self._plan.definition["max_jobs"]
        if maximum_jobs is None and not any(name.startswith("maximum") for name in options):
            maximum_jobs = most
        if maximum_jobs is not None and maximum_jobs > most:
            raise ValueError(TOO_MANY.format(most))
        return super().adapt(*arguments, maximum_jobs=maximum_jobs, **options)

    async def _close(self) -> None:
        try:
            await super()._close()
        finally:
            self._plan.keeper.end()


def worker_job(kind: type[Job]) -> type[Job]:
    """Return the class of the jobs.

    Args:
        kind: dask-jobqueue's class for the scheduler. It knows the commands and their answers.
    """

    class WorkerJob(kind):  # type: ignore[misc]
        """A job with the batch script of the hub."""

        def __init__(self, scheduler: Any = None, name: Any = None, *, plan: Plan, **options: Any) -> None:
            # The class of the scheduler would write directives of its own.
            Job.__init__(self, scheduler, name, log_directory=None, job_script_prologue=[], **options)
            self._plan = plan

        def job_script(self) -> str:
            return self._plan.script(str(self.name))

        @contextlib.contextmanager
        def job_file(self) -> Iterator[str]:
            name = str(self.name)
            self._plan.write_command(name, self._command_template)
            path = self._plan.directory / f"{name}.job"
            write_private(path, self.job_script())
            yield str(path)

        async def _submit_job(self, script_filename: str) -> Any:
            # The names of logs in the script are relative to the home.
            options = {"cwd": str(Path.home()), "env": without_secrets()}
            (Path.home() / ".hpchub" / "logs").mkdir(mode=0o700, parents=True, exist_ok=True)
            program = kind.submit_command
            try:
                if program == "bsub":  # it reads directives only from its standard input
                    return await self._call([f"bsub < {shlex.quote(script_filename)}"], shell=True, **options)  # noqa: S604
                return await self._call([*shlex.split(program), script_filename], **options)
            except RuntimeError as error:  # it contains the whole answer
                lines = [line for line in str(error).splitlines() if line and not line.endswith(":")]
                raise ClusterError(f"{program} has refused the job: {lines[-1]}") from None

        def _job_id_from_submit_output(self, out: str) -> Any:
            found = super()._job_id_from_submit_output(out)
            self._plan.keeper.add(found)
            return found

        async def close(self) -> None:
            await super().close()
            if self.job_id:
                self._plan.keeper.remove(self.job_id)
            self._plan.command(str(self.name)).unlink(missing_ok=True)

    return WorkerJob

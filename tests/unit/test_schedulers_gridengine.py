"""Grid Engine: directives, job ids and the output of version 8.1.9's programs."""

from __future__ import annotations

from typing import Any

import pytest
from truncated_output import check_truncated_query

from hpchub.clusters.batch_script import render_batch_script
from hpchub.clusters.limits import LimitsReport, compare
from hpchub.model.entries import Cluster, Profile
from hpchub.model.profile_list import ProfileList
from hpchub.schedulers import SCHEDULERS, JobState, QueueLimits, Unanswered

GE = SCHEDULERS["gridengine"]

# qstat -u '*' -xml
ANSWER = """\
<?xml version='1.0'?>
<job_info  xmlns:xsd="http://arc.liv.ac.uk/repos/darcs/sge/source/dist/util/resources/schemas/qstat/qstat.xsd">
  <queue_info>
    <job_list state="running">
      <JB_job_number>1</JB_job_number>
      <JAT_prio>0.50000</JAT_prio>
      <JB_name>hpchub-aaaaaaaaaaaaaaaa-hub.localhost</JB_name>
      <JB_owner>alice</JB_owner>
      <state>r</state>
      <JAT_start_time>2026-11-23T12:17:59</JAT_start_time>
      <queue_name>interactive@compute1</queue_name>
      <slots>1</slots>
    </job_list>
    <job_list state="running">
      <JB_job_number>9</JB_job_number>
      <JAT_prio>0.75000</JAT_prio>
      <JB_name>a%lt;b&gt;&amp;&quot;x</JB_name>
      <JB_owner>bob</JB_owner>
      <state>r</state>
      <JAT_start_time>2026-11-23T12:18:32</JAT_start_time>
      <queue_name>interactive@compute2</queue_name>
      <slots>1</slots>
    </job_list>
    <job_list state="running">
      <JB_job_number>10</JB_job_number>
      <JAT_prio>0.68750</JAT_prio>
      <JB_name>arr</JB_name>
      <JB_owner>bob</JB_owner>
      <state>r</state>
      <JAT_start_time>2026-11-23T12:18:33</JAT_start_time>
      <queue_name>interactive@compute1</queue_name>
      <slots>1</slots>
      <tasks>1</tasks>
    </job_list>
    <job_list state="running">
      <JB_job_number>12</JB_job_number>
      <JAT_prio>0.41667</JAT_prio>
      <JB_name>susp</JB_name>
      <JB_owner>bob</JB_owner>
      <state>s</state>
      <JAT_start_time>2026-11-23T12:18:34</JAT_start_time>
      <queue_name>interactive@compute2</queue_name>
      <slots>1</slots>
    </job_list>
    <job_list state="running">
      <JB_job_number>13</JB_job_number>
      <JAT_prio>0.25000</JAT_prio>
      <JB_name>rer</JB_name>
      <JB_owner>bob</JB_owner>
      <state>Rr</state>
      <JAT_start_time>2026-11-23T12:18:41</JAT_start_time>
      <queue_name>interactive@compute2</queue_name>
      <slots>1</slots>
    </job_list>
  </queue_info>
  <job_info>
    <job_list state="pending">
      <JB_job_number>8</JB_job_number>
      <JAT_prio>0.25000</JAT_prio>
      <JB_name>err</JB_name>
      <JB_owner>bob</JB_owner>
      <state>Eqw</state>
      <JB_submission_time>2026-11-23T12:18:01</JB_submission_time>
      <queue_name></queue_name>
      <slots>1</slots>
    </job_list>
    <job_list state="pending">
      <JB_job_number>4</JB_job_number>
      <JAT_prio>0.00000</JAT_prio>
      <JB_name>held</JB_name>
      <JB_owner>bob</JB_owner>
      <state>hqw</state>
      <JB_submission_time>2026-11-23T12:18:00</JB_submission_time>
      <queue_name></queue_name>
      <slots>1</slots>
    </job_list>
    <job_list state="pending">
      <JB_job_number>10</JB_job_number>
      <JAT_prio>0.00000</JAT_prio>
      <JB_name>arr</JB_name>
      <JB_owner>bob</JB_owner>
      <state>qw</state>
      <JB_submission_time>2026-11-23T12:18:33</JB_submission_time>
      <queue_name></queue_name>
      <slots>1</slots>
      <tasks>2,3</tasks>
    </job_list>
  </job_info>
</job_info>
"""

NO_JOBS = """\
<?xml version='1.0'?>
<job_info  xmlns:xsd="http://arc.liv.ac.uk/repos/darcs/sge/source/dist/util/resources/schemas/qstat/qstat.xsd">
  <queue_info>
  </queue_info>
  <job_info>
  </job_info>
</job_info>
"""

# qstat -xml -j 1
DETAIL = """\
<?xml version='1.0'?>
<detailed_job_info  xmlns:xsd="http://arc.liv.ac.uk/repos/darcs/sge/source/dist/util/resources/schemas/qstat/detailed_job_info.xsd">
  <djob_info>
    <element>
      <JB_job_number>1</JB_job_number>
      <JB_ar>0</JB_ar>
      <JB_exec_file>job_scripts/1</JB_exec_file>
      <JB_submission_time>1795436279</JB_submission_time>
      <JB_owner>alice</JB_owner>
      <JB_uid>2001</JB_uid>
      <JB_group>alice</JB_group>
      <JB_gid>2001</JB_gid>
      <JB_account>sge</JB_account>
      <JB_merge_stderr>true</JB_merge_stderr>
      <JB_mail_list>
        <element>
          <MR_user>alice</MR_user>
          <MR_host>login1</MR_host>
        </element>
      </JB_mail_list>
      <JB_notify>false</JB_notify>
      <JB_job_name>hpchub-aaaaaaaaaaaaaaaa-hub.localhost</JB_job_name>
      <JB_stdout_path_list>
        <path_list>
          <PN_path>$HOME/.hpchub/logs/$JOB_ID.log</PN_path>
          <PN_host></PN_host>
          <PN_file_host></PN_file_host>
          <PN_file_staging>false</PN_file_staging>
        </path_list>
      </JB_stdout_path_list>
      <JB_jobshare>0</JB_jobshare>
      <JB_ja_task_concurrency>0</JB_ja_task_concurrency>
      <JB_nurg>0.500000</JB_nurg>
    </element>
  </djob_info>
  <messages>
    <element>
    </element>
  </messages>
</detailed_job_info>
"""

# qstat -xml -j 9999
UNKNOWN = """\
<?xml version='1.0'?>
<unknown_jobs >
    <ST_name>9999</ST_name>
</unknown_jobs>
"""

# The same command of other Grid Engines (OSC/ood_core, spec/job/adapters/sge/output_examples/qstat_jr_missing.xml).
UNKNOWN_NAMELESS = """\
<?xml version='1.0'?>
<unknown_jobs  xmlns:xsd="http://gridengine.sunsource.net/source/browse/*checkout*/gridengine/source/dist/util/resources/schemas/qstat/qstat.xsd?revision=1.11">
  <>
    <ST_name>9999</ST_name>
  </>
</unknown_jobs>
"""

# The same command while the queue master is stopped. The exit code is 0.
DOWN = """\
<?xml version='1.0'?>
<comunication_error >
    <AN_status>11</AN_status>
    <AN_text>unable to send message to qmaster using port 6444 on host &quot;login1&quot;: got send error</AN_text>
    <AN_quality>1</AN_quality>
</comunication_error>
"""

# qconf -sq '*' for two queues, without most lines
QUEUES = """\
qname                 batch
hostlist              @lab
slots                 1,[compute1=8],[compute2=64]
complex_values        h_vmem=128G, \\
                      gpu=2
h_rt                  48:00:00

qname                 interactive
hostlist              @lab
slots                 64
complex_values        NONE
h_rt                  INFINITY
"""


def cluster(scheduler: str = "gridengine", **changes: Any) -> Cluster:
    return Cluster.model_validate(
        {
            "name": "demo",
            "scheduler": scheduler,
            "submit": {"method": "local"},
            "networks": ["10.0.0.0/8"],
            "queues": [{"name": "interactive", "max_cores": 16, "max_memory": "64G", "max_runtime": "12:00:00"}],
            **changes,
        }
    )


def profile(**changes: Any) -> Profile:
    return Profile.model_validate(
        {
            "key": "small",
            "display_name": "Small",
            "cluster": "demo",
            "queue": "interactive",
            "cores": 4,
            "memory": "8G",
            "runtime": "8:00:00",
            **changes,
        }
    )


def directives(site: Cluster, **changes: Any) -> list[str]:
    script = render_batch_script(site, profile(**changes), session="a" * 16, hub="hub.example", username="alice")
    return [line.removeprefix("#$ ") for line in script.splitlines() if line.startswith("#$ ")]


def test_directives_contain_every_resource() -> None:
    found = directives(
        cluster(), gpus=1, account="a", reservation="3", node_constraint="arch=lx-amd64", options=["-P physics"]
    )
    assert found == [
        f"-N hpchub-{'a' * 16}-hub.example",
        "-q interactive",
        "-pe smp 4",
        "-l h_rt=28800,h_vmem=2048M,gpu=1",
        "-r n",
        "-S /bin/bash",
        "-j y",
        "-o $HOME/.hpchub/logs/$JOB_ID.log",
        "-A a",
        "-ar 3",
        "-l arch=lx-amd64",
        "-P physics",
    ]


@pytest.mark.parametrize(
    ("scheduler", "site", "changes", "line"),
    [
        ("uge", {"memory_resource": "m_mem_free"}, {}, "-l h_rt=28800,m_mem_free=2048M"),
        ("gridengine", {"memory_per": "job"}, {}, "-l h_rt=28800,h_vmem=8192M"),
        ("gridengine", {"memory_resource": ""}, {}, "-l h_rt=28800"),
        ("gridengine", {"parallel_environment": "shm.pe"}, {}, "-pe shm.pe 4"),
        ("gridengine", {}, {"cores": 3}, "-l h_rt=28800,h_vmem=2731M"),
        ("gridengine", {"gpu_resource": "ngpus"}, {"gpus": 2}, "-l h_rt=28800,h_vmem=2048M,ngpus=2"),
    ],
)
def test_directives_use_the_resource_names_of_the_site(scheduler: str, site: Any, changes: Any, line: str) -> None:
    assert line in directives(cluster(scheduler, **({"grid_engine": site} if site else {})), **changes)


def test_one_core_requests_no_parallel_environment() -> None:
    assert not [line for line in directives(cluster(), cores=1) if line.startswith("-pe")]


def test_settings_of_grid_engine_are_rejected_for_other_schedulers() -> None:
    with pytest.raises(ValueError, match="has grid_engine but the scheduler slurm"):
        cluster("slurm", grid_engine={"parallel_environment": "shm"})


def test_job_id_is_in_its_own_line() -> None:
    assert GE.parse_submit("welcome\n42\n") == "42"


@pytest.mark.parametrize("output", ["", "3.1-5:1\n", 'Your job 7 ("x") has been submitted', "-1", "Exiting.", "0"])
def test_submit_output_without_job_id_raises(output: str) -> None:
    with pytest.raises(Unanswered, match="no job id"):
        GE.parse_submit(output)


def test_query_is_parsed() -> None:
    jobs = GE.parse_query(ANSWER)
    assert {job.id: (job.detail, job.state, job.host) for job in jobs.values()} == {
        "1": ("r", JobState.RUNNING, "compute1"),
        "9": ("r", JobState.RUNNING, "compute2"),
        "10.1": ("r", JobState.RUNNING, "compute1"),
        "12": ("s", JobState.RUNNING, "compute2"),
        "13": ("Rr", JobState.RUNNING, "compute2"),
        "8": ("Eqw", JobState.PENDING, ""),
        "4": ("hqw", JobState.PENDING, ""),
        "10.2,3": ("qw", JobState.PENDING, ""),
    }
    assert jobs["1"].session("hub.localhost") == "a" * 16
    assert not jobs["1"].session("hub")
    assert not jobs["9"].session("hub.localhost")
    assert (jobs["8"].reason, jobs["4"].reason) == ("error", "hold")
    assert GE.explain("error") == (
        "your job could not be started; an administrator can find the reason and release the job"
    )


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("qw", JobState.PENDING),
        ("hRwq", JobState.PENDING),
        ("Rq", JobState.PENDING),
        ("Eqw", JobState.PENDING),
        ("t", JobState.RUNNING),
        ("Rt", JobState.RUNNING),
        ("S", JobState.RUNNING),
        ("T", JobState.RUNNING),
        ("dr", JobState.ENDED),
        ("dt", JobState.ENDED),
        ("dRr", JobState.ENDED),
        ("z", JobState.UNKNOWN),
        ("h", JobState.UNKNOWN),
    ],
)
def test_states_map_to_session_states(word: str, state: JobState) -> None:
    assert GE.parse_query(ANSWER.replace("<state>Rr<", f"<state>{word}<"))["13"].state is state


def test_query_without_jobs_is_empty() -> None:
    assert GE.parse_query(NO_JOBS) == {}


def test_forged_name_refers_to_its_owner() -> None:
    forged = ANSWER.replace("<JB_name>susp<", f"<JB_name>hpchub-{'b' * 16}-hub.localhost<")
    assert GE.parse_query(forged)["12"].comment == f"hpchub/hub.localhost/bob/{'b' * 16}"


def test_control_characters_in_a_name_are_accepted() -> None:
    assert len(GE.parse_query(ANSWER.replace("susp", "su\x01\x1b\ufffesp"))) == 8


@pytest.mark.parametrize(
    "output",
    [
        pytest.param("", id="empty"),
        pytest.param(ANSWER[:700], id="truncated"),
        pytest.param(ANSWER.removesuffix("</job_info>\n"), id="last-line-missing"),
        pytest.param(DOWN, id="communication-error"),
        pytest.param("error: commlib error: got select error (Connection refused)\n", id="error-message"),
        pytest.param('<!DOCTYPE x [<!ENTITY a "b">]>' + NO_JOBS, id="entity-declaration"),
    ],
)
def test_invalid_query_raises(output: str) -> None:
    with pytest.raises(Unanswered):
        GE.parse_query(output)


@pytest.mark.parametrize(
    ("old", "new", "job_id"),
    [
        pytest.param("<JB_owner>bob</JB_owner>\n      <state>Rr", "<state>Rr", "13", id="no-owner"),
        pytest.param("<JB_job_number>13<", "<JB_job_number><", "?1", id="no-number"),
        pytest.param("<state>Rr</state>", "", "13", id="no-state"),
    ],
)
def test_incomplete_record_affects_only_its_job(old: str, new: str, job_id: str) -> None:
    assert old in ANSWER
    whole, jobs = GE.parse_query(ANSWER), GE.parse_query(ANSWER.replace(old, new))
    assert (jobs.pop(job_id).state, whole.pop("13").state) == (JobState.UNKNOWN, JobState.RUNNING)
    assert jobs == whole


def test_truncated_query_contains_no_incomplete_job() -> None:
    check_truncated_query(GE, ANSWER)


def test_find_returns_none_for_an_unknown_job_and_unknown_state_for_a_known_one() -> None:
    assert GE.parse_find("9999", 0, UNKNOWN, "") is None
    assert GE.parse_find("9999", 1, UNKNOWN_NAMELESS, "") is None
    found = GE.parse_find("1", 0, DETAIL, "")
    assert found is not None
    assert found.state is JobState.UNKNOWN


@pytest.mark.parametrize(
    ("code", "stdout"),
    [(0, DOWN), (1, ""), (0, ""), (0, UNKNOWN.replace("9999", "8888")), (0, DETAIL), (0, UNKNOWN[:60])],
)
def test_inconclusive_find_raises(code: int, stdout: str) -> None:
    with pytest.raises(Unanswered):
        GE.parse_find("9999", code, stdout, "error: unable to send message to qmaster")


def test_limits_of_queues_are_parsed() -> None:
    assert GE.parse_limits(QUEUES) == [
        QueueLimits("batch", cores=64, runtime=48 * 3600),
        QueueLimits("interactive", cores=64),
    ]
    with pytest.raises(Unanswered):
        GE.parse_limits("error: unable to send message to qmaster")


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("24:00:00", 86400),
        ("86400", 86400),
        ("30:00", 1800),
        ("INFINITY", None),
        ("24:00:00,[node1=48:00:00]", 172800),
        ("24:00:00,[node1=48:00:00],[@big=3600]", 172800),
        ("INFINITY,[node1=1:00:00]", None),
        ("1:00:00,[node1=INFINITY]", None),
        ("1:00:00, \\\n                      [node1=2:00:00]", 7200),
        ("9" * 5000, None),
    ],
)
def test_runtime_is_the_longest_of_all_hosts(time: str, seconds: int | None) -> None:
    """A job can run on any host of the queue."""
    assert GE.parse_limits(QUEUES.replace("48:00:00", time))[0].runtime == seconds


def test_slots_with_too_many_digits_are_ignored() -> None:
    assert GE.parse_limits(QUEUES.replace("[compute2=64]", f"[compute2={'9' * 5000}]"))[0].cores == 8


@pytest.mark.parametrize(
    ("environments", "changes", "complains"),
    [
        ("make smp", {}, False),
        ("make,[compute1=smp mpi]", {}, False),
        ("NONE", {}, True),
        ("make smp2", {}, True),
        ("NONE", {"cores": 1}, False),
    ],
)
def test_profile_with_several_cores_needs_a_parallel_environment(
    environments: str, changes: dict[str, Any], *, complains: bool
) -> None:
    queues = GE.parse_limits(QUEUES.replace("slots   ", f"pe_list  {environments}\nslots   "))
    site = ProfileList.model_construct(clusters=[cluster()], profiles=[profile(**changes)])
    problems, _ = compare(site, {"demo": LimitsReport(queues)})
    expected = 'hpc_profiles[0] (key "small"): could never start: several cores need the parallel environment "smp"'
    assert [str(problem).split(",")[0] for problem in problems] == [expected] * complains


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("-P physics", None),
        ("-p -100", None),
        ("-ac a=b", None),
        ("-binding linear:2", None),
        ("-hold_jid 7", None),
        ("-pe smp 99", "repeats the field cores"),
        ("-q all.q", "repeats the field queue"),
        ("-l h_rt=1", "repeats the field node_constraint"),
        ("-t 1-10", "is set by hpchub"),
        ("-V", "is set by hpchub"),
        ("-C #PBS", "is not a single option"),
        ("-P a -V", "is not a single option"),
        ("-P 'a'", "is not a single option"),
        ("-P a\n#$ -V", "is not a single option"),
        ("--exclusive", "is not a single option"),
    ],
)
def test_reserved_options_are_rejected(option: str, complaint: str | None) -> None:
    found = SCHEDULERS["gridengine"].option_problem(option)
    assert (found[0] if found else None) == complaint


@pytest.mark.parametrize(
    ("constraint", "complaint"),
    [
        ("arch=lx-amd64,infiniband", None),
        ("hostname=node[0-9]*|big", None),
        ("h_rt=99", "repeats the field runtime"),
        ("infiniband,h_vmem=1T", "repeats the field memory"),
        ("ngpus=8", "repeats the field gpus"),
        ("a&b", "is not a list of resources"),
        ("a,,b", "is not a list of resources"),
    ],
)
def test_constraints_must_be_resource_requests(constraint: str, complaint: str | None) -> None:
    site = cluster(grid_engine={"memory_resource": "h_vmem", "gpu_resource": "ngpus"})
    found = SCHEDULERS["gridengine"].constraint_problem(constraint, site)
    assert (found[0] if found else None) == complaint


def test_node_hosts_map_nodes_to_hosts() -> None:
    site = cluster("multislurm", node_hosts=[{"node": "n1-a", "host": "n1.example"}])
    assert (site.host_of("n1-a"), site.host_of("n2")) == ("n1.example", "n2")
    with pytest.raises(ValueError, match="n1 twice"):
        cluster(node_hosts=[{"node": "n1", "host": "a"}, {"node": "n1", "host": "b"}])

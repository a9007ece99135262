"""Answers of each scheduler's programs, for the checks that every scheduler must pass.

``{text}`` is a text that the owner of the first job has chosen. The second job is a session's.
"""

from __future__ import annotations

from dataclasses import dataclass

SESSION = "0123456789abcdef"
HUB = "hub.example.org~0a1b2c3d"
TAG = f"hpchub/{HUB}/bob/{SESSION}"
MARK = "7d1f0c3a9b5e2468"


@dataclass(frozen=True)
class Sample:
    """Answers of one scheduler's programs.

    Attributes:
        query: The answer of the query command: two jobs. The first one contains ``{text}``.
        other: The id of the first job, the neighbour's.
        ours: The id of the second job, the session's.
        submit: The answer of the submit command for the second job.
    """

    query: str
    other: str
    ours: str
    submit: str


_SLURM = Sample(
    query=f"{MARK}|JOBID|STATE|REASON|EXEC_HOST|START_TIME|USER|NAME|COMMENT|{MARK}\n"
    f"{MARK}|7|RUNNING|None|n1|2026-01-01T00:00:00|ann|{{text}}|(null)|{MARK}\n"
    f"{MARK}|8|RUNNING|None|n2|2026-01-01T00:00:00|bob|hpchub-{SESSION}|{TAG}|{MARK}\n",
    other="7",
    ours="8",
    submit="8\n",
)

_PBS = f"""{{
    "timestamp":1664911414,
    "pbs_version":"20.0.1",
    "pbs_server":"srv",
    "Jobs":{{
        "7.srv":{{
            "Job_Name":"sim",
            "Job_Owner":"ann@login1",
            "job_state":"R",
            "exec_host":"n1/0",
            "Variable_List":{{
                "PBS_O_HOME":"/home/ann",
                "FOO":"{{text}}",
                "MODULES":"a"
            }},
            "Submit_arguments":"-V -l select=1 job.sh"
        }},
        "8.srv":{{
            "Job_Name":"hpchub-{SESSION}",
            "Job_Owner":"bob@login1",
            "job_state":"R",
            "exec_host":"n2/0",
            "Variable_List":{{
                "HPCHUB_TAG":"{TAG}"
            }}
        }}
    }}
}}
"""

_TORQUE = (
    '<?xml version="1.0"?>\n<Data><Job><Job_Id>7.srv</Job_Id><Job_Name>{text}</Job_Name>'
    "<Job_Owner>ann@login1</Job_Owner><job_state>R</job_state><exec_host>n1/0</exec_host>"
    "<Resource_List><walltime>01:00:00</walltime></Resource_List></Job>"
    f"<Job><Job_Id>8.srv</Job_Id><Job_Name>hpchub-{SESSION[:8]}</Job_Name><Job_Owner>bob@login1</Job_Owner>"
    f"<job_state>R</job_state><exec_host>n2/0</exec_host><Variable_List>HPCHUB_TAG={TAG}</Variable_List></Job></Data>\n"
)

_MOAB = (
    "<Data><Object>job</Object>\n"
    '<job AWDuration="5" Account="{text}" GJID="7" JobID="7" JobName="sim" State="Running" User="ann">'
    '<req AllocNodeList="n1:2"/></job>\n'
    f'<job AWDuration="5" GJID="8" JobID="8" JobName="hpchub-{SESSION}.{HUB}" State="Running" User="bob">'
    '<req AllocNodeList="n2:2"/></job>\n</Data>\n'
)

_GRID_ENGINE = f"""\
<?xml version='1.0'?>
<job_info  xmlns:xsd="http://arc.liv.ac.uk/repos/darcs/sge/source/dist/util/resources/schemas/qstat/qstat.xsd">
  <queue_info>
    <job_list state="running">
      <JB_job_number>7</JB_job_number>
      <JAT_prio>0.50000</JAT_prio>
      <JB_name>{{text}}</JB_name>
      <JB_owner>ann</JB_owner>
      <state>r</state>
      <queue_name>all.q@n1</queue_name>
      <slots>1</slots>
    </job_list>
  </queue_info>
  <job_info>
    <job_list state="pending">
      <JB_job_number>8</JB_job_number>
      <JAT_prio>0.50000</JAT_prio>
      <JB_name>hpchub-{SESSION}-{HUB}</JB_name>
      <JB_owner>bob</JB_owner>
      <state>qw</state>
      <queue_name></queue_name>
      <slots>1</slots>
    </job_list>
  </job_info>
</job_info>
"""

_HTCONDOR = f"""[
{{
  "ClusterId": 7,
  "HpchubTag": "{{text}}",
  "JobStatus": 2,
  "Owner": "ann",
  "ProcId": 0,
  "RemoteHost": "slot1@n1"
}}
,
{{
  "ClusterId": 8,
  "HpchubTag": "{TAG}",
  "JobStatus": 2,
  "Owner": "bob",
  "ProcId": 0,
  "RemoteHost": "slot1@n2"
}}
]
"""

_LSF = f"""{{
  "COMMAND":"bjobs",
  "JOBS":2,
  "RECORDS":[
    {{
      "JOBID":"7",
      "JOBINDEX":"0",
      "STAT":"RUN",
      "USER":"ann",
      "EXEC_HOST":"n1",
      "ESTIMATED_START_TIME":"",
      "JOB_NAME":"{{text}}",
      "JOB_DESCRIPTION":"",
      "PEND_REASON":""
    }},
    {{
      "JOBID":"8",
      "JOBINDEX":"0",
      "STAT":"RUN",
      "USER":"bob",
      "EXEC_HOST":"n2",
      "ESTIMATED_START_TIME":"",
      "JOB_NAME":"hpchub-{SESSION}",
      "JOB_DESCRIPTION":"{TAG}",
      "PEND_REASON":""
    }}
  ]
}}
"""

_QSUB = "8.srv\n"
_SYSTEMD = (
    f"{MARK}|jobs 2\n"
    f'{MARK}|{{"id": "7", "state": "running", "name": "sim", "user": "ann", "tag": "{{text}}", "host": "n1"}}\n'
    f'{MARK}|{{"id": "8", "state": "running", "name": "hpchub-{SESSION}", "user": "bob", "tag": "{TAG}"}}\n'
    f"{MARK}|end\n"
)

SAMPLES = {
    "slurm": _SLURM,
    "multislurm": _SLURM,
    "pbs": Sample(_PBS, "7.srv", "8.srv", _QSUB),
    "torque": Sample(_TORQUE, "7.srv", "8.srv", _QSUB),
    "moab": Sample(_MOAB, "7", "8", "\n8\n"),
    "gridengine": Sample(_GRID_ENGINE, "7", "8", "8\n"),
    "uge": Sample(_GRID_ENGINE, "7", "8", "8\n"),
    "htcondor": Sample(_HTCONDOR, "7", "8", "8.0 - 8.0\n"),
    "lsf": Sample(_LSF, "7", "8", "Job <8> is submitted to queue <normal>.\n"),
    "systemd": Sample(_SYSTEMD, "7", "8", "job 8\n"),
}
"""The answers by the name of the scheduler. A scheduler without an entry is not checked with answers."""

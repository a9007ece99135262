"""What the programs of Slurm 24.11 with slurmdbd print for the users' choices, as they printed it."""

from __future__ import annotations

TAKEN = 1795701500.0
M = "7d1f0c3a9b5e2468"

NODE = (
    "NodeName=node1 Arch=x86_64 CoresPerSocket=1  CPUAlloc=48 CPUEfctv=64 CPUTot=64 CPULoad=3.71"
    " AvailableFeatures=fast,ib ActiveFeatures=fast,ib Gres=gpu:a100:4 GresDrain=N/A GresUsed=gpu:a100:2(IDX:0-1)"
    " NodeAddr=node1 NodeHostName=node1 Version=24.11.5 OS=Linux 6.12.0 #1 SMP PREEMPT_DYNAMIC @0 "
    " RealMemory=131072 AllocMem=69632 FreeMem=9798 Sockets=64 Boards=1 State=MIXED+PLANNED ThreadsPerCore=1 TmpDisk=0"
    " Weight=1 Owner=N/A MCS_label=N/A Partitions=batch,long  BootTime=2026-11-25T22:42:20"
    " SlurmdStartTime=2026-11-26T13:50:05 LastBusyTime=2026-11-26T13:50:06 ResumeAfterTime=None"
    " CfgTRES=cpu=64,mem=128G,billing=64,gres/gpu=4 AllocTRES=cpu=48,mem=68G,gres/gpu=2 CurrentWatts=0 AveWatts=0 \n"
)
IDLE = (
    NODE.replace("node1", "node2")
    .replace("CPUAlloc=48", "CPUAlloc=0")
    .replace("AllocMem=69632", "AllocMem=0")
    .replace("(IDX:0-1)", "(IDX:N/A)")
    .replace("gpu:a100:2", "gpu:a100:0")
    .replace("MIXED+PLANNED", "IDLE")
)
HEADING = (
    f"{M}|JOBID|STATE|REASON|PARTITION|CPUS|NODES|MIN_MEMORY|TRES_PER_NODE|TIME_LIMIT|START_TIME|END_TIME|NODELIST|"
    f"SCHEDNODES|USER|ACCOUNT|QOS|{M}\n"
)
RUNNING = (
    f"{M}|4|RUNNING|None|batch|8|1|1G|N/A|1:00:00|1795701066|1795704666|node1|(null)|alice|course|normal|{M}\n"
    f"{M}|1|RUNNING|None|batch|40|1|60G|gres/gpu:a100:2|4:00:00|1795701039|1795715439|node1|(null)|alice|physics|normal|"
    f"{M}\n"
)
PLANNED = (
    f"{M}|3|PENDING|Priority|batch|64|1|1G|N/A|1:00:00|1795729860|1795733460||node1|alice|physics|normal|{M}\n"
    f"{M}|2|PENDING|Resources|batch|40|1|60G|gres/gpu:a100:2|4:00:00|1795715439|1795729839||node1|bob|biology|normal|{M}\n"
)
NOT_FOR_ROOM = (
    f"{M}|5|PENDING|AssocMaxJobsLimit|batch|8|1|1G|N/A|1:00:00|N/A|N/A||(null)|alice|course|normal|{M}\n"
    f"{M}|7|PENDING|PartitionTimeLimit|batch,long|30|1|0|N/A|UNLIMITED|N/A|N/A||(null)|bob|biology|normal|{M}\n"
    f"{M}|6_[1-3]|PENDING|JobHeldUser|batch,long|8|1|1G|N/A|1:00:00|N/A|N/A||(null)|bob|biology|normal|{M}\n"
)
CONFIG = (
    "Configuration data as of 2026-11-26T13:58:14\nAccountingStorageEnforce = associations,limits,qos\n"
    "ClusterName             = demo\nPrivateData             = none\n"
)
RESERVATIONS = (
    "ReservationName=lecture StartTime=1795787419 EndTime=1795794619 Duration=02:00:00 Nodes=n[2-3],node1 NodeCnt=3"
    " CoreCnt=192 Features=(null) PartitionName=(null) Flags=IGNORE_JOBS,SPEC_NODES,ALL_NODES TRES=cpu=192 Users=(null)"
    " Groups=(null) Accounts=course Licenses=(null) State=INACTIVE BurstBuffer=(null) MaxStartDelay=(null)\n"
    "ReservationName=maint StartTime=1795960219 EndTime=1795974619 Duration=04:00:00 Nodes=n[2-3],node1 NodeCnt=3"
    " CoreCnt=192 Features=(null) PartitionName=(null) Flags=MAINT,IGNORE_JOBS,SPEC_NODES,ALL_NODES TRES=cpu=192"
    " Users=root Groups=(null) Accounts=(null) Licenses=(null) State=INACTIVE BurstBuffer=(null) MaxStartDelay=(null)\n"
)
BUDGETS = (
    "root|||cpu=209,mem=306083,energy=0\n root|root||cpu=0\n science|||cpu=209\n  biology||cpu=100|cpu=31,mem=2\n"
    "  physics|||cpu=177\n course||cpu=30,gres/gpu=9|cpu=31,gres/gpu=1\n"
)
USERS = (
    "alice|physics|demo|course||long,normal,short|normal|1|2|\nalice|physics|demo|physics||long,normal|normal|||\n"
    "alice|physics|demo|physics|long|long||||1-00:00:00\nalice|physics|other|chemistry||normal||||\n"
    "bob|biology|demo|biology||gpu,normal|normal|||\n"
)

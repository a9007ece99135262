"""Emulators of PBS, Torque, Moab and LSF, which Debian does not package.

The emulated programs print what the vendors' manuals describe, and the jobs really run. The ``server`` owns all state
and decides where jobs run. An ``agent`` runs the jobs on each compute host. All client programs (``qsub``, ``bjobs``,
…) are links to one program, which sends a request to the server over a unix socket and prints the answer in the
vendor's format. Each flavour (pbs, torque, moab or lsf) acts as a separate cluster with its own job ids and queues,
but all flavours share the compute hosts.

The emulators follow the vendors' documents:

- Altair PBS Professional 2022.1 Reference Guide (RG: 2.55 qstat, 2.57 qsub, 5.11 attributes, 14 error codes) and,
  where the guide gives no details, the OpenPBS sources;
- Adaptive Computing Torque Resource Manager 6.1 Administrator Guide, appendix A (commands) and D (error codes);
- Adaptive Computing Moab Workload Manager 9.1 Administrator Guide, chapter 3 (scheduler commands) and appendix W;
- IBM Spectrum LSF 10.1 Command Reference and Configuration Reference.

The programs use only the standard library and need Python 3.11 or later.
"""

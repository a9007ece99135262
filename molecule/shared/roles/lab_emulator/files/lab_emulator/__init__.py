"""Clusters of schedulers that cannot be had: PBS, Torque, Moab and LSF answer as in their manuals, and jobs really run.

``server`` owns all state and decides what runs where; ``agent`` runs jobs on a compute host; the clients (``qsub``,
``bjobs``, …) are links to one program, which asks the server over a unix socket and prints what the vendor's would.
Each flavour is a cluster of its own, with its own ids and queues; they share the compute hosts.

Written from the vendors' documents:

- Altair PBS Professional 2022.1 Reference Guide (RG: 2.55 qstat, 2.57 qsub, 5.11 attributes, 14 error codes) and the
  OpenPBS sources for what the guide leaves open;
- Adaptive Computing Torque Resource Manager 6.1 Administrator Guide, appendix A (commands) and D (error codes);
- Adaptive Computing Moab Workload Manager 9.1 Administrator Guide, chapter 3 (scheduler commands) and appendix W;
- IBM Spectrum LSF 10.1 Command Reference and Configuration Reference.

Standard library only, Python 3.11 and later.
"""

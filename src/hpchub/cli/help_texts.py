"""The help texts of the commands that have the longest ones."""

BACKUP_HELP = """\
The backup contains the database, the secrets and the settings that a new hub host needs, so that the running sessions
go on. It is encrypted with age for the recipients in hpc_backup, or for those that you name. The hub may run meanwhile.
A timer runs this command. The output is the path of the backup.

Run it on the hub host, as root.

"""
RESTORE_HELP = """\
The command first verifies the backup. It refuses a backup that is truncated, of a newer version, encrypted for somebody
else, or of another site, and it refuses to replace the state of a hub that is in use. Then it stops the hub, replaces
the state, and starts the hub. If it fails or is interrupted, it puts the old state back.

Run it on the hub host, as root. playbooks/restore.yml does the same with a backup and a key on your own machine.

"""
ROLLBACK_HELP = """\
The command goes back to the environment and the settings of the hub before the last upgrade. If the upgrade changed the
schema of the database, the database from before the upgrade comes back too. Sessions go on.

Run it on the hub host, as root. playbooks/rollback.yml also rolls back the software of the nodes.

"""
CANARY_HELP = """\
For each profile, the command starts a session of the account in hpc_canary, through the public address of the service.
It waits for the session, computes 6*7 in each kernel, measures each stage, and stops the session. It skips drained
profiles. A timer runs this command if hpc_canary is enabled. The results are in the file canary-status.json in the
state directory of the hub.

Run it on the hub host, as root.

exit codes:
  0  all profiles work, or were skipped
  1  at least one profile does not work
  2  the command failed: wrong usage, not the hub host, no permission, or another canary is running
"""

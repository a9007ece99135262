"""The summary in words at the end of a run of a playbook."""

from __future__ import annotations

from hpchub.deploy.change_summary import Changes, summary


def test_hosts_with_the_same_changes_are_listed_together() -> None:
    changes = Changes(check=True)
    for host in ("compute1", "compute2"):
        changes.add(host, "jupyter_kernels", "Write the kernels")
    changes.add("hub", "jupyterhub", "Write the settings")
    changes.add("hub", "jupyterhub", "Write the settings")
    changes.restart("hub", "Restart jupyterhub", "For some seconds, nobody can sign in.")
    changes.restart("hub", "Reload apache2", "")
    assert list(summary(changes)) == [
        "compute1, compute2 would change:",
        "  jupyter_kernels: Write the kernels",
        "hub would change:",
        "  jupyterhub: Write the settings",
        "Restarts and reloads:",
        "  Restart jupyterhub on hub",
        "  Reload apache2 on hub",
        "Users notice:",
        "  For some seconds, nobody can sign in.",
        "  JupyterLab offers the changed kernels after users reload the page.",
        "This was a check. Nothing has been changed.",
    ]


def test_run_without_changes_says_so() -> None:
    assert list(summary(Changes(check=True))) == [
        "No host would change.",
        "Nothing restarts.",
        "Users notice nothing.",
        "This was a check. Nothing has been changed.",
    ]
    assert list(summary(Changes())) == ["No host changed.", "Nothing restarted.", "Users notice nothing."]


def test_many_hosts_are_counted() -> None:
    changes = Changes()
    for number in range(100):
        changes.add(f"node{number}", "", "Gather")
    assert next(iter(summary(changes))) == "node0, node1, node2, node3, node4, node5 and 94 more changed:"


def test_failed_run_promises_nothing() -> None:
    changes = Changes(check=True, failed={"login1": None})
    lines = list(summary(changes))
    assert lines[0] == "The run failed on login1, so this summary may be incomplete."
    assert not {"Nothing restarts.", "Users notice nothing."} & set(lines)


def test_restart_on_a_standby_is_noticed_by_nobody() -> None:
    changes = Changes(standby=True)
    changes.add("hub", "spawner_profiles", "Write the profiles")
    changes.restart("hub", "Restart jupyterhub", "For some seconds, nobody can sign in.")
    assert list(summary(changes))[-2:] == ["  Restart jupyterhub on hub", "Users notice nothing."]

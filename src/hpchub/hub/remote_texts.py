"""The texts for users of what the programs on other hosts report. These programs send the ids of the texts. No I/O.

The programs in ``hpchub.remote`` have no catalogue of texts. Beside an English text for the logs, they send a message:
``{"id": ID, "values": {NAME: VALUE}}``. A value is a text or a message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpchub.messages import PLACEHOLDER, Message, marked

if TYPE_CHECKING:
    from hpchub.hub.job_events import SubmitAnswer

LONGEST = 1000
"""The largest number of characters of a value."""
DEPTH = 3
"""How many messages can be inside each other."""

GATE = {
    "failed": marked("{program} failed with exit code {code}"),
    "home_unwritable": marked(
        "your home directory {home} cannot be written ({reason}); check its quota and its permissions"
    ),
    "invalid_answer": marked("a program on the submit host did not send a valid answer"),
    "no_account": marked("{user} has no account on this cluster"),
    "no_answer": marked("{program} did not answer within {seconds} seconds"),
    "no_home": marked("your home directory {home} does not exist on this cluster"),
    "no_jobs": marked("the service cannot run jobs as {user} on the submit host: {reason}"),
    "no_submit_host": marked("the service is not set up on the submit host of the cluster {cluster}"),
    "not_installed": marked("{program} is not installed on {node}"),
    "not_json": marked("{path} cannot be read on the submit host, because it is not JSON"),
    "not_permitted": marked("{user} is not in a group that may run jobs here; permitted: {groups}"),
    "not_run": marked("{program} cannot be run on {node}: {reason}"),
    "other_name": marked("the account {user} is called {name} on this cluster"),
    "system_account": marked("{user} is a system account"),
    "unexpected": marked("the submit host made an unexpected error, which its system log explains"),
    "unreadable": marked("{path} cannot be read on the submit host: {reason}"),
    "unusable": marked("{path} cannot be used on the submit host: {reason}"),
    "user_name": marked("the user name is not valid on this cluster"),
}
"""The texts of the gate."""

APP = {
    "again": marked("Start again"),
    "cannot_run": marked("{name} cannot run on {node}: {reason}."),
    "clipboard": marked("Clipboard"),
    "clipboard_help": marked("What you copy in {name} appears here. What you write or paste here can be pasted there."),
    "cluster_ended": marked("This Dask cluster has ended."),
    "clusters": marked("The Dask clusters of this session"),
    "connected": marked("Connected"),
    "connecting": marked("Connecting …"),
    "ended": marked("{name} has ended."),
    "ended_badly": marked("{name} has ended with exit code {code}."),
    "exited": marked("{name} has stopped with exit code {code} before it was ready."),
    "exposed": marked(
        "{name} was stopped, because it listened on {address}, where other users of {node} could reach it."
    ),
    "help": marked("If this happens again, contact the support of this service."),
    "killed": marked("{name} was ended by signal {code} before it was ready."),
    "last_lines": marked("The last lines of its log:"),
    "lost": marked("The connection is lost. This page returns to {name} as soon as possible."),
    "log": marked("The whole log is in {path} until the session ends."),
    "no_cluster": marked("No Dask cluster runs in this session."),
    "no_network": marked("{name} listens on a network port, and {node} does not permit a private network for it."),
    "not_installed": marked("{name} is not installed on {node}: the program {program} was not found."),
    "not_served": marked(
        "{path} stays on this node, because Spark would send it to every user of the node who knows its name. Put it in"
        " a directory that all nodes share, and open it there."
    ),
    "silent": marked("{name} did not answer within {seconds} seconds."),
    "start_cluster": marked("Start one in a notebook. This page then shows it:"),
    "starting": marked("{name} is starting."),
    "too_old": marked(
        "{name} cannot run on {node}, because its version lacks {options}. It needs version {version} or later."
    ),
    "too_small": marked("{name} needs at least {memory} of memory on each node. Start a session with more memory."),
    "unsafe": marked("{name} cannot run on {node}, because another user can change {path} and read what you type."),
}
"""The texts of the pages about an application. The hub sends them to the session; see ``hpchub.remote.app``."""

LAUNCHER = {
    "bad_kernel": marked("the default kernel '{kernel}' is not a valid kernel name"),
    "cannot_start": marked("the session cannot start: {reason}"),
    "container_home": marked("the home directory {home} cannot be used in the container: {reason}"),
    "container_owner": marked(
        "the home directory {home} belongs to uid {owner}, but this session has uid {uid}; contact the administrators"
    ),
    "directory_silent": marked("the working directory {directory} does not answer on {node}; choose another one"),
    "directory_unusable": marked(
        "the working directory {directory} cannot be used on {node}: {reason}; choose another one"
    ),
    "ended": marked("the notebook server has ended"),
    "ended_at": marked("{place}: the notebook server has ended"),
    "endless": marked("{place}: this code does not come to an end"),
    "home_files": marked(
        "your home directory takes no further file, so nothing can be created in {directory}. You have too many files,"
        " or no space. Log in to a login node with ssh, delete files or pack many small ones into one archive, and"
        " start a new session."
    ),
    "home_full": marked(
        "your home directory is full, so {directory} cannot be written. Log in to a login node with ssh, delete files"
        " that you do not need, and start a new session."
    ),
    "home_silent": marked("the home directory {home} does not answer on {node}; contact the administrators"),
    "image_version": marked(
        "the image has JupyterHub {version}, which does not work with the hub's {wanted}; an administrator must choose"
        " another image"
    ),
    "image_without_server": marked(
        "the image has no jupyterhub-singleuser; an administrator must install jupyterhub {version} and jupyterlab for"
        " {program} in it, or choose another image"
    ),
    "no_port": marked("no port from {first} to {last} is free on {node}; start a new session"),
    "no_temporary": marked("no directory for temporary files can be written: {problems}; contact the administrators"),
    "not_started": marked("the notebook server did not start within {seconds} s"),
    "shapeless": marked("{place}: the file must contain an object with objects"),
    "stopped": marked("the notebook server has stopped: {reason}"),
    "unwritable": marked("{directory} cannot be written: {reason}; check its permissions"),
    "without_settings": marked(
        "Your session runs without your own settings, because one of them stops the notebook server: {problem}"
    ),
}
"""The texts of the launcher."""

TEXTS = GATE | LAUNCHER


def message_of(text: str, found: object) -> str:
    """Return what a program reports, as a message if its id is known, or else as its own text.

    Args:
        text: The program's own text, in English.
        found: The message that it sent, or None.
    """
    return _message(found, DEPTH) or text


def _message(found: object, depth: int) -> Message | None:
    match found:
        case {"id": str(name), "values": dict(given)} if name in TEXTS and depth:
            values = {str(each): _value(value, depth) for each, value in given.items()}
            needed = {place[1] for place in PLACEHOLDER.finditer(TEXTS[name])}
            if set(values) == needed and None not in values.values():
                return Message(TEXTS[name], **values)
    return None


def _value(value: object, depth: int) -> str | None:
    """Return a value as one printable line or as a message, or None if it is neither."""
    if not isinstance(value, str):
        return _message(value, depth - 1)
    return " ".join("".join(each if each.isprintable() else " " for each in value[:LONGEST]).split())


def failure_of(answer: SubmitAnswer) -> str:
    """Return why a submission failed: what the gate reports, or else the last line of the command's own words."""
    last = (answer.stderr.strip().splitlines() or [""])[-1]
    return message_of(last or answer.error, answer.message)

"""How users read the fields of a profile and their values, in forms and in sentences. No I/O."""

from __future__ import annotations

from hpchub.messages import Message, marked
from hpchub.units import mebibytes, memory_in_words, runtime_in_words, seconds

LABELS = {
    "nodes": Message("Nodes"),
    "cores": Message("Cores"),
    "memory": Message("Memory"),
    "runtime": Message("Run time"),
    "gpus": Message("GPUs"),
    "gpu_type": Message("Type of GPU"),
    "account": Message("Account to charge"),
    "qos": Message("Quality of service"),
    "reservation": Message("Reservation"),
    "node_constraint": Message("Features of the node"),
    "queue": Message("Queue"),
    "working_directory": Message("Working directory"),
    "kernel": Message("Kernel of new notebooks"),
    "interface": Message("Interface"),
}
"""The label of each field."""
NAMES = {
    "nodes": Message(marked("nodes")),
    "cores": Message(marked("cores")),
    "memory": Message(marked("memory")),
    "runtime": Message("run time"),
    "gpus": Message("GPUs"),
    "gpu_type": Message("type of GPU"),
    "account": Message("account to charge"),
    "qos": Message("quality of service"),
    "reservation": Message(marked("reservation")),
    "node_constraint": Message("features of the node"),
    "queue": Message(marked("queue")),
    "working_directory": Message("working directory"),
    "kernel": Message("kernel of new notebooks"),
    "interface": Message(marked("interface")),
}
"""The name of each field within a sentence."""
_EMPTY = {
    "account": Message("Your default account"),
    "qos": Message("Your default quality of service"),
    "reservation": Message("No reservation"),
    "node_constraint": Message("Any node"),
    "gpu_type": Message("Any type"),
}
_INTERFACES = {"lab": "JupyterLab", "notebook": "Jupyter Notebook", "nbclassic": Message("Classic notebook")}


def in_words(name: str, value: object) -> str:
    """Return a value of a field as users read it: ``2 GB``, ``1 h 30 min``, "No reservation".

    A value that is not valid stays as the user wrote it.

    Args:
        name: The field.
        value: The value, as the inventory writes it.
    """
    text = str(value)
    if not text:
        return _EMPTY.get(name, "")
    try:
        if name == "memory":
            return memory_in_words(mebibytes(text))
        if name == "runtime":
            return runtime_in_words(seconds(text))
    except (KeyError, ValueError):
        return text
    return _INTERFACES.get(text, text) if name == "interface" else text

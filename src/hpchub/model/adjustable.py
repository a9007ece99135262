"""The fields of a profile that users may change in the form, each with its limits. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import model_validator

from hpchub.messages import Message, listing, show
from hpchub.model import fields as f
from hpchub.model.entry import Entry
from hpchub.units import format_memory, format_runtime, mebibytes, memory_in_words, runtime_in_words, seconds

MAX_CHOICES = 200
"""The largest number of steps that the form shows as a list."""


class Amount(Entry):
    """A field with an amount: from ``min`` to ``max`` in steps, or one of ``choices``."""

    lowest: ClassVar[int] = 1
    """The smallest amount that is possible."""
    measure: ClassVar[Callable[[Any], int]] = int
    """Return an amount as a number."""
    write: ClassVar[Callable[[int], Any]] = int
    """Return a number in the inventory's notation."""
    words: ClassVar[Callable[[int], Any]] = int
    """Return a number as users read it."""

    if TYPE_CHECKING:
        min: Any
        max: Any
        step: Any
        default: Any
        choices: list[Any]

    @property
    def numbers(self) -> list[int]:
        """The choices as numbers."""
        return [type(self).measure(each) for each in self.choices]

    @property
    def least(self) -> int:
        """The smallest valid amount, as a number."""
        if self.choices:
            return min(self.numbers)
        return type(self).lowest if self.min is None else type(self).measure(self.min)

    @property
    def most(self) -> int:
        """The largest valid amount, as a number."""
        return max(self.numbers) if self.choices else type(self).measure(self.max)

    def field_of_most(self, name: str) -> str:
        """Return the field of the inventory with the largest amount, for the field ``name`` of a profile."""
        return f"adjustable.{name}.{'choices' if self.choices else 'max'}"

    @property
    def stride(self) -> int:
        """The step between two valid amounts, as a number."""
        return 1 if self.step is None else type(self).measure(self.step)

    def accepts(self, number: int) -> bool:
        """Return whether an amount is valid."""
        if self.choices:
            return number in self.numbers
        return self.least <= number <= self.most and (number - self.least) % self.stride == 0

    def values(self) -> list[Any]:
        """Return the valid amounts in the inventory's notation, or none if there are very many."""
        if self.choices:
            return list(self.choices)
        numbers = range(self.least, self.most + 1, self.stride)
        return [type(self).write(number) for number in numbers] if len(numbers) <= MAX_CHOICES else []

    @property
    def valid(self) -> str:
        """The valid values, in words for users."""
        return self._valid(type(self).words)

    def _valid(self, write: Callable[[int], Any]) -> str:
        if self.choices:
            return Message("one of {choices}", choices=listing(map(write, self.numbers)))
        limits = {"least": write(self.least), "most": write(self.most)}
        if self.step is not None and self.stride > 1:
            return Message("{least} to {most} in steps of {step}", **limits, step=write(self.stride))
        return Message("{least} to {most}", **limits)

    @model_validator(mode="after")
    def _check(self) -> Amount:
        bounds = [name for name in ("min", "max", "step") if getattr(self, name) is not None]
        if self.choices and bounds:
            f.complain(f"has choices and {' and '.join(bounds)}", "write either choices, or max with min and step")
        if not self.choices and self.max is None:
            f.complain("has no limit", "add max, or choices")
        if self.stride < 1:
            f.complain("has a step of zero", "write a step above zero")
        if not self.choices and self.least > self.most:
            f.complain(f"has min {show(self.min)} above max {show(self.max)}", "write the smaller value as min")
        if self.default is not None and not self.accepts(type(self).measure(self.default)):
            f.complain(
                f"has the default {show(self.default)}, which is not valid", f"write {self._valid(type(self).write)}"
            )
        return self


class AdjustableNodes(Amount):
    """The number of nodes that users may choose."""

    min: f.Nodes | None = None
    """The smallest number. The default is 1."""
    max: f.Nodes | None = None
    """The largest number."""
    step: f.Nodes | None = None
    """The step between two numbers. The default is 1."""
    default: f.Nodes | None = None
    """The number that the form selects. The default is the profile's own."""
    choices: list[f.Nodes] = []
    """The valid numbers, instead of ``max``."""


class AdjustableCores(Amount):
    """The number of cores that users may choose."""

    min: f.Cores | None = None
    """The smallest number. The default is 1."""
    max: f.Cores | None = None
    """The largest number."""
    step: f.Cores | None = None
    """The step between two numbers. The default is 1."""
    default: f.Cores | None = None
    """The number that the form selects. The default is the profile's own."""
    choices: list[f.Cores] = []
    """The valid numbers, instead of ``max``."""


class AdjustableGpus(Amount):
    """The number of GPUs that users may choose."""

    lowest: ClassVar[int] = 0

    min: f.GpuCount | None = None
    """The smallest number. The default is 0."""
    max: f.GpuCount | None = None
    """The largest number."""
    step: f.GpuCount | None = None
    """The step between two numbers. The default is 1."""
    default: f.GpuCount | None = None
    """The number that the form selects. The default is the profile's own."""
    choices: list[f.GpuCount] = []
    """The valid numbers, instead of ``max``."""


class AdjustableMemory(Amount):
    """The memory that users may choose."""

    measure: ClassVar[Callable[[Any], int]] = mebibytes
    write: ClassVar[Callable[[int], Any]] = format_memory
    words: ClassVar[Callable[[int], Any]] = memory_in_words

    min: f.Memory | None = None
    """The smallest memory. The default is ``step``."""
    max: f.Memory | None = None
    """The largest memory."""
    step: f.Memory | None = None
    """The step between two sizes. The default is 1G, or 1M if ``min`` or ``max`` is not a multiple of 1G."""
    default: f.Memory | None = None
    """The memory that the form selects. The default is the profile's own."""
    choices: list[f.Memory] = []
    """The valid sizes, instead of ``max``."""

    @property
    def least(self) -> int:
        """The smallest valid memory, in MiB."""
        return self.stride if not self.choices and self.min is None else super().least

    @property
    def stride(self) -> int:
        """The step between two sizes, in MiB."""
        if self.step is not None:
            return super().stride
        bounds = [mebibytes(each) for each in (self.min, self.max) if each is not None]
        return 1024 if all(each % 1024 == 0 for each in bounds) else 1


class AdjustableRuntime(Amount):
    """The run time that users may choose."""

    measure: ClassVar[Callable[[Any], int]] = seconds
    write: ClassVar[Callable[[int], Any]] = format_runtime
    words: ClassVar[Callable[[int], Any]] = runtime_in_words

    min: f.Runtime | None = None
    """The shortest run time. The default is ``step``."""
    max: f.Runtime | None = None
    """The longest run time."""
    step: f.Runtime | None = None
    """The step between two run times. The default is 30 minutes, or a minute if the bounds are no multiples of it."""
    default: f.Runtime | None = None
    """The run time that the form selects. The default is the profile's own."""
    choices: list[f.Runtime] = []
    """The valid run times, instead of ``max``."""

    @property
    def least(self) -> int:
        """The shortest valid run time, in seconds."""
        return self.stride if not self.choices and self.min is None else super().least

    @property
    def stride(self) -> int:
        """The step between two run times, in seconds."""
        if self.step is not None:
            return super().stride
        bounds = [seconds(each) for each in (self.min, self.max) if each is not None]
        return next(step for step in (1800, 60, 1) if all(each % step == 0 for each in bounds))


class Word(Entry):
    """A field with a word: one of ``choices``."""

    open: ClassVar[str] = ""
    """The valid values if there are no choices, or empty if choices are required."""

    if TYPE_CHECKING:
        default: Any
        choices: list[Any]

    @model_validator(mode="after")
    def _check(self) -> Word:
        if not self.choices and not type(self).open:
            f.complain("has no choices", "add choices, or remove the field")
        if len(set(self.choices)) < len(self.choices):
            f.complain("has a choice twice", "write each choice once")
        if self.default is not None and self.choices and self.default not in self.choices:
            f.complain(f"has the default {show(self.default)}, which is not one of its choices", "add it to choices")
        return self


class AdjustableGpuType(Word):
    """The type of GPU that users may choose."""

    choices: list[f.GpuType] = []
    """The valid types."""
    default: f.GpuType | None = None
    """The type that the form selects. The default is the profile's own."""


class AdjustableAccount(Word):
    """The account that users may choose."""

    open: ClassVar[str] = "one of the user's accounts"

    choices: list[f.Account] = []
    """The valid accounts. Empty: all accounts of the user. With choices: those of them that the user has."""
    default: f.Account | None = None
    """The account that the form selects. The default is the profile's own."""


class AdjustableQos(Word):
    """The quality of service that users may choose."""

    open: ClassVar[str] = "one of the user's qualities of service"

    choices: list[f.Qos] = []
    """The valid qualities of service. Empty: all that the user may use. With choices: those of them."""
    default: f.Qos | None = None
    """The quality of service that the form selects. The default is the profile's own."""


class AdjustableReservation(Word):
    """The reservation that users may choose."""

    open: ClassVar[str] = "one of the user's reservations"

    choices: list[f.Reservation] = []
    """The valid reservations. Empty: all that the user may use. With choices: those of them."""
    default: f.Reservation | None = None
    """The reservation that the form selects. The default is the profile's own."""


class AdjustableConstraint(Word):
    """The features of the node that users may choose."""

    choices: list[f.NodeConstraint] = []
    """The valid constraints, in the scheduler's own syntax. An empty text means any node."""
    default: f.NodeConstraint | None = None
    """The constraint that the form selects. The default is the profile's own."""


class AdjustableQueue(Word):
    """The queue that users may choose."""

    choices: list[f.QueueReference] = []
    """The valid queues of the profile's cluster."""
    default: f.QueueReference | None = None
    """The queue that the form selects. The default is the profile's own."""


class AdjustableDirectory(Word):
    """The working directory that users may choose."""

    open: ClassVar[str] = "any directory"

    choices: list[f.WorkingDirectory] = []
    """The valid directories. Empty: any directory. The job runs as the user, so it has only the user's rights."""
    default: f.WorkingDirectory | None = None
    """The directory that the form selects. The default is the profile's own."""


class AdjustableKernel(Word):
    """The kernel of new notebooks that users may choose."""

    open: ClassVar[str] = "a kernel of the cluster"

    choices: list[f.KernelReference] = []
    """The valid kernels. Empty: all kernels of the cluster."""
    default: f.KernelReference | None = None
    """The kernel that the form selects. The default is the profile's own."""


class AdjustableInterface(Word):
    """The interface that users may choose."""

    choices: list[Literal["lab", "notebook", "nbclassic"]] = ["lab", "notebook", "nbclassic"]
    """The valid interfaces."""
    default: Literal["lab", "notebook", "nbclassic"] | None = None
    """The interface that the form selects. The default is the profile's own."""


class Adjustable(Entry):
    """The fields that users may change, each with its limits. All other fields are fixed."""

    nodes: AdjustableNodes | None = None
    """The number of nodes."""
    cores: AdjustableCores | None = None
    """The number of cores on each node."""
    memory: AdjustableMemory | None = None
    """The memory on each node."""
    runtime: AdjustableRuntime | None = None
    """The run time."""
    gpus: AdjustableGpus | None = None
    """The number of GPUs on each node."""
    gpu_type: AdjustableGpuType | None = None
    """The type of the GPUs."""
    account: AdjustableAccount | None = None
    """The account to charge."""
    qos: AdjustableQos | None = None
    """The quality of service."""
    reservation: AdjustableReservation | None = None
    """The reservation."""
    node_constraint: AdjustableConstraint | None = None
    """The features that the node must have."""
    queue: AdjustableQueue | None = None
    """The queue."""
    working_directory: AdjustableDirectory | None = None
    """The directory in which the session starts."""
    kernel: AdjustableKernel | None = None
    """The kernel of new notebooks."""
    interface: AdjustableInterface | None = None
    """The interface: JupyterLab, Notebook 7 or NbClassic."""

    @property
    def names(self) -> list[str]:
        """The names of the fields that users may change."""
        return [name for name, limits in self if limits is not None]

    def get(self, name: str) -> Amount | Word | None:
        """Return the limits of a field, or None if users may not change it."""
        found: Amount | Word | None = getattr(self, name)
        return found

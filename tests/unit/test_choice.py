"""Which choices a profile permits, who may use it, and what an inventory may contain about both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hub_app import VARIABLES, site
from pydantic import ValidationError

from hpchub.model import choice
from hpchub.model.adjustable import Adjustable
from hpchub.model.choice import ChoiceError, Person, choose, normal_fields, options, refusal
from hpchub.model.entries import Cluster, Profile
from hpchub.model.field_texts import NAMES
from hpchub.model.profile_list import profile_list
from hpchub.model.site import Site, SiteError
from hpchub.schedulers.knowledge import Account, Allocations, Reservation

if TYPE_CHECKING:
    from collections.abc import Callable

    MakeProfile = Callable[..., Profile]

NOW = 1_000_000.0
CLUSTER = Cluster.model_validate(
    {
        "name": "demo",
        "scheduler": "slurm",
        "submit": {"method": "local"},
        "networks": ["10.0.0.0/8"],
        "queues": [
            {"name": "interactive", "max_cores": 8, "max_memory": "64G", "max_runtime": "12:00:00"},
            {
                "name": "gpu",
                "max_cores": 16,
                "max_memory": "128G",
                "max_runtime": "1-00:00:00",
                "max_gpus": [{"type": "a100", "count": 4}, {"type": "v100", "count": 2}],
            },
            {"name": "old", "max_cores": 8, "max_memory": "64G", "max_runtime": "12:00:00", "enabled": False},
        ],
    }
)
EVERYTHING: dict[str, Any] = {
    "cores": {"min": 2, "max": 16, "step": 2},
    "memory": {"min": "2G", "max": "128G", "step": "2G"},
    "runtime": {"min": "1:00:00", "max": "1-00:00:00", "step": "0:30:00"},
    "gpus": {"max": 4},
    "gpu_type": {"choices": ["a100", "v100"]},
    "account": {},
    "qos": {},
    "reservation": {},
    "node_constraint": {"choices": ["ib", "ib&bigmem"]},
    "queue": {"choices": ["interactive", "gpu", "old"]},
    "working_directory": {},
    "kernel": {"choices": ["python3", "r"]},
    "interface": {},
}
ALLOCATIONS = Allocations(
    taken=NOW,
    accounts=(
        Account("physics", qos=("normal", "high"), default_qos="normal"),
        Account("course", qos=("normal",), queues=("interactive",), max_runtime=2 * 3600),
        Account("broke", qos=("normal",), unusable="It has no core hours left."),
    ),
    default_account="physics",
    qos=("normal", "high"),
    reservations=(
        Reservation("school", NOW - 10, NOW + 3600),
        Reservation("gpuschool", NOW - 10, None, queue="gpu"),
        Reservation("over", NOW - 7200, NOW - 3600),
    ),
)


@pytest.fixture
def everything(profile: MakeProfile) -> Profile:
    """A profile with 2 cores, 4G and 8 hours, in which every field is adjustable."""
    return profile(adjustable=EVERYTHING)


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        pytest.param({}, {}, id="nothing"),
        pytest.param({"cores": "4"}, {"cores": 4}, id="text"),
        pytest.param({"cores": 8}, {"cores": 8}, id="number"),
        pytest.param({"cores": " 4 "}, {"cores": 4}, id="spaces"),
        pytest.param({"memory": "64G"}, {"memory": "64G"}, id="memory"),
        pytest.param({"memory": "4096M"}, {"memory": "4G"}, id="another-unit"),
        pytest.param({"runtime": "1:30:00"}, {"runtime": "1:30:00"}, id="runtime"),
        pytest.param({"runtime": "24:00:00", "queue": "gpu"}, {"runtime": "1-00:00:00", "queue": "gpu"}, id="day"),
        pytest.param({"queue": "gpu", "cores": 16}, {"queue": "gpu", "cores": 16}, id="larger-queue"),
        pytest.param({"account": "physics"}, {"account": "physics"}, id="account"),
        pytest.param({"account": ""}, {}, id="default-account"),
        pytest.param({"qos": "high"}, {"qos": "high"}, id="qos-of-the-default-account"),
        pytest.param({"qos": ""}, {}, id="default-qos"),
        pytest.param({"reservation": "school"}, {"reservation": "school"}, id="reservation"),
        pytest.param({"node_constraint": "ib&bigmem"}, {"node_constraint": "ib&bigmem"}, id="constraint"),
        pytest.param({"node_constraint": ""}, {}, id="any-node"),
        pytest.param({"working_directory": "~/a/b"}, {"working_directory": "~/a/b"}, id="directory"),
        pytest.param({"kernel": "r"}, {"default_kernel": "r"}, id="kernel"),
        pytest.param({"interface": "notebook"}, {"interface": "notebook"}, id="interface"),
    ],
)
def test_valid_choice_is_granted(everything: Profile, fields: dict[str, object], changes: dict[str, Any]) -> None:
    granted = choose(everything, CLUSTER, fields, ALLOCATIONS, NOW)
    assert granted == everything.model_copy(update={**changes, "adjustable": Adjustable()})
    assert choose(everything, CLUSTER, normal_fields(everything, fields), ALLOCATIONS, NOW) == granted


def test_gpus_of_a_type_are_granted(everything: Profile) -> None:
    granted = choose(everything, CLUSTER, {"queue": "gpu", "gpus": "2", "gpu_type": "v100"}, ALLOCATIONS, NOW)
    assert (int(granted.gpus), granted.gpus.types) == (2, {"v100": 2})
    without = choose(everything, CLUSTER, {"gpus": "0", "gpu_type": "v100"}, ALLOCATIONS, NOW)
    assert (int(without.gpus), without.gpus.types) == (0, {})


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        pytest.param({"cores": "0"}, "cores", "0 is not possible here. Choose 2 to 16 in steps of 2.", id="below"),
        pytest.param({"cores": "18"}, "cores", "18 is not possible here.", id="above"),
        pytest.param({"cores": "3"}, "cores", "3 is not possible here.", id="between-steps"),
        pytest.param({"cores": "-2"}, "cores", "Write a whole number such as 16", id="negative"),
        pytest.param({"cores": "2.0"}, "cores", "Write a whole number", id="fraction"),
        pytest.param({"cores": 4.0}, "cores", "Write text or a number.", id="float"),
        pytest.param({"cores": True}, "cores", "Write text or a number.", id="true"),
        pytest.param({"cores": None}, "cores", "Write text or a number.", id="null"),
        pytest.param({"cores": ["4"]}, "cores", "Write text or a number.", id="list"),
        pytest.param({"cores": "٤"}, "cores", "Write a whole number", id="arabic-digit"),
        pytest.param({"cores": "9" * 10_000}, "cores", "The value is too long", id="10-kB-number"),
        pytest.param({"memory": "4 GB"}, "memory", "Write a size such as 128G", id="memory-format"),
        pytest.param(
            {"memory": "256G"}, "memory", "256 GB is not possible here. Choose 2 GB to 128 GB", id="memory-above"
        ),
        pytest.param({"runtime": "8"}, "runtime", "Write hours, minutes and seconds", id="runtime-format"),
        pytest.param({"runtime": "48:00:00"}, "runtime", "is not possible here", id="runtime-above"),
        pytest.param({"cores": "16"}, "cores", "16 is more than the queue interactive permits", id="above-the-queue"),
        pytest.param({"gpus": "1"}, "gpus", "The queue interactive has no GPUs", id="queue-without-gpus"),
        pytest.param(
            {"queue": "gpu", "gpus": "3", "gpu_type": "v100"}, "gpus", "Choose at most 2", id="too-many-of-a-type"
        ),
        pytest.param({"gpu_type": "h100"}, "gpu_type", "'h100' is not offered. Choose one of: a100, v100", id="type"),
        pytest.param(
            {"account": "chemistry"}, "account", "Choose one of: physics, course", id="somebody-elses-account"
        ),
        pytest.param({"account": "broke"}, "account", "You cannot charge the account 'broke'", id="unusable-account"),
        pytest.param({"account": "a" * 10_000}, "account", "The value is too long", id="10-kB-name"),
        pytest.param({"account": "a\n#SBATCH --uid=0"}, "account", "is not valid here", id="line-break"),
        pytest.param({"account": "course", "qos": "high"}, "qos", "Choose one of: normal", id="qos-of-another-account"),
        pytest.param({"qos": "gone"}, "qos", "You cannot use the quality of service 'gone'", id="qos-that-vanished"),
        pytest.param({"account": "course"}, "runtime", "permits sessions of at most 2 h", id="account-with-limit"),
        pytest.param(
            {"account": "course", "queue": "gpu", "runtime": "1:00:00"},
            "account",
            "You cannot use the account course in the queue gpu. Its queues are: interactive.",
            id="queue-of-another-account",
        ),
        pytest.param({"reservation": "over"}, "reservation", "Choose one of: school", id="reservation-that-is-over"),
        pytest.param({"reservation": "gpuschool"}, "reservation", "belongs to the queue gpu", id="its-queue"),
        pytest.param({"node_constraint": "other"}, "node_constraint", "is not offered", id="constraint"),
        pytest.param({"queue": "batch"}, "queue", "'batch' is not offered", id="unknown-queue"),
        pytest.param({"queue": "old"}, "queue", "not available at the moment", id="disabled-queue"),
        pytest.param({"working_directory": "a/b"}, "working_directory", "Begin with / or ~/", id="relative"),
        pytest.param({"working_directory": "~/../bob"}, "working_directory", "is not valid here", id="way-up"),
        pytest.param({"working_directory": "/$(id)"}, "working_directory", "is not valid here", id="command"),
        pytest.param({"kernel": "julia"}, "kernel", "Choose one of: python3, r", id="kernel"),
        pytest.param(
            {"interface": "shell"},
            "interface",
            "Choose one of: JupyterLab, Jupyter Notebook, Classic notebook",
            id="interface",
        ),
        pytest.param({"options": "--uid=0"}, "", "does not let you change 'options'", id="fixed-field"),
        pytest.param({"x" * 10_000: "1"}, "", "does not let you change 'xxx", id="10-kB-field"),
    ],
)
def test_invalid_choice_is_explained(everything: Profile, fields: dict[str, object], field: str, message: str) -> None:
    with pytest.raises(ChoiceError) as caught:
        choose(everything, CLUSTER, fields, ALLOCATIONS, NOW)
    assert [each.field for each in caught.value.complaints] == [field]
    assert message in caught.value.complaints[0].message
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def test_all_mistakes_are_reported_at_once(everything: Profile) -> None:
    with pytest.raises(ChoiceError) as caught:
        choose(everything, CLUSTER, {"cores": "99", "memory": "x", "kernel": "julia"}, ALLOCATIONS, NOW)
    assert [each.field for each in caught.value.complaints] == ["cores", "memory", "kernel"]


@pytest.mark.parametrize("name", list(EVERYTHING))
def test_field_that_is_not_adjustable_cannot_be_changed(profile: MakeProfile, name: str) -> None:
    with pytest.raises(ChoiceError, match=f"Small does not let you change '{NAMES[name]}'"):
        choose(profile(), CLUSTER, {name: "4"}, ALLOCATIONS, NOW)


@pytest.mark.parametrize("known", [None, Allocations(taken=NOW)], ids=["no-answer", "scheduler-without-accounts"])
@pytest.mark.parametrize("name", ["account", "qos", "reservation"])
def test_scheduler_decides_about_what_is_unknown(everything: Profile, name: str, known: Allocations | None) -> None:
    granted = choose(everything, CLUSTER, {name: "other"}, known, NOW)
    assert getattr(granted, name) == "other"
    assert not options(everything, name, CLUSTER, known, now=NOW).is_known


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("cores", tuple(str(number) for number in range(2, 17, 2))),
        ("account", ("", "physics", "course")),
        ("qos", ("", "normal", "high")),
        ("reservation", ("", "school", "gpuschool")),
        ("queue", ("interactive", "gpu")),
        ("interface", ("lab", "notebook", "nbclassic")),
        ("working_directory", ()),
    ],
)
def test_form_offers_the_users_own_values(everything: Profile, name: str, values: tuple[str, ...]) -> None:
    assert options(everything, name, CLUSTER, ALLOCATIONS, now=NOW).values == values


def test_choices_limit_the_users_own_accounts(profile: MakeProfile) -> None:
    limited = profile(account="course", adjustable={"account": {"choices": ["course", "chemistry"]}})
    assert options(limited, "account", CLUSTER, ALLOCATIONS, now=NOW).values == ("course",)
    with pytest.raises(ChoiceError, match="'physics' is not offered"):
        choose(limited, CLUSTER, {"account": "physics"}, ALLOCATIONS, NOW)
    with pytest.raises(ChoiceError, match="You cannot charge the account 'chemistry'"):
        choose(limited, CLUSTER, {"account": "chemistry"}, ALLOCATIONS, NOW)


def test_default_of_a_field_replaces_the_profiles_own_value(profile: MakeProfile) -> None:
    made = profile(cores=2, adjustable={"cores": {"max": 8, "default": 4}})
    assert choose(made, CLUSTER, {}).cores == 4


# The users of a profile


@pytest.mark.parametrize(
    ("limits", "person", "permitted"),
    [
        pytest.param({}, Person("ada"), True, id="everybody"),
        pytest.param({"users": ["ada"]}, Person("ada"), True, id="user"),
        pytest.param({"users": ["ada"]}, Person("Ada"), False, id="name-in-another-case"),
        pytest.param({"groups": ["hpc"]}, Person("ada", frozenset({"hpc"})), True, id="group"),
        pytest.param({"groups": ["hpc"]}, Person("ada", frozenset({"hpc2"})), False, id="other-group"),
        pytest.param({"groups": ["hpc"]}, Person("ada", frozenset(), frozenset({"hpc"})), False, id="unix-is-not-sso"),
        pytest.param({"unix_groups": ["hpc"]}, Person("ada", frozenset({"hpc"})), False, id="sso-is-not-unix"),
        pytest.param({"unix_groups": ["hpc"]}, Person("ada", frozenset(), frozenset({"hpc"})), True, id="unix-group"),
        pytest.param({"unix_groups": ["1500"]}, Person("ada", frozenset(), frozenset({"1500"})), True, id="gid"),
        pytest.param({"unix_groups": ["hpc"]}, Person("ada"), False, id="unknown-unix-groups"),
        pytest.param({"groups": ["a"], "users": ["ada"]}, Person("ada"), True, id="one-rule-is-enough"),
    ],
)
def test_profile_is_only_for_its_people(
    profile: MakeProfile, limits: dict[str, Any], person: Person, permitted: bool
) -> None:
    found = refusal(profile(**limits), person)
    assert (found is None) == permitted
    assert found is None or person.name not in found.message


# The settings of an inventory


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        pytest.param({"adjustable": {"cores": {}}}, "adjustable.cores", id="no-limit"),
        pytest.param({"adjustable": {"cores": {"min": 4, "max": 2}}}, "has min 4 above max 2", id="min-above-max"),
        pytest.param({"adjustable": {"cores": {"max": 4, "choices": [1]}}}, "has choices and max", id="both"),
        pytest.param({"adjustable": {"cores": {"max": 4, "default": 5}}}, "has the default 5", id="default"),
        pytest.param({"adjustable": {"cores": {"min": 2, "max": 4}}}, "cores 1 is outside of", id="own-value"),
        pytest.param({"adjustable": {"cores": {"max": 5}}}, "is above max_cores 4 of queue", id="above-the-queue"),
        pytest.param({"adjustable": {"cores": {"choices": [1, 9]}}}, "is above max_cores 4", id="choice-above-queue"),
        pytest.param({"adjustable": {"memory": {"max": "9G"}}}, "is above max_memory", id="memory-above"),
        pytest.param(
            {"adjustable": {"runtime": {"max": 3600}}}, "reads a time without quotes", id="time-without-quotes"
        ),
        pytest.param({"adjustable": {"gpus": {"max": 1}}}, "has no GPUs", id="gpus"),
        pytest.param({"adjustable": {"queue": {"choices": ["q", "qq"]}}}, '"qq" is not a queue', id="queue"),
        pytest.param({"adjustable": {"queue": {}}}, "has no choices", id="no-choices"),
        pytest.param({"adjustable": {"kernel": {"choices": ["r"]}}}, '"r" is not a kernel', id="kernel"),
        pytest.param({"adjustable": {"interface": {"choices": ["vi"]}}}, "is unknown", id="interface"),
        pytest.param({"adjustable": {"qos": {}}, "options": ["--qos=a"]}, "repeats the field adjustable.q", id="qos"),
        pytest.param({"qos": "b", "options": ["-q a"]}, "repeats the field qos", id="qos-twice"),
        pytest.param({"adjustable": {"core": {"max": 2}}}, 'did you mean "cores"', id="misspelt"),
        pytest.param({"groups": ["*"]}, "is a wildcard", id="wildcard"),
        pytest.param({"users": ["root"]}, "is not a user's name", id="root"),
        pytest.param({"users": ["mallory"]}, "is in hpc_access.blocked_users", id="blocked"),
        pytest.param({"unix_groups": ["hpc"]}, "hub_accounts is false", id="no-accounts-on-the-hub"),
        pytest.param({"working_directory": "scratch"}, "begin with / or ~/", id="directory"),
        pytest.param({"idle_limit": "soon"}, "is not a time", id="idle-limit"),
        pytest.param({"max_sessions": -1}, "is below 0", id="sessions"),
    ],
)
def test_mistakes_in_a_profile_are_explained(changes: dict[str, Any], complaint: str) -> None:
    access = {**VARIABLES["hpc_access"], "hub_accounts": False, "blocked_users": ["mallory"]}
    entry = {
        "key": "small",
        "display_name": "Small",
        "cluster": "demo",
        "queue": "q",
        "cores": 1,
        "memory": "1G",
        "runtime": "1:00:00",
        **changes,
    }
    with pytest.raises(SiteError) as caught:
        Site.from_vars({**VARIABLES, "hpc_access": access, "hpc_profiles": [entry]})
    assert complaint in str(caught.value)
    assert len(caught.value.problems) == 1


def test_nodes_do_not_learn_who_may_use_a_profile() -> None:
    entry = {
        "key": "small",
        "display_name": "Small",
        "cluster": "demo",
        "queue": "q",
        "cores": 1,
        "memory": "1G",
        "runtime": "1:00:00",
        "users": ["ada"],
        "groups": ["physics"],
        "adjustable": {"kernel": {}},
    }
    made = site(entry)
    assert profile_list(made)["profiles"][0]["users"] == ["ada"]
    listed = profile_list(made, "demo")["profiles"][0]
    assert (listed["users"], listed["groups"]) == ([], [])
    assert listed["adjustable"]["kernel"]["choices"] == ["python3"]


@pytest.mark.parametrize("name", sorted(set(choice._KINDS) - {"memory", "runtime", "kernel"}))
def test_advice_about_each_kind_of_value_can_be_translated(name: str) -> None:
    """The fields with amounts have texts of their own, and a kernel always has choices."""
    with pytest.raises(ValidationError) as raised:
        choice._TYPES[name].validate_python("a b;c")
    advice = raised.value.errors(include_url=False)[0]["ctx"]["valid"]
    assert f"{advice[:1].upper()}{advice[1:]}." in choice.ADVICE


# Reservations in the scheduler's own syntax


def _small_cluster(scheduler: str) -> Cluster:
    limits = {"max_cores": 8, "max_memory": "64G", "max_runtime": "2:00:00"}
    queues = [{"name": name, **limits} for name in ("interactive", "vip", "R7", "S8.server")]
    fields = {"name": "demo", "scheduler": scheduler, "submit": {"method": "local"}, "networks": ["10.0.0.0/8"]}
    return Cluster.model_validate({**fields, "queues": queues})


def _small_profile(**changes: object) -> Profile:
    fields = {"key": "small", "display_name": "Small", "cluster": "demo", "queue": "interactive"}
    return Profile.model_validate({**fields, "cores": 2, "memory": "4G", "runtime": "1:00:00", **changes})


@pytest.mark.parametrize(
    "reservation",
    ["vip", "vip@other.server", "R7", "R7.server", "S8.server", "R1@other.server", "R1.a@b", "r1", "R1,R2"],
)
def test_reservation_is_no_way_to_another_queue_of_pbs(reservation: str) -> None:
    """PBS takes a reservation as a queue. A user must not reach a queue that the profile does not offer."""
    profile, cluster = _small_profile(adjustable={"reservation": {}}), _small_cluster("pbs")
    with pytest.raises(ChoiceError) as error:
        choose(profile, cluster, {"reservation": reservation})
    assert "Write the id of a reservation, as in R123" in error.value.message
    assert [each.field for each in error.value.complaints] == ["reservation"]


@pytest.mark.parametrize("reservation", ["R123", "S7.server", "M1.pbs-1.example.org", ""])
def test_id_of_a_reservation_is_accepted_for_pbs(reservation: str) -> None:
    profile = _small_profile(adjustable={"reservation": {}})
    assert choose(profile, _small_cluster("pbs"), {"reservation": reservation}).reservation == reservation


def test_reservation_of_the_profile_itself_is_checked_too() -> None:
    """A profile can come from an older list, without the checks of the inventory."""
    with pytest.raises(ChoiceError, match="Write the id of a reservation"):
        choose(_small_profile(reservation="vip"), _small_cluster("pbs"), {})


@pytest.mark.parametrize("scheduler", ["torque", "moab"])
@pytest.mark.parametrize("reservation", ["a:PREEMPTOR", "a,nodes", "a,b"])
def test_reservation_cannot_add_a_flag_of_moab(scheduler: str, reservation: str) -> None:
    profile, cluster = _small_profile(adjustable={"reservation": {}}), _small_cluster(scheduler)
    with pytest.raises(ChoiceError, match="letters, digits and _"):
        choose(profile, cluster, {"reservation": reservation})
    assert choose(profile, cluster, {"reservation": "school.1"}).reservation == "school.1"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"reservation": "vip"}, "reservation"),
        ({"adjustable": {"reservation": {"choices": ["", "vip"]}}}, "adjustable.reservation.choices"),
        ({"adjustable": {"reservation": {"default": "vip"}}}, "adjustable.reservation.default"),
    ],
)
def test_inventory_cannot_name_a_queue_as_a_reservation(changes: dict[str, Any], field: str) -> None:
    """The check of the inventory reports the same values that a start would refuse."""
    cluster = _small_cluster("pbs").model_dump(mode="json", exclude_unset=True)
    profile = _small_profile(**changes).model_dump(mode="json", exclude_unset=True)
    with pytest.raises(SiteError, match=f'{field}.* "vip" is not the id of a reservation'):
        Site.from_vars({**VARIABLES, "hpc_clusters": [cluster], "hpc_profiles": [profile]})

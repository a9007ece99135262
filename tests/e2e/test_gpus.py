"""Sessions with GPUs. The nodes of the lab only pretend to have them, so there is no program that shows their load."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Page, expect

from .lab import eventually
from .pages import START
from .test_form import change_list, field, message_of, post, submit  # noqa: F401 a fixture
from .test_working import status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .batches import Job
    from .lab import Lab
    from .pages import Visitor

ABSENT = "h100"
"""A type of GPU that no node has."""


@pytest.fixture
def gpu(lab: Lab, change_list: Callable[..., None]) -> dict[str, Any]:  # noqa: F811 the fixture
    """Return the profile with GPUs that users can change. If the lab has GPUs but no such profile, offer one."""
    profiles = lab.profiles()
    for profile in profiles:
        if profile["adjustable"]["gpus"]:
            return profile
    queues = [(each["name"], queue) for each in lab.profile_list()["clusters"] for queue in each["queues"]]
    with_gpus = [(name, queue) for name, queue in queues if queue["max_gpus"]]
    if not with_gpus:
        pytest.skip("the lab has no GPUs")
    cluster, queue = with_gpus[0]
    limits = {"min": 1, "max": queue["max_gpus"], "step": None, "default": None, "choices": []}
    offered = {
        **profiles[0],
        "key": "e2e-gpu",
        "display_name": "GPU",
        "cluster": cluster,
        "queue": queue["name"],
        "gpus": 1,
        "adjustable": {**profiles[0]["adjustable"], "gpus": limits},
    }
    change_list(lambda content: content["profiles"].append(offered))
    return offered


@pytest.fixture
def scheduler(lab: Lab, gpu: dict[str, Any]) -> str:
    """Return the scheduler of the profile's cluster."""
    return str(next(each["scheduler"] for each in lab.profile_list()["clusters"] if each["name"] == gpu["cluster"]))


@pytest.fixture
def slurm(scheduler: str) -> None:
    """Skip the tests of what only Slurm knows: types of GPUs, and when a job would start that must wait."""
    if scheduler != "slurm":
        pytest.skip("only Slurm tells types of GPUs")


@pytest.fixture
def one_gpu_is_free(lab: Lab, gpu: dict[str, Any], slurm: None) -> Iterator[None]:
    """Let another user's jobs hold all GPUs of the profile's type except one."""
    kind = gpu["gpus"]["type"]
    options = [f"--partition={gpu['queue']}", "--mem=100M", "--time=60", "--chdir=/tmp", "--wrap=sleep 900"]
    for node, number in (("compute1", 2), ("compute2", 1)):
        gres = f"--gres=gpu:{kind}:{number}"
        lab.run("login1", ["runuser", "-u", "bob", "--", "sbatch", f"--nodelist={node}", gres, *options])
    eventually("the GPUs are in use", lambda: [job.state for job in lab.jobs("bob")] == ["RUNNING"] * 2)
    yield
    lab.cancel_jobs("bob")


def choose(page: Page, lab: Lab, key: str, **fields: str) -> None:
    """Fill in the form."""
    page.goto(f"{lab.url}/hub/spawn?profile={key}")
    for name, value in fields.items():
        field(page, key, name).select_option(value)


def granted(lab: Lab, job: Job, scheduler: str) -> str:
    """Return what the scheduler reports about a job's resources."""
    commands = {
        "slurm": ["scontrol", "--oneliner", "show", "job", job.id],
        "gridengine": ["qstat", "-j", job.id],
    }
    return lab.run("login1", commands[scheduler])


def test_form_offers_gpus_within_the_limits_of_the_profile(
    browser_page: Visitor, lab: Lab, gpu: dict[str, Any]
) -> None:
    key, limits = gpu["key"], gpu["adjustable"]["gpus"]
    browser_page.sign_in("alice")
    page = browser_page.page
    choose(page, lab, key)
    numbers = [str(number) for number in range(limits["min"], limits["max"] + 1)]
    assert field(page, key, "gpus").locator("option").evaluate_all("all => all.map(each => each.value)") == numbers
    for value in ("0", str(limits["max"] + 1), "-1", "1.5", "many"):
        post(browser_page, lab, {"profile": key, f"{key}.gpus": value})
        expect(message_of(page, field(page, key, "gpus"))).to_be_visible()
    assert not lab.jobs("alice")


def test_job_has_the_gpus_that_the_user_chose(
    browser_page: Visitor, lab: Lab, gpu: dict[str, Any], scheduler: str
) -> None:
    """The status bar shows no GPU and no error, because the node has no program that shows their load."""
    key = gpu["key"]
    errors: list[str] = []
    page = browser_page.page
    page.on("pageerror", lambda error: errors.append(str(error)))
    browser_page.sign_in("alice")
    choose(page, lab, key, gpus="2")
    submit(page)
    notebooks = browser_page.wait_for_lab()
    (job,) = lab.jobs("alice")
    pattern = {
        "slurm": rf"TresPerNode=gres[:/]gpu:{(gpu['gpus'] or {}).get('type', '') if scheduler == 'slurm' else ''}:2\b",
        "gridengine": r"resource_list:.*\bgpu=2\b",
    }[scheduler]
    assert re.search(pattern, granted(lab, job, scheduler), re.MULTILINE)
    if scheduler == "slurm":
        assert "gres/gpu=2" in lab.run("login1", ["sacct", "-nP", "-X", "--format=AllocTRES", "--jobs", job.id])
        output = notebooks.new_notebook("python3").run("import os; print(os.environ['CUDA_VISIBLE_DEVICES'])")
        assert output == "0,1"
    expect(status(page)).to_contain_text("memory", timeout=START)
    expect(status(page)).not_to_contain_text("GPU")
    assert errors == []


def test_job_has_the_type_that_the_user_chose(
    browser_page: Visitor, lab: Lab, gpu: dict[str, Any], scheduler: str, slurm: None
) -> None:
    other = next(each for each in gpu["adjustable"]["gpu_type"]["choices"] if each != gpu["gpus"]["type"])
    browser_page.sign_in("alice")
    choose(browser_page.page, lab, gpu["key"], gpus="1", gpu_type=other)
    submit(browser_page.page)
    browser_page.wait_for_lab()
    (job,) = lab.jobs("alice")
    assert re.search(rf"TresPerNode=gres[:/]gpu:{other}:1\b", granted(lab, job, scheduler))


def test_more_gpus_than_the_queue_has_of_a_type_are_refused_beside_the_field(
    browser_page: Visitor, lab: Lab, gpu: dict[str, Any], slurm: None
) -> None:
    """The queue has fewer GPUs of the second type than the field permits."""
    key = gpu["key"]
    other = next(each for each in gpu["adjustable"]["gpu_type"]["choices"] if each != gpu["gpus"]["type"])
    browser_page.sign_in("alice")
    choose(browser_page.page, lab, key, gpus="2", gpu_type=other)
    submit(browser_page.page)
    expect(message_of(browser_page.page, field(browser_page.page, key, "gpus"))).to_contain_text("at most 1")
    assert not lab.jobs("alice")


def test_type_that_is_not_offered_gets_a_message_beside_its_field(
    browser_page: Visitor, lab: Lab, gpu: dict[str, Any], slurm: None
) -> None:
    key = gpu["key"]
    browser_page.sign_in("alice")
    for value in (ABSENT, "a100:8", "a100 --exclusive", "x" * 10_240):
        post(browser_page, lab, {"profile": key, f"{key}.gpu_type": value})
        expect(message_of(browser_page.page, field(browser_page.page, key, "gpu_type"))).to_be_visible()
    assert not lab.jobs("alice")


def test_type_that_the_cluster_does_not_have_is_explained_beside_its_field(
    browser_page: Visitor,
    lab: Lab,
    gpu: dict[str, Any],
    slurm: None,
    change_list: Callable[..., None],  # noqa: F811 the fixture
) -> None:
    """The inventory offers a type that is gone from the cluster. Slurm refuses the job."""
    key = gpu["key"]

    def offer(content: dict[str, Any]) -> None:
        for profile in content["profiles"]:
            if profile["key"] == key:
                profile["adjustable"]["gpu_type"]["choices"].append(ABSENT)
        for cluster in content["clusters"]:
            for queue in cluster["queues"]:
                if queue["name"] == gpu["queue"]:
                    queue["max_gpus"].append({"type": ABSENT, "count": 2})

    change_list(offer)
    browser_page.sign_in("alice")
    page = browser_page.page
    choose(page, lab, key, gpu_type=ABSENT)
    submit(page)
    control = field(page, key, "gpu_type")
    expect(control).to_have_attribute("aria-invalid", "true", timeout=60_000)
    expect(message_of(page, control)).to_contain_text(f"GPUs of the type '{ABSENT}'")
    assert not lab.jobs("alice")


@pytest.mark.slow
@pytest.mark.usefixtures("one_gpu_is_free")
def test_form_offers_fewer_gpus_that_are_free_now(browser_page: Visitor, lab: Lab, gpu: dict[str, Any]) -> None:
    key = gpu["key"]
    browser_page.sign_in("alice")
    page = browser_page.page
    card = page.locator(f".hpchub-profile:has(input[value='{key}'])")

    def offered() -> bool:
        page.goto(f"{lab.url}/hub/spawn?profile={key}&gpus=2")
        return card.locator(".hpchub-smaller").count() > 0

    eventually("the form knows that only one GPU is free", offered, timeout=240, interval=5)
    expect(card.locator(".hpchub-start")).not_to_contain_text("Starts now")
    card.get_by_role("link", name=re.compile("This smaller one starts now: .*GPUs 1")).click()
    expect(field(page, key, "gpus")).to_have_value("1")
    submit(page)
    browser_page.wait_for_lab()

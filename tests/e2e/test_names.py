"""Accounts and groups with names in the forms that directories and identity providers use."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from .lab import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from .lab import Lab
    from .pages import Visitor

# Each account has one group of the identity provider that permits it: /staff/hpc, HPC Users, a distinguished name, hpc.
NAMES = ["first.last", "2023abc", "AB1234", "ann@CL.ORG"]


@pytest.fixture(autouse=True)
def _accounts(lab: Lab) -> None:
    """Skip the tests if the lab's inventory does not permit the names, or the lab was created without the accounts."""
    pattern = lab.hub_settings()["access"]["user_pattern"]
    known = {user["name"] for user in lab.state["users"]}
    if not all(re.fullmatch(pattern, name) for name in NAMES) or not known.issuperset(NAMES):
        pytest.skip("this lab has no accounts with unusual names, or its inventory does not permit them")


@pytest.mark.parametrize("name", NAMES)
def test_user_with_an_unusual_name_has_a_whole_session(browser_page: Visitor, lab: Lab, name: str) -> None:
    """The name goes through sign-on, groups, sudo, scheduler, certificate, routes and addresses."""
    browser_page.sign_in(name)
    notebooks = browser_page.start(lab.profiles()[0]["key"])
    (job,) = lab.jobs(name)
    assert job.state == "RUNNING"
    code = "import getpass, os; print(getpass.getuser(), os.path.expanduser('~'))"
    assert notebooks.run_cell("python3", code) == f"{name} /home/{name}"
    encoded = browser_page.fetch("GET", f"/user/{quote(name, safe='')}/api/status")
    assert encoded.status == 200, encoded
    browser_page.stop_server()
    eventually("the job is gone", lambda: not lab.jobs(name))


def test_separator_in_the_name_of_a_group_makes_no_administrator(browser_page: Visitor, lab: Lab) -> None:
    """Hazard H21. Ann is in the groups x,hpc-admins and x;hpc-admins."""
    browser_page.sign_in("ann@CL.ORG")
    assert browser_page.fetch("GET", "/hub/api/users").status == 403
    assert browser_page.page.goto(f"{lab.url}/hub/admin").status == 403  # type: ignore[union-attr]


def test_session_of_a_user_with_a_similar_name_is_refused(visitor: Callable[[], Visitor], lab: Lab) -> None:
    owner, other = visitor(), visitor()
    owner.sign_in("AB1234")
    owner.start(lab.profiles()[0]["key"])
    other.sign_in("first.last")
    for path in (
        "/user/AB1234/api/contents",
        "/user/ab1234/api/contents",
        "/user/%41B1234/lab",
        "/user/first@last/lab",
    ):
        answer = other.page.goto(f"{lab.url}{path}")
        assert answer is not None
        assert answer.status in {400, 403, 404}, path

"""Attacks after a sign-on has ended. They run last, so that the first sign-on is older than the refresh age."""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING

import pytest

from .target import Unusable, signed_in_as

if TYPE_CHECKING:
    from .target import Person, Session, Target

REFRESH_AGE = 60
"""How long the hub may still accept a sign-on that has ended, in seconds."""


def acts_as(person: Person) -> set[str]:
    """Return the users that the hub takes this client for, on its home page and its token page."""
    return {signed_in_as(person.page("/hub/home").text), signed_in_as(person.ask("/hub/token").text)} - {""}


@pytest.mark.hazard("H10")
def test_hub_cookies_are_refused_without_their_sign_on(target: Target, early_bird: tuple[Person, float]) -> None:
    """A client keeps the hub's cookies after the sign-on has ended, or uses them with another user's sign-on"""
    bob, since = early_bird
    time.sleep(max(0.0, since + REFRESH_AGE + 2 - time.monotonic()))
    kept = {key: value for key, value in bob.jar.items() if key.startswith("jupyterhub")}
    assert kept
    without = target.person()
    without.jar.update(kept)
    assert not acts_as(without), "the hub accepts its cookies without a sign-on"
    other = target.person("alice")
    other.jar.update({**kept, **{key: other.jar[key] for key in target.sign_on_cookies if key in other.jar}})
    assert "bob" not in acts_as(other), "alice is signed in and becomes bob by his old cookies"
    # This comes last, because the hub then accepts his cookies for a while.
    if acts_as(bob) != {"bob"}:
        raise Unusable("bob's cookies are not even accepted together with his own sign-on")


@pytest.mark.hazard("H23")
def test_api_token_has_an_end(target: Target) -> None:
    """A user creates an API token without an end, or one that lasts for ten years"""
    person = target.signed_in("bob")
    for lifetime in (None, 10 * 365 * 24 * 3600):
        answer = person.api("POST", "users/bob/tokens", {"note": "program", "expires_in": lifetime})
        if answer.status == 400:
            continue
        if answer.status != 201:
            raise Unusable(f"bob cannot create a token: {answer}")
        token = json.loads(answer.text)
        person.api("DELETE", f"users/bob/tokens/{token['id']}")
        assert token["expires_at"], "the token has no end"
        assert token["expires_at"] < f"{time.gmtime().tm_year + 2}", f"the token lasts until {token['expires_at']}"


@pytest.mark.hazard("H10")
def test_signing_out_ends_every_session_of_the_browser(target: Target) -> None:
    """A client uses the browser, or copied cookies, of a user who has signed out"""
    person = target.person("bob")
    assert acts_as(person) == {"bob"}
    kept = dict(person.jar)
    person.follow(person.ask("/hub/logout"))
    assert not acts_as(person), "a signed-out user is signed in again at the next click"
    thief = target.person()
    thief.jar.update(kept)
    assert not acts_as(thief), "cookies from before the sign-out are still accepted"


@pytest.mark.hazard("H23")
def test_tab_ends_with_the_sign_on(target: Target, alice: Session) -> None:
    """A tab goes on with the token of its page, or its cookies, after its user has signed out"""
    person, mark = target.person(alice.user), secrets.token_hex(4)
    token = [("Authorization", "token " + "p" * 30)]  # the form of a page's token; the hostile server accepts any
    person.ask(f"/user/{alice.user}/hostile/{mark}-before", token)
    kept = dict(person.jar)
    person.follow(person.ask("/hub/logout"))
    person.jar.update(kept)
    for headers in (token, []):
        person.ask(f"/user/{alice.user}/hostile/{mark}-after", headers)
    arrived = [uri for _, uri, _, _ in target.received(alice.user) if mark in uri]
    if not any("before" in uri for uri in arrived):
        raise Unusable("the server does not record the requests of the tab")
    assert not any("after" in uri for uri in arrived), "the server still receives the requests of the tab"

"""When a sign-on ends. These come last, so that somebody has been signed in for longer than a hub may believe it."""

import time

import pytest

from .target import signed_in_as

BELIEF = 60  # seconds for which the hub may believe in a sign-on that has ended


def acts_as(person):
    """Whom the hub takes somebody for, by its pages and its API."""
    return {signed_in_as(person.page("/hub/home").text), signed_in_as(person.ask("/hub/token").text)} - {""}


@pytest.mark.hazard("H10")
def test_the_hubs_cookies_outlive_the_sign_on(target, early_bird):
    """Somebody keeps the hub's cookies when the sign-on has ended, or is somebody else's"""
    bob, since = early_bird
    time.sleep(max(0.0, since + BELIEF + 2 - time.monotonic()))
    kept = {key: value for key, value in bob.jar.items() if key.startswith("jupyterhub")}
    assert kept
    without = target.person()
    without.jar.update(kept)
    assert not acts_as(without), "the hub's cookies are good without a sign-on"
    other = target.person("alice")
    other.jar.update({**kept, **{key: other.jar[key] for key in target.sign_on_cookies if key in other.jar}})
    assert "bob" not in acts_as(other), "alice, signed in, is bob by the cookies that he left"


@pytest.mark.hazard("H10")
def test_signing_out(target):
    """Somebody uses the browser, or kept cookies, of a person who has signed out"""
    person = target.person("bob")
    assert acts_as(person) == {"bob"}
    kept = dict(person.jar)
    person.follow(person.ask("/hub/logout"))
    assert not acts_as(person), "who has signed out is signed in again at the next click"
    thief = target.person()
    thief.jar.update(kept)
    assert not acts_as(thief), "cookies from before the end are good"

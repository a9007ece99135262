"""Attacks on the deployed service by hostile insiders. A test passes if its attack fails."""

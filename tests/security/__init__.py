"""Attacks on the service as deployed, by hostile insiders. A test passes when its attack fails."""

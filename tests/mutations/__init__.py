"""Mutation tests: remove each security-relevant line, one at a time, and prove that a test fails."""

"""Browser tests against a running lab."""

"""The usage report: who used the service how much, how long they waited, and what failed."""

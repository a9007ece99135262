"""Programs that are copied to other hosts. They use the standard library only (Python 3.9 and later)."""

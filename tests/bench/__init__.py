"""Benches that compare two services in one run: timings as ratios, and attacks. A bench does not pass or fail."""

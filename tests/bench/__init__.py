"""What is tried on two services side by side in one run: timings, as ratios, and attacks. Nothing passes or fails."""

"""Parts of the load bench: a scheduler with the CPU cost of a real one, its nodes, the accounts and the hubs."""

"""What a hub under load stands on: a scheduler that costs what the real one costs, nodes, accounts, and the hubs."""

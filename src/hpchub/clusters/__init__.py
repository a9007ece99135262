"""How the hub reaches a cluster's scheduler: batch scripts, gate client, poller and limits."""

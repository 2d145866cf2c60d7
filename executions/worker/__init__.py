"""The worker of a machine: keeps its queue cluster, its runner and its engine hosts running."""

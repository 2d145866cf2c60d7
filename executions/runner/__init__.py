"""The runner: one process a machine that carries out up to `PORTAL_MAX_RUNS` executions."""

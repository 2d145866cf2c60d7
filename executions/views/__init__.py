"""Pages of runs: `start` (the run form), `lists` (all runs), `page` (one run, live)."""

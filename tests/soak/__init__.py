"""Long proofs against the real processes. `python -m tests.soak --help`; small samples run with the tests."""

"""What the portal costs beside the bare thing, measured in interleaved pairs: `python -m tests.benchmarks`."""

"""Chaos: random runs beside random faults, and a checker that reads what happened (`python -m tests.chaos`)."""

"""Deliverables: their versions and files, what changed between two, search, and who looked at them."""

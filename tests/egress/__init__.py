"""No process of the portal opens a connection that nobody expects: see `tests.egress.gate`."""

OUTSIDE = "93.184.215.14"  # a public address: where the gate is shown that it notices

"""The audit log: `record` in the transaction of what it tells of; one appender seals what was recorded.

    audit.record("crew.shared", by=user, target=crew, before={"visibility": "private"}, after={…})
    audit.follow(Crew, noun="crew")
    audit.refused("request.refused", by=user, after={"status": 403, "route": …})

How it is sealed, and what that does not show: `sealing`. Looking into it: `search`. Checking it: `verify`.
"""

from portal.accounts.audit.following import follow
from portal.accounts.audit.masks import changes, state
from portal.accounts.audit.origin import Origin, current_origin, set_origin
from portal.accounts.audit.record import record
from portal.accounts.audit.refusals import refused
from portal.accounts.audit.search import AuditFilter, search
from portal.accounts.models import AuditEntry

DONE, REFUSED, FAILED = AuditEntry.Outcome.DONE, AuditEntry.Outcome.REFUSED, AuditEntry.Outcome.FAILED

__all__ = [
    "DONE",
    "FAILED",
    "REFUSED",
    "AuditFilter",
    "Origin",
    "changes",
    "current_origin",
    "follow",
    "record",
    "refused",
    "search",
    "set_origin",
    "state",
]

"""Users and what they show at the door, access lists, and the audit log."""

from portal.accounts.models.access import AccessGrant, AccessList, AccessQuerySet, Guarded, Invitation, Visibility
from portal.accounts.models.audit import AuditEntry, AuditHead
from portal.accounts.models.credentials import (
    ApiKey,
    Identity,
    RateWindow,
    RecoveryCode,
    Scope,
    SecondFactor,
    Session,
    UsedToken,
)
from portal.accounts.models.user import PortalUserManager, Role, User

__all__ = [
    "AccessGrant",
    "AccessList",
    "AccessQuerySet",
    "ApiKey",
    "AuditEntry",
    "AuditHead",
    "Guarded",
    "Identity",
    "Invitation",
    "PortalUserManager",
    "RateWindow",
    "RecoveryCode",
    "Role",
    "Scope",
    "SecondFactor",
    "Session",
    "UsedToken",
    "User",
    "Visibility",
]

"""Sessions that know whose they are: listed on the person's page, and ended by deleting the row."""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.sessions.backends.db import SessionStore as DatabaseSessions
from django.db import models, transaction
from django.utils import timezone

from portal.accounts import audit
from portal.accounts.credentials import Credential
from portal.accounts.models import Session, User

# What the session's row gets from its data: the key in the data → the column.
FACTS = "portal_facts"
SEEN_EVERY = timedelta(minutes=1)  # the row says so often, at most, that its person is here


class SessionStore(DatabaseSessions):
    """Database sessions whose row carries user, method, address and the identity provider's session id.

    The facts are put into `session[FACTS]` at sign-in; the row is what pages list and revocation
    deletes. See Django, "Extending database-backed session engines".
    """

    row: Session | None = None  # as it was read or written last

    @classmethod
    def get_model_class(cls) -> type[Session]:
        return Session

    def _get_session_from_db(self) -> Session | None:
        self.row = self._unless_idle(super()._get_session_from_db())  # type: ignore[misc]
        return self.row

    async def _aget_session_from_db(self) -> Session | None:
        self.row = self._unless_idle(await super()._aget_session_from_db())  # type: ignore[misc]
        return self.row

    def _unless_idle(self, row: Session | None) -> Session | None:
        """The row, unless nobody has used it for SESSION_IDLE_HOURS: then it is as good as expired."""
        idle = timedelta(seconds=settings.SESSION_IDLE_SECONDS)
        if row is not None and row.last_seen_at < timezone.now() - idle:
            self._session_key = None
            return None
        return row

    def create_model_instance(self, data: dict[str, Any]) -> Session:
        row = super().create_model_instance(data)
        assert isinstance(row, Session)  # noqa: S101 - tells the type checker
        row.user_id = data.get("_auth_user_id")
        for name, value in data.get(FACTS, {}).items():
            setattr(row, name, value)
        if self.row is not None and self.row.session_key == row.session_key:
            # Saving writes the whole row: what names it and tells its age stays what it is.
            for name in ("public_id", "created_at", "last_seen_at"):
                setattr(row, name, getattr(self.row, name))
        self.row = row
        return row


def credential_of(store: Any) -> Credential:
    """What a signed-in browser shows: its session."""
    row: Session = store.row
    return Credential("session", store.session_key, f"session:{row.public_id}", None, row.expire_date)


def seen(store: Any) -> None:
    """Remember that the person is here: at most once a minute, and never for a session that has ended."""
    row: Session | None = getattr(store, "row", None)
    now = timezone.now()
    if row is not None and row.last_seen_at <= now - SEEN_EVERY:
        row.last_seen_at = now
        Session.objects.filter(pk=row.pk, last_seen_at__lte=now - SEEN_EVERY).update(last_seen_at=now)


def of(user: User) -> models.QuerySet[Session]:
    """The sessions of `user` that have not expired, those used last first."""
    return Session.objects.filter(user=user, expire_date__gt=timezone.now()).order_by("-last_seen_at", "public_id")


def end(session: Session, *, by: User | None) -> None:
    """Sign a browser out, wherever it is. What it holds open closes within a second."""
    _end(Session.objects.filter(pk=session.pk), by)


def end_all(user: User, *, by: User | None, but: str | None = None) -> int:
    """Sign all browsers of `user` out, but the one whose session key is `but`; how many those were."""
    return _end(Session.objects.filter(user=user).exclude(pk=but or ""), by)


def _end(sessions: models.QuerySet[Session], by: User | None) -> int:
    with transaction.atomic():
        found = list(sessions.select_related("user").defer("session_data"))
        for session in found:
            if Session.objects.filter(pk=session.pk).delete()[0] and session.user is not None:
                # By its public name: its key is a secret.
                ended = {"session": str(session.public_id), "method": session.method, "address": session.address}
                audit.record("session.ended", by=by, target=session.user, before=ended)
    return len(found)

"""What all routes rest on, taken away one by one: the rules themselves, credentials, the doors."""

from typing import Any

from django.contrib.auth.backends import ModelBackend
from django.middleware.csrf import CsrfViewMiddleware
from django.utils import timezone

from portal.accounts import api, credentials, invitations, keys, middleware, permissions, sessions
from portal.accounts.credentials import Credential, CredentialRefused
from portal.accounts.models import AccessGrant, ApiKey, Invitation, Role, Scope, Session, User
from portal.accounts.oidc import bearer
from portal.accounts.permissions import OWNER, Action
from portal.site import admin_site
from tests.matrix.mutants import ALWAYS, Mutant, Patch


def guards() -> list[Mutant]:
    """Each of them has to be noticed on the routes where one expects it first."""
    return [
        Mutant(f"guard: {name.replace('_', ' ')}", apply, _WHERE.get(name, ("crew-detail",)))
        for name, apply in _GUARDS.items()
    ]


def _set(target: Any, name: str, value: Any) -> Any:
    return lambda patch: patch.setattr(target, name, value)


def _rule(action: Action) -> Any:
    """Whoever sees a thing may do `action` with it."""
    asked = permissions._allows
    return _set(
        permissions,
        "_allows",
        lambda user, wanted, level: bool(level) if wanted is action else asked(user, wanted, level),
    )


def _viewers_act(patch: Patch) -> None:
    asked = permissions._allows

    def allows(user: Any, action: Action, level: str) -> bool:
        if level and getattr(user, "role", "") == Role.VIEWER:
            return action in {Action.SEE, Action.RUN} or level in {OWNER, AccessGrant.Level.EDITOR}
        return asked(user, action, level)

    patch.setattr(permissions, "_allows", allows)


def _level(instead: Any) -> Any:
    asked = permissions._level
    return _set(permissions, "_level", lambda user, thing: asked(user, thing) or instead(user, thing))


def _grants_are_all_editors(patch: Patch) -> None:
    asked = permissions._level

    def level(user: Any, thing: Any) -> str:
        found = asked(user, thing)
        return AccessGrant.Level.EDITOR if found == AccessGrant.Level.VIEWER else found

    patch.setattr(permissions, "_level", level)


def _refused_falls_back_to_the_cookie(patch: Patch) -> None:
    asked = api.PortalCredentials.authenticate

    def authenticate(self: Any, request: Any) -> Any:
        try:
            return asked(self, request)
        except Exception:  # noqa: BLE001 - this is the fault that is put in
            return None

    patch.setattr(api.PortalCredentials, "authenticate", authenticate)


def _run_tokens_open_the_api(patch: Patch) -> None:
    asked = credentials.check

    def check(token: str, **kwargs: Any) -> Any:
        if token.startswith(credentials.RUN_PREFIX):
            user = User.objects.get(username="matrix-user")
            return user, Credential("bearer", "1", "run")
        return asked(token, **kwargs)

    patch.setattr(credentials, "check", check)


def _keys_of(**facts: Any) -> Any:
    """Keys are taken though their rows say otherwise."""
    asked = keys.check

    def apply(patch: Patch) -> None:
        def check(text: str, **kwargs: Any) -> Any:
            try:
                return asked(text, **kwargs)
            except CredentialRefused:
                row = ApiKey.objects.select_related("user").get(prefix=keys.prefix_of(text))
                if not all(bool(value(row)) for value in facts.values()):
                    raise
                row.user.is_active = True
                return row.user, Credential("api_key", str(row.pk), "key", row.scope_set)

        patch.setattr(keys, "check", check)

    return apply


def _inactive_bearers(patch: Patch) -> None:
    asked = bearer.check

    def check(token: str) -> Any:
        try:
            return asked(token)
        except CredentialRefused:
            user = User.objects.get(username="matrix-inactive")
            user.is_active = True
            return user, Credential("bearer", "1", "bearer")

    patch.setattr(bearer, "check", check)


def _all(model: Any) -> Any:
    return lambda *_, **__: model._default_manager.all()


_GUARDS: dict[str, Any] = {
    "whoever_sees_may_run_without_the_role": _viewers_act,
    "whoever_sees_may_change": _rule(Action.CHANGE),
    "whoever_sees_may_delete": _rule(Action.DELETE),
    "whoever_sees_may_share": _rule(Action.SHARE),
    "whoever_sees_may_stop": _rule(Action.STOP),
    "whoever_sees_may_answer": _rule(Action.ANSWER),
    "everybody_sees_every_thing": _level(lambda user, thing: AccessGrant.Level.VIEWER),
    "everybody_owns_every_thing": _level(lambda user, thing: OWNER),
    "who_was_let_in_to_look_may_edit": _grants_are_all_editors,
    "a_key_is_not_held_to_its_role": _set(User, "effective_role", property(lambda user: Role(user.role))),
    "a_key_has_every_scope": _set(Credential, "allows", lambda self, scope: True),
    "a_key_for_reading_also_runs": _set(
        Credential, "allows", lambda self, scope: self.scopes is None or scope in {*self.scopes, Scope.READ, Scope.RUN}
    ),
    "revoked_keys_are_good": _keys_of(revoked=lambda row: row.revoked_at),
    "expired_keys_are_good": _keys_of(expired=lambda row: row.expires_at and row.expires_at < timezone.now()),
    "keys_of_the_inactive_are_good": _keys_of(inactive=lambda row: not row.user.is_active),
    "tokens_of_the_inactive_are_good": _inactive_bearers,
    "sessions_of_the_inactive_are_good": lambda patch: [
        patch.setattr(ModelBackend, "user_can_authenticate", lambda self, user: True),
        patch.setattr(User, "is_active", ALWAYS),
    ],
    "a_refused_header_falls_back_to_the_cookie": _refused_falls_back_to_the_cookie,
    "run_tokens_open_the_api": _run_tokens_open_the_api,
    "pages_ask_for_no_role": _set(middleware.DenyByDefault, "process_view", lambda *_, **__: None),
    "the_api_asks_for_no_role": _set(api.DeclaredAccess, "has_permission", lambda *_: True),
    "the_api_asks_for_no_scope": lambda patch: [
        patch.setattr(Credential, "allows", lambda self, scope: True),
        patch.setattr(Credential, "cap", None),
    ],
    "django_admin_lets_everybody_in": _set(admin_site.PortalAdminSite, "has_permission", lambda *_: True),
    "the_api_asks_for_no_proof_of_a_page": _set(api.PortalSession, "enforce_csrf", lambda *_: None),
    "pages_ask_for_no_proof_of_a_page": _set(CsrfViewMiddleware, "process_view", lambda *_, **__: None),
    "everybodys_invitations_are_ones_own": _set(invitations, "open_for", _all(Invitation)),
    "every_invitation_is_known": _set(invitations, "known_to", _all(Invitation)),
    "everybodys_sessions_are_ones_own": _set(sessions, "of", _all(Session)),
}

# The routes on which each of them shows; else where a crew is read and changed.
_WHERE: dict[str, tuple[str, ...]] = {
    "whoever_sees_may_run_without_the_role": ("executions:approval-detail", "crew-owner"),
    "whoever_sees_may_share": ("crew-owner",),
    "whoever_sees_may_stop": ("execution-stop",),
    "whoever_sees_may_answer": ("approval-answer",),
    "a_key_is_not_held_to_its_role": ("budget-list", "crew-detail"),
    "pages_ask_for_no_role": ("crews:crew-list",),
    "django_admin_lets_everybody_in": ("admin:index",),
    "pages_ask_for_no_proof_of_a_page": ("crews:crew-copy",),
    "a_key_for_reading_also_runs": ("crew-kickoff",),
    "everybodys_invitations_are_ones_own": ("invitation-list",),
    "every_invitation_is_known": ("invitation-detail",),
    "everybodys_sessions_are_ones_own": ("session-list",),
}

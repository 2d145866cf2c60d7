"""What the header `Authorization` may hold, and what a credential allows."""

from datetime import timedelta

import pytest
from django.utils import timezone

from portal.accounts import audit, credentials, keys
from portal.accounts.credentials import Credential, CredentialRefused
from portal.accounts.limits import TooMany
from portal.accounts.models import ApiKey, AuditEntry, Role, Scope, User
from portal.lib.problems import InvalidValues
from tests.factories.accounts import UserFactory, key_of

TAKEN = {
    "Api-Key ap_12345678_x": "ap_12345678_x",
    "api-key   ap_12345678_x": "ap_12345678_x",
    "Bearer ap_12345678_x": "ap_12345678_x",
    "bearer eyJ.eyJ.sig": "eyJ.eyJ.sig",
    "": None,
    "  ": None,
}
NOT_TAKEN = [
    "Bearer", "Bearer ", "Api-Key", "ap_12345678_x", "Basic YTpi", "Digest x", "Token ap_12345678_x",
    "Api-Key run_12345678", "Api-Key eyJ.eyJ.sig", "Bearer ap_1 ap_2", "Bearer ap_1, Bearer ap_1",
    "Bearer ap_\x0012345678", "Bearer ap_12345678_\u00e9", "Bearer\tap_12345678_x",
]  # fmt: skip


def test_either_form_of_a_key_and_a_token_are_taken_and_nothing_else() -> None:
    for header, token in TAKEN.items():
        assert credentials.split(header) == token, header
    for header in NOT_TAKEN:
        with pytest.raises(CredentialRefused):
            credentials.split(header)


def test_every_scope_lets_read_and_only_admin_lets_everything() -> None:
    for scope in Scope:
        one = Credential("api_key", "1", "key", frozenset({scope}))
        assert one.allows(Scope.READ)
        for other in set(Scope) - {Scope.READ, scope}:
            assert one.allows(other) is (scope is Scope.ADMIN), (scope, other)
        assert one.cap is scope.cap
    session = Credential("session", "1", "session")
    assert all(session.allows(scope) for scope in Scope)
    assert session.cap is None


def test_a_credential_does_not_show_what_opens_the_door() -> None:
    assert "secret-key" not in repr(Credential("session", "secret-key", "session:1"))


class TestKeys:
    pytestmark = pytest.mark.django_db

    def refuses(self, text: str) -> bool:
        try:
            credentials.check(text)
        except CredentialRefused:
            return True
        return False

    def test_a_key_says_whose_it_is_and_acts_at_most_as_its_owner_does_now(self) -> None:
        owner = UserFactory(admin=True)
        text = key_of(owner, Scope.ADMIN)
        user, shown = credentials.check(text, address="192.0.2.7")
        assert (user, user.effective_role) == (owner, Role.ADMIN)
        row = ApiKey.objects.get()
        assert (shown.kind, shown.key_id, shown.label) == ("api_key", row.pk, f"api_key:ap_{row.prefix}")
        assert (row.last_used_from, audit.current_origin().credential) == ("192.0.2.7", shown.label)
        for role in (Role.USER, Role.VIEWER):
            User.objects.filter(pk=owner.pk).update(role=role)
            assert credentials.check(text)[0].effective_role is role

    @pytest.mark.parametrize(
        ("scopes", "acts_as"),
        [
            ([Scope.READ], Role.VIEWER), ([Scope.RUN], Role.USER), ([Scope.READ, Scope.WRITE], Role.USER),
            ([Scope.ADMIN], Role.ADMIN),
        ],
    )  # fmt: skip
    def test_without_the_scope_admin_nobody_acts_as_one(self, scopes: list[Scope], acts_as: Role) -> None:
        assert credentials.check(key_of(UserFactory(admin=True), *scopes))[0].effective_role is acts_as

    def test_what_is_not_a_good_key_opens_nothing(self) -> None:
        owner = UserFactory()
        text = key_of(owner)
        row = ApiKey.objects.get()
        assert not self.refuses(text)
        wrong = [text[:-1], f"{text}x", text.upper(), f"ap_{row.prefix}", f"ap_{row.prefix}_", "ap_", "ap__", "ap_0_1"]
        assert [one for one in wrong if not self.refuses(one)] == []
        assert self.refuses(f"ap_{row.prefix}_{row.digest}")
        ApiKey.objects.update(expires_at=timezone.now())
        assert self.refuses(text), "expired"
        ApiKey.objects.update(expires_at=timezone.now() + timedelta(hours=1))
        assert not self.refuses(text)
        User.objects.update(is_active=False)
        assert self.refuses(text), "of who is deactivated"
        User.objects.update(is_active=True)
        assert keys.revoke(row, by=owner)
        assert self.refuses(text), "revoked"
        assert not keys.revoke(row, by=owner), "it is revoked once"
        assert [entry.action for entry in AuditEntry.objects.order_by("pk")] == ["key.created", "key.revoked"]

    def test_run_tokens_and_tokens_of_nobody_open_nothing(self) -> None:
        for token in ("run_0123456789abcdef", "eyJ.eyJ.sig", "x"):
            with pytest.raises(CredentialRefused):
                credentials.check(token)

    def test_a_key_has_a_rate_of_its_own(self) -> None:
        owner = UserFactory()
        slow, quick = key_of(owner), key_of(owner)
        ApiKey.objects.filter(prefix=keys.prefix_of(slow)).update(requests_per_minute=2)
        for _ in range(2):
            credentials.check(slow)
        with pytest.raises(TooMany) as too_many:
            credentials.check(slow)
        assert 0 < too_many.value.wait <= 60
        credentials.check(quick)

    def test_a_key_is_kept_as_prefix_and_digest_alone(self) -> None:
        text = key_of(UserFactory())
        secret = text.split("_", 2)[2]  # which may hold a "_" itself
        row = ApiKey.objects.values().get()
        assert not [value for value in row.values() if secret in str(value)]
        assert not [entry for entry in AuditEntry.objects.values() if secret in str(entry)]

    def test_what_cannot_be_made(self) -> None:
        owner, within = UserFactory(), Credential("api_key", "1", "key", frozenset({Scope.READ}))
        soon, later = timezone.now() + timedelta(hours=1), timezone.now() + timedelta(hours=2)
        short = Credential("api_key", "1", "key", frozenset({Scope.ADMIN}), soon)
        faults = {
            "above_owner": {"scopes": [Scope.ADMIN]},
            "above_key": {"within": within, "scopes": [Scope.WRITE]},
            "outlives_key": {"within": short, "expires_at": later},
            "past": {"expires_at": timezone.now()},
            "required": {"name": " "},
            "invalid": {"requests_per_minute": 0},
        }
        for code, wrong in faults.items():
            with pytest.raises(InvalidValues) as refused:
                keys.create(owner, **{"name": "x", "scopes": [Scope.READ], "by": owner, **wrong})  # type: ignore[arg-type]
            assert [error.code for error in refused.value.errors] == [code]
        with pytest.raises(InvalidValues):
            keys.create(owner, name="x", scopes=[Scope.READ], by=owner, within=short)
        with pytest.raises(InvalidValues):
            keys.create(UserFactory(viewer=True), name="x", scopes=[Scope.RUN], by=None)
        assert not ApiKey.objects.exists()
        keys.create(owner, name="x", scopes=[Scope.READ], by=owner, within=short, expires_at=soon)

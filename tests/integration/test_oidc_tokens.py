"""What the portal takes for a token of its identity provider, and everything that it does not."""

import base64
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from django.db import connection
from django.test import Client

from portal.accounts.audit import refusals
from portal.accounts.credentials import CredentialRefused, CredentialUnchecked, check
from portal.accounts.models import AuditEntry, Identity, Role, Scope, UsedToken, User
from portal.accounts.oidc import identities, tokens
from portal.accounts.oidc.backend import what_is_said
from tests.fakes.idp import LOGOUT_EVENT, FakeIdp, Key, Person, rsa_key

pytestmark = pytest.mark.django_db
Forge = Callable[[FakeIdp, Person], str]


def packed(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def with_payload(text: str) -> Forge:
    """A good signature over a payload that is not what it should be; `%s` stands for the good one, without braces."""

    def forge(idp: FakeIdp, who: Person) -> str:
        good = json.dumps(idp.access_claims(who))[1:-1]
        body = text % good if "%s" in text else text
        header = packed({"alg": "RS256", "kid": idp.keys[0].id, "typ": "JWT"})
        signed = f"{header}.{packed(body)}"
        signature = jwt.get_algorithm_by_name("RS256").sign(signed.encode(), idp.keys[0].private)
        return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"

    return forge


def claims(**changes: Any) -> Forge:
    return lambda idp, who: idp.access_token(who, **changes)


def header(**changes: Any) -> Forge:
    return lambda idp, who: idp.sign(idp.access_claims(who), **changes)


def unsigned(algorithm: str, signature: str = "") -> Forge:
    return lambda idp, who: (
        f"{packed({'alg': algorithm, 'kid': idp.keys[0].id})}.{packed(idp.access_claims(who))}.{signature}"
    )


def hmac_with_public_key(algorithm: str, form: serialization.PublicFormat) -> Forge:
    """The classic: the published key taken for a shared secret."""

    def forge(idp: FakeIdp, who: Person) -> str:
        public = idp.keys[0].private.public_key().public_bytes(serialization.Encoding.PEM, form)
        signed = f"{packed({'alg': algorithm, 'kid': idp.keys[0].id})}.{packed(idp.access_claims(who))}"
        # PyJWT itself refuses to make such a one.
        hasher = jwt.get_algorithm_by_name(algorithm)
        return f"{signed}.{base64.urlsafe_b64encode(hasher.sign(signed.encode(), public)).rstrip(b'=').decode()}"

    return forge


def own_key(**extra: Any) -> Forge:
    """Signed by a stranger, whose key the header brings along."""

    def forge(idp: FakeIdp, who: Person) -> str:
        stranger = Key(ec.generate_private_key(ec.SECP256R1()), "ES256", id=extra.pop("kid", "of-a-stranger"))
        brought = {"jwk": stranger.public()} if "jwk" in extra else dict.fromkeys(extra, f"{idp.url}/x")
        return idp.sign(idp.access_claims(who), key=stranger, **brought)

    return forge


def cut(idp: FakeIdp, who: Person, change: Callable[[str], str]) -> str:
    return change(idp.access_token(who))


def flipped(token: str) -> str:
    head, body, signature = token.split(".")
    middle = len(signature) // 2
    return f"{head}.{body}.{signature[:middle]}{'A' if signature[middle] != 'A' else 'B'}{signature[middle + 1 :]}"


NOW = int(time.time())
BAD_ACCESS_TOKENS: dict[str, Forge] = {
    "algorithm none": unsigned("none"),
    "algorithm none, with a signature of sorts": unsigned("none", "AAAA"),
    "algorithm None, written otherwise": unsigned("nOnE", "AAAA"),
    "algorithm that is empty": unsigned("", "AAAA"),
    "HS256 with the public key as PEM": hmac_with_public_key("HS256", serialization.PublicFormat.SubjectPublicKeyInfo),
    "HS512 with the public key as PKCS 1": hmac_with_public_key("HS512", serialization.PublicFormat.PKCS1),
    "asymmetric, but not in the list": lambda i, p: i.sign(i.access_claims(p), alg="RS512"),
    "no signature": lambda i, p: cut(i, p, lambda t: t.rsplit(".", 1)[0] + "."),
    "no third part": lambda i, p: cut(i, p, lambda t: t.rsplit(".", 1)[0]),
    "five parts": lambda i, p: cut(i, p, lambda t: f"{t}.e30.e30"),
    "signature cut short": lambda i, p: cut(i, p, lambda t: t[:-20]),
    "one character of the signature differs": lambda i, p: cut(i, p, flipped),
    "signature of another token": lambda i, p: (
        i.access_token(p).rsplit(".", 1)[0] + "." + i.access_token(p, jti="x").rsplit(".", 1)[1]
    ),
    "payload of another token": lambda i, p: ".".join(
        [(parts := i.access_token(p).split("."))[0], packed(i.access_claims(p, groups=["/admins"])), parts[2]]
    ),
    "padding in base64": lambda i, p: cut(i, p, lambda t: t.replace(".", "=.", 1)),
    "blank in the middle": lambda i, p: cut(i, p, lambda t: t[:40] + " " + t[40:]),
    "line feed at the end": lambda i, p: cut(i, p, lambda t: t + "\n"),
    "letters of another script": lambda i, p: cut(i, p, lambda t: t[:-1] + "А"),
    "huge": lambda i, p: i.access_token(p, more="x" * 20_000),
    "not a token": lambda i, p: "eyJhbGciOiJSUzI1NiJ9",
    "dots alone": lambda i, p: "..",
    "wrong issuer": claims(iss="https://elsewhere.example/realms/agents"),
    "issuer with a slash more": lambda i, p: i.access_token(p, iss=f"{i.issuer}/"),
    "issuer of another realm": lambda i, p: i.access_token(p, iss=i.issuer.replace("agents", "master")),
    "no issuer": claims(iss=None),
    "wrong audience": claims(aud="another-portal"),
    "audience that only begins alike": claims(aud=["agent-portal-2", "account"]),
    "no audience": claims(aud=None),
    "audience that is no text": claims(aud={"agent-portal": True}),
    "another client's": claims(azp="another-client"),
    "no client named": claims(azp=None),
    "client that is no text": claims(azp=["agent-portal"]),
    "another client's, by RFC 9068": claims(azp=None, client_id="another-client"),
    "expired": claims(exp=NOW - 3600),
    "expires never": claims(exp=None),
    "expiry as text": claims(exp="9999999999"),
    "expiry true": claims(exp=True),
    "expiry beyond all numbers": lambda i, p: with_payload(
        json.dumps(i.access_claims(p, exp=0)).replace('"exp": 0', '"exp": 1e999')
    )(i, p),
    "not valid yet": claims(nbf=NOW + 3600),
    "made in the future": claims(iat=NOW + 3600),
    "says not when it was made": claims(iat=None),
    "no subject": claims(sub=None),
    "empty subject": claims(sub=""),
    "subject that is a number": claims(sub=7),
    "endless subject": claims(sub="s" * 300),
    "subject with a NUL": claims(sub="olga\0"),
    "a stranger's key under the right id": lambda i, p: i.sign(
        i.access_claims(p), key=Key(rsa_key(), "RS256", id=i.keys[0].id)
    ),
    "a stranger's key, in the header as jwk": own_key(jwk=True),
    "a stranger's key, at an address in the header (jku)": own_key(jku=True),
    "a stranger's certificate, at an address in the header (x5u)": own_key(x5u=True),
    "unknown key id": header(kid="nobody"),
    "no key id": header(kid=None),
    "key id that leads elsewhere": header(kid="../../etc/passwd"),
    "header that asks for an extension": header(crit=["exp"]),
    "header that calls it a logout token": header(typ="logout+jwt"),
    "id token": lambda i, p: i.id_token(p, aud=["agent-portal", "account"]),
    "id token without a type": lambda i, p: i.id_token(p, typ=None),
    "refresh token": claims(typ="Refresh"),
    "offline token": claims(typ="Offline"),
    "logout token": lambda i, p: i.logout_token(p, "a-session"),
    "logout token that calls itself Bearer": lambda i, p: i.logout_token(p, "s", typ="Bearer", azp="agent-portal"),
    "bound to a key of the client (DPoP)": claims(cnf={"jkt": "x"}),
    "two subjects": with_payload('{%s, "sub": "somebody-else"}'),
    "two audiences claims": with_payload('{"aud": "another-portal", %s}'),
    "two times the same role, one level deeper": with_payload('{%s, "x": {"a": 1, "a": 2}}'),
    "NaN": with_payload('{%s, "x": NaN}'),
    "a list instead of claims": with_payload("[1, 2]"),
    "nested without end": with_payload("[" * 3000 + "]" * 3000),
    "no JSON": with_payload("{'sub': 'olga'}"),
}  # fmt: skip


def refusal_of(token: str) -> CredentialRefused | None:
    try:
        check(token)
    except CredentialRefused as exc:
        return exc
    return None


def test_an_access_token_opens_the_api(idp: FakeIdp, client: Client) -> None:
    olga = idp.person("olga", roles=["user"], groups=["/blue"])
    token = idp.access_token(olga)
    answer = client.get("/api/me", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200, answer.content
    identity = Identity.objects.select_related("user").get(issuer=idp.issuer, subject=olga.subject)
    assert answer.json()["id"] == str(identity.user.pk)
    assert identity.user.username == "olga"
    assert identity.groups == ["/blue"]
    assert not identity.user.has_usable_password()
    credential = answer.json()["credential"]
    assert (credential["kind"], credential["label"]) == ("bearer", "bearer:agent-portal")
    # RFC 9068: what says in its header that it is one needs no type among the claims.
    plain = idp.sign(idp.access_claims(olga, typ=None, azp=None, client_id="agent-portal"), typ="at+jwt")
    assert check(plain)[0] == identity.user
    assert User.objects.filter(identities__subject=olga.subject).count() == 1


def test_bad_access_tokens_are_refused(idp: FakeIdp) -> None:
    olga = idp.person("olga", roles=["admin"])
    assert len(BAD_ACCESS_TOKENS) >= 40
    for name, forge in BAD_ACCESS_TOKENS.items():
        token = forge(idp, olga)
        refusal = refusal_of(token)
        assert refusal is not None, name
        assert refusal.status == 401, name
        assert token not in refusal.sentence, name
        # It is the token that is refused, not somebody whom nobody knows.
        with pytest.raises(tokens.TokenRefused):
            tokens.access_claims(token)
    assert not Identity.objects.exists()


def test_a_bad_token_never_falls_back_to_the_session(idp: FakeIdp, client: Client) -> None:
    client.force_login(User.objects.create_user("ann", role=Role.USER))
    assert client.get("/api/me").status_code == 200
    bad = idp.access_token(idp.person("olga", roles=["user"]), aud="another-portal")
    answer = client.get("/api/me", headers={"Authorization": f"Bearer {bad}"})
    assert answer.status_code == 401
    assert answer.json()["code"] == "authentication_failed"


def test_a_token_that_expires_within_the_leeway_still_counts(idp: FakeIdp, settings: Any) -> None:
    olga = idp.person("olga", roles=["user"])
    just_over = idp.access_token(olga, exp=int(time.time()) - 10)
    assert check(just_over)[0].username == "olga"
    settings.OIDC_LEEWAY_SECONDS = 0
    with pytest.raises(CredentialRefused):
        check(just_over)


def test_roles_of_a_token_hold_for_the_request_and_are_kept(idp: FakeIdp) -> None:
    olga = idp.person("olga", roles=["admin"])
    idp_now = int(time.time())
    old_admin = idp.access_token(olga, iat=idp_now - 20)
    user, credential = check(old_admin)
    assert user.has_role(Role.ADMIN)
    assert credential.scopes is None
    User.objects.create_user("another", role=Role.ADMIN)  # else she would be the last one
    olga.roles = ["viewer"]
    user, credential = check(idp.access_token(olga, iat=idp_now))
    assert credential.scopes == {Scope.READ}
    assert User.objects.get(username="olga").role == Role.VIEWER
    # The older token is still good, but brings nothing back.
    user, credential = check(old_admin)
    assert User.objects.get(username="olga").role == Role.VIEWER
    assert not user.has_role(Role.USER)
    # And one that is older and says less does less.
    olga.roles = ["user"]
    check(idp.access_token(olga, iat=idp_now + 5))
    assert User.objects.get(username="olga").role == Role.USER
    olga.roles = ["viewer"]
    user, credential = check(idp.access_token(olga, iat=idp_now - 10))
    assert not user.has_role(Role.USER)
    assert User.objects.get(username="olga").role == Role.USER


def test_where_id_tokens_tell_of_roles_access_tokens_change_none(idp: FakeIdp, settings: Any) -> None:
    settings.OIDC_ROLES_FROM = "id_token"
    olga = idp.person("olga", roles=["admin"])
    user = identities.settle(what_is_said(tokens.id_claims(idp.id_token(olga)), ""))
    User.objects.create_user("another", role=Role.ADMIN)  # else she would be the last one
    kept = Identity.objects.values().get()
    later = int(time.time()) + 5

    def stored() -> tuple[str, dict[str, Any]]:
        return User.objects.get(pk=user.pk).role, Identity.objects.values().get()

    olga.roles = []
    with pytest.raises(CredentialRefused) as refusal:
        check(idp.access_token(olga, iat=later))
    assert refusal.value.code == "no_role"
    assert stored() == (Role.ADMIN, kept)
    settings.OIDC_DEFAULT_ROLE = "viewer"
    asker, credential = check(idp.access_token(olga, iat=later))
    assert (asker.has_role(Role.USER), credential.scopes) == (False, {Scope.READ})
    assert stored() == (Role.ADMIN, kept)
    # Who is seen in such a token first is a viewer, whatever it says, until they sign in.
    boris = idp.person("boris", roles=["admin"])
    assert not check(idp.access_token(boris))[0].has_role(Role.USER)
    user = identities.settle(what_is_said(tokens.id_claims(idp.id_token(boris)), ""))
    assert user.role == Role.ADMIN


def test_a_token_of_another_client_changes_nothing_that_is_kept(idp: FakeIdp, settings: Any) -> None:
    settings.OIDC_AUTHORIZED_PARTIES = ["agent-portal", "agent-portal-cli", "agent-portal-robot"]
    olga, now = idp.person("olga", roles=["user"], groups=["/blue"]), int(time.time())
    check(idp.access_token(olga))
    kept = Identity.objects.values().get()
    olga.roles, olga.groups = ["viewer"], []
    user, credential = check(idp.access_token(olga, iat=now + 5, azp="agent-portal-cli"))
    assert credential.scopes == {Scope.READ}
    assert not user.has_role(Role.USER)
    assert User.objects.get(username="olga").role == Role.USER
    assert Identity.objects.values().get() == kept
    # A client that speaks for itself has no other tokens, whichever OIDC_ROLES_FROM names.
    settings.OIDC_ROLES_FROM = "id_token"
    robot = idp.person("service-account-agent-portal-robot", roles=["user"])
    service, _credential = check(idp.access_token(robot, azp="agent-portal-robot", sid=None, iat=now))
    assert service.role == Role.USER
    robot.roles = ["viewer"]
    check(idp.access_token(robot, azp="agent-portal-robot", sid=None, iat=now + 5))
    assert User.objects.get(pk=service.pk).role == Role.VIEWER


def test_who_has_no_role_or_is_deactivated_is_refused(idp: FakeIdp, settings: Any) -> None:
    nobody = idp.person("nobody", roles=["offline_access"])
    with pytest.raises(CredentialRefused) as refusal:
        check(idp.access_token(nobody))
    assert refusal.value.code == "no_role"
    assert not Identity.objects.exists()
    settings.OIDC_DEFAULT_ROLE = "viewer"
    user, _credential = check(idp.access_token(nobody))
    assert user.role == Role.VIEWER
    User.objects.filter(pk=user.pk).update(is_active=False)
    with pytest.raises(CredentialRefused) as refusal:
        check(idp.access_token(nobody))
    assert refusal.value.code == "deactivated"
    refusals.flush()
    reasons = (
        AuditEntry.objects.filter(action="user.sign_in_refused").order_by("id").values_list("after__reason", flat=True)
    )
    assert list(reasons) == ["no_role", "deactivated"]


def test_a_client_that_speaks_for_itself_is_a_service_account(idp: FakeIdp, settings: Any, client: Client) -> None:
    robot = idp.person("service-account-agent-portal-robot", roles=["user"])
    token = idp.access_token(robot, azp="agent-portal-robot", sid=None)
    with pytest.raises(CredentialRefused):
        check(token)
    settings.OIDC_AUTHORIZED_PARTIES = ["agent-portal", "agent-portal-robot"]
    user, credential = check(token)
    assert user.is_service
    assert credential.label == "bearer:agent-portal-robot"
    assert client.get("/api/me", headers={"Authorization": f"Bearer {token}"}).json()["is_service"] is True


def test_keys_are_read_again_when_they_rotate(idp: FakeIdp, monkeypatch: pytest.MonkeyPatch) -> None:
    olga = idp.person("olga", roles=["user"])
    before = idp.access_token(olga)
    check(before)
    assert idp.asked["certs"] == 1
    fresh = idp.rotate()
    monkeypatch.setattr("portal.accounts.oidc.provider.RETRY_SECONDS", 0)
    assert check(idp.access_token(olga))[0].username == "olga"
    assert idp.asked["certs"] == 2
    # Made-up ids cause one request in a while, not one each.
    monkeypatch.setattr("portal.accounts.oidc.provider.RETRY_SECONDS", 3600)
    for number in range(20):
        with pytest.raises(CredentialRefused):
            check(idp.sign(idp.access_claims(olga), kid=f"made-up-{number}"))
    assert idp.asked["certs"] == 2
    # A key that was withdrawn is gone once they are read again.
    idp.keys = [fresh]
    monkeypatch.setattr("portal.accounts.oidc.provider.RETRY_SECONDS", 0)
    with pytest.raises(CredentialRefused):
        check(idp.sign(idp.access_claims(olga), kid="one-more"))
    with pytest.raises(CredentialRefused):
        check(before)


def test_known_keys_outlive_an_outage(idp: FakeIdp, monkeypatch: pytest.MonkeyPatch) -> None:
    olga = idp.person("olga", roles=["user"])
    idp.is_down = True
    with pytest.raises(CredentialUnchecked) as refusal:
        check(idp.access_token(olga))
    assert (refusal.value.status, refusal.value.code) == (503, "provider_unavailable")
    idp.is_down = False
    monkeypatch.setattr("portal.accounts.oidc.provider.FIRST_RETRY_SECONDS", 0)
    check(idp.access_token(olga))
    idp.is_down = True
    monkeypatch.setattr("portal.accounts.oidc.provider.RETRY_SECONDS", 0)
    from portal.accounts.oidc.provider import provider

    monkeypatch.setattr(provider()._keys, "_seconds", 0)  # they are old now
    assert check(idp.access_token(olga))[0].username == "olga"


def test_what_cannot_be_checked_is_no_bad_credential(idp: FakeIdp, client: Client, settings: Any) -> None:
    settings.RATE_LIMIT_ADDRESS_PER_MINUTE = 1
    idp.is_down = True
    token = idp.access_token(idp.person("olga", roles=["user"]))
    for _ in range(3):
        answer = client.get("/api/me", headers={"Authorization": f"Bearer {token}"})
        assert (answer.status_code, answer.json()["code"]) == (503, "provider_unavailable")
        assert "Try again" in answer.json()["hint"]
        assert "WWW-Authenticate" not in answer.headers
    refusals.flush()
    assert not AuditEntry.objects.exists()


def test_weak_and_foreign_keys_of_the_provider_are_not_used(idp: FakeIdp) -> None:
    olga = idp.person("olga", roles=["user"])
    weak, sealing = Key(rsa_key(1024), "RS256"), Key(idp.keys[0].private, "RS256", use="enc")
    idp.keys += [weak, sealing]
    for key in (weak, sealing):
        with pytest.raises(CredentialRefused):
            check(idp.sign(idp.access_claims(olga), key=key))
    check(idp.access_token(olga))


BAD_LOGOUT_TOKENS: dict[str, Forge] = {
    "no token": lambda i, p: "",
    "algorithm none": lambda i, p: f"{packed({'alg': 'none'})}.{packed(i.logout_claims(p, 's'))}.",
    "wrong key": lambda i, p: i.sign(i.logout_claims(p, "s"), key=Key(rsa_key(), "RS256", id=i.keys[0].id)),
    "wrong issuer": lambda i, p: i.logout_token(p, "s", iss="https://elsewhere.example"),
    "wrong audience": lambda i, p: i.logout_token(p, "s", aud="another-portal"),
    "no audience": lambda i, p: i.logout_token(p, "s", aud=None),
    "no time": lambda i, p: i.logout_token(p, "s", iat=None),
    "made long ago": lambda i, p: i.logout_token(p, "s", iat=NOW - 7200),
    "made in the future": lambda i, p: i.logout_token(p, "s", iat=NOW + 7200, exp=NOW + 7500),
    "expired": lambda i, p: i.logout_token(p, "s", exp=NOW - 3600),
    "expires never": lambda i, p: i.logout_token(p, "s", exp=None),
    "no id": lambda i, p: i.logout_token(p, "s", jti=None),
    "id that is no text": lambda i, p: i.logout_token(p, "s", jti=17),
    "no events": lambda i, p: i.logout_token(p, "s", events=None),
    "another event": lambda i, p: i.logout_token(p, "s", events={"https://example.org/event": {}}),
    "events as a list": lambda i, p: i.logout_token(p, "s", events=[LOGOUT_EVENT]),
    "event that is no object": lambda i, p: i.logout_token(p, "s", events={LOGOUT_EVENT: True}),
    "with a nonce": lambda i, p: i.logout_token(p, "s", nonce="n"),
    "neither sid nor sub": lambda i, p: i.logout_token(None, None),
    "sid that is a list": lambda i, p: i.sign({**i.logout_claims(p), "sid": ["s"]}),
    "id token": lambda i, p: i.id_token(p, sid="s"),
    "id token that tells of a logout": lambda i, p: i.id_token(p, sid="s", events={LOGOUT_EVENT: {}}),
    "access token": lambda i, p: i.access_token(p, aud="agent-portal", sid="s", events={LOGOUT_EVENT: {}}),
}


def test_bad_logout_tokens_are_refused(idp: FakeIdp, client: Client) -> None:
    olga = idp.person("olga", roles=["user"])
    answers = {
        name: client.post("/oidc/backchannel-logout", {"logout_token": forge(idp, olga)})
        for name, forge in BAD_LOGOUT_TOKENS.items()
    }
    assert {name: a.status_code for name, a in answers.items() if a.status_code != 400} == {}
    assert all("no-store" in answer.headers["Cache-Control"] for answer in answers.values())
    assert not UsedToken.objects.exists()
    # The good one, once.
    good = idp.logout_token(olga, "s")
    answers_to_it = [client.post("/oidc/backchannel-logout", {"logout_token": good}).status_code for _ in range(2)]
    assert answers_to_it == [200, 400]


@pytest.mark.django_db(transaction=True)
def test_many_first_requests_at_once_make_one_user(idp: FakeIdp) -> None:
    olga, namesake = idp.person("olga", roles=["user"]), idp.person("olga", roles=["user"])
    issued = [idp.access_token(who) for who in (olga, namesake) * 4]

    def ask(token: str) -> str:
        try:
            return str(check(token)[0].pk)
        finally:
            connection.close()

    with ThreadPoolExecutor(len(issued)) as threads:
        found = list(threads.map(ask, issued))
    assert len(set(found)) == 2
    assert sorted(User.objects.values_list("username", flat=True)) == ["olga", "olga-2"]
    assert Identity.objects.count() == 2

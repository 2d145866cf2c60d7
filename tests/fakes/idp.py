"""A small OpenID Connect provider in this process, shaped like Keycloak: for quick tests, and for any bad token.

    with FakeIdp() as idp:
        olga = idp.person("olga", roles=["user"])
        token = idp.access_token(olga)
        idp.access_token(olga, azp="another-client")   # as wrong as one wants it

Its sign-in page lets in whoever `idp.at_the_desk` is, without a password. The real Keycloak is in `tests.keycloak`.
"""

import base64
import hashlib
import json
import secrets
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote_plus, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

CLIENT, SECRET = "agent-portal", "a secret of the client & of nobody else"
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"


@dataclass
class Person:
    """Somebody who is known there; `subject` is who they are."""

    username: str
    roles: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    subject: str = field(default_factory=lambda: str(uuid.uuid4()))
    is_enabled: bool = True
    claims: dict[str, Any] = field(default_factory=dict)


@dataclass
class Key:
    """A pair of keys; the public half is published."""

    private: Any
    algorithm: str
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    use: str = "sig"

    def public(self) -> dict[str, Any]:
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        published = algorithm.to_jwk(self.private.public_key(), as_dict=True)
        return {**published, "kid": self.id, "alg": self.algorithm, "use": self.use}


def rsa_key(bits: int = 2048) -> Any:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


# Making one takes a while; who needs a stranger's makes it anew.
_FIRST_KEY = rsa_key()


class FakeIdp:
    """Use as a context manager. `asked` counts requests by the last part of their path."""

    def __init__(self) -> None:
        self.keys = [Key(_FIRST_KEY, "RS256")]
        self.people: dict[str, Person] = {}
        self.at_the_desk: Person | None = None
        self.sessions: dict[str, Person] = {}
        self.asked: Counter[str] = Counter()
        self.is_down = False
        self.tampers: dict[str, Any] = {}  # claims that id tokens get wrong
        self._codes: dict[str, dict[str, str]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.issuer = f"{self.url}/realms/agents"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    # --- What an admin does there -------------------------------------------------------------------

    def person(self, username: str, *, roles: list[str] | None = None, **facts: Any) -> Person:
        """Somebody who is at the desk from now on."""
        who = Person(username, roles=list(roles or []), **facts)
        self.people[who.subject] = self.at_the_desk = who
        return who

    def rotate(self, *, keep: bool = True) -> Key:
        """Sign with a new key from now on; the old ones stay published with `keep`."""
        fresh = Key(ec.generate_private_key(ec.SECP256R1()), "ES256")
        self.keys = [fresh, *(self.keys if keep else [])]
        return fresh

    # --- Tokens -------------------------------------------------------------------------------------

    def sign(self, claims: dict[str, Any], *, key: Key | None = None, **header: Any) -> str:
        """Any claims, signed; a claim or header that is None is left out."""
        key = key or self.keys[0]
        given = {"kid": key.id, "typ": "JWT", **header}
        given = {name: value for name, value in given.items() if value is not None}
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, key.private, algorithm=given.pop("alg", key.algorithm), headers=given)

    def access_claims(self, who: Person, **changes: Any) -> dict[str, Any]:
        return {
            **self._common("Bearer"),
            "aud": [CLIENT, "account"],
            "sub": who.subject,
            "azp": CLIENT,
            "sid": secrets.token_hex(8),
            "realm_access": {"roles": [*who.roles, "offline_access"]},
            "groups": who.groups,
            "preferred_username": who.username,
            **who.claims,
            **changes,
        }

    def access_token(self, who: Person, **changes: Any) -> str:
        return self.sign(self.access_claims(who, **changes))

    def id_token(self, who: Person, **changes: Any) -> str:
        return self.sign(
            {
                **self._common("ID"),
                "aud": CLIENT,
                "sub": who.subject,
                "azp": CLIENT,
                "preferred_username": who.username,
                "email": f"{who.username}@example.org",
                "email_verified": True,
                "given_name": who.username.capitalize(),
                "family_name": "Park",
                "realm_access": {"roles": who.roles},
                "groups": who.groups,
                **who.claims,
                **changes,
            }
        )

    def logout_claims(self, who: Person | None, sid: str | None = None, **changes: Any) -> dict[str, Any]:
        subject = who.subject if who else None
        events = {LOGOUT_EVENT: {}}
        return {**self._common("Logout"), "aud": CLIENT, "sub": subject, "sid": sid, "events": events, **changes}

    def logout_token(self, who: Person | None, sid: str | None = None, **changes: Any) -> str:
        return self.sign(self.logout_claims(who, sid, **changes), typ="logout+jwt")

    def _common(self, kind: str) -> dict[str, Any]:
        now = int(time.time())
        return {"iss": self.issuer, "iat": now, "exp": now + 300, "jti": str(uuid.uuid4()), "typ": kind}

    # --- Answers ------------------------------------------------------------------------------------

    def metadata(self) -> dict[str, Any]:
        base = f"{self.issuer}/protocol/openid-connect"
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{base}/auth",
            "token_endpoint": f"{base}/token",
            "userinfo_endpoint": f"{base}/userinfo",
            "jwks_uri": f"{base}/certs",
            "end_session_endpoint": f"{base}/logout",
        }

    def authorize(self, asked: dict[str, str]) -> str:
        """Where the browser is led to."""
        assert asked["client_id"] == CLIENT, asked
        assert asked["response_type"] == "code", asked
        assert asked["code_challenge_method"] == "S256", asked
        assert self.at_the_desk is not None
        code, sid = secrets.token_urlsafe(16), secrets.token_hex(8)
        self.sessions[sid] = self.at_the_desk
        self._codes[code] = {**asked, "sid": sid}
        answer = {"code": code, "state": asked["state"], "session_state": sid, "iss": self.issuer}
        return f"{asked['redirect_uri']}?{urlencode(answer)}"

    def token(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        given = base64.b64decode(authorization.removeprefix("Basic ")).decode()
        if [unquote_plus(part) for part in given.split(":")] != [CLIENT, SECRET]:
            return 401, {"error": "invalid_client"}
        if form.get("grant_type") == "authorization_code":
            asked = self._codes.pop(form["code"], None)
            digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
            challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            right = asked and (asked["code_challenge"], asked["redirect_uri"]) == (challenge, form["redirect_uri"])
            if not asked or not right:
                return 400, {"error": "invalid_grant"}
            sid, nonce = asked["sid"], asked["nonce"]
        else:
            sid, nonce = form["refresh_token"], None
        who = self.sessions.get(sid)
        if who is None or not who.is_enabled:
            return 400, {"error": "invalid_grant", "error_description": "Session not active"}
        access = self.access_token(who, sid=sid)
        half = base64.urlsafe_b64encode(hashlib.sha256(access.encode()).digest()[:16]).rstrip(b"=").decode()
        id_token = self.id_token(who, **{"sid": sid, "nonce": nonce, "at_hash": half, **self.tampers})
        return 200, {"access_token": access, "id_token": id_token, "refresh_token": sid, "expires_in": 300}


def _handler(idp: FakeIdp) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            last = parts.path.rsplit("/", 1)[-1]
            idp.asked[last] += 1
            asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
            if idp.is_down:
                return self._answer(503, {})
            if last == "auth":
                return self._lead(idp.authorize(asked))
            if last == "logout":
                claims = jwt.decode(asked["id_token_hint"], options={"verify_signature": False})
                idp.sessions.pop(claims["sid"], None)
                return self._lead(asked["post_logout_redirect_uri"])
            answers = {"openid-configuration": idp.metadata, "certs": lambda: {"keys": [k.public() for k in idp.keys]}}
            return self._answer(200, answers[last]()) if last in answers else self._answer(404, {})

        def do_POST(self) -> None:
            idp.asked[urlsplit(self.path).path.rsplit("/", 1)[-1]] += 1
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            self._answer(*((503, {}) if idp.is_down else idp.token(form, self.headers["Authorization"])))

        def _lead(self, target: str) -> None:
            self.send_response(302)
            self.send_header("Location", target)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _answer(self, status: int, document: dict[str, Any]) -> None:
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler

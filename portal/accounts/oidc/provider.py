"""The identity provider as the portal knows it: its metadata, its keys, and requests to it.

Its address is set by the operator of this machine (`OIDC_ISSUER`), never by a person, so these requests may go
to private addresses too; they still follow no redirect, wait for seconds and read little.
"""

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any
from urllib.parse import quote_plus

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from django.conf import settings

logger = logging.getLogger(__name__)

TIMEOUT = httpx.Timeout(10, connect=5)  # seconds, each step
MAX_BYTES = 1024 * 1024
METADATA_SECONDS = 3600
KEYS_SECONDS = 600  # then they are read again, so that a key that was withdrawn goes
RETRY_SECONDS = 10  # between two reads, whoever asks: tokens with made-up key ids cause no storm
FIRST_RETRY_SECONDS = 2  # the same while nothing is known yet
MIN_RSA_BITS = 2048


class ProviderUnavailable(Exception):
    """The identity provider does not answer, or not with what it should; the message says why."""


_may_ask: ContextVar[bool] = ContextVar("may_ask_identity_provider", default=True)


@contextmanager
def as_known() -> Iterator[None]:
    """Within, the provider is not asked: what is known goes on, and the rest is `ProviderUnavailable`.

    For threads that must not wait for it; what is due is read elsewhere (`Provider.renew`).
    """
    before = _may_ask.set(False)
    try:
        yield
    finally:
        _may_ask.reset(before)


class Kept:
    """A JSON document of the provider, kept for a while. When it cannot be read again, the known one goes on."""

    def __init__(self, read: Callable[[], dict[str, Any]], seconds: float) -> None:
        self._read = read
        self._seconds = seconds
        self._lock = threading.Lock()
        self._value: dict[str, Any] | None = None
        self._read_at = self._tried_at = float("-inf")
        self._fault = "it was not asked yet"

    @property
    def is_known(self) -> bool:
        """Whether it has been read at all."""
        return self._value is not None

    def is_due(self, *, renewed_within: float | None = None) -> bool:
        """Whether `get` would read it now."""
        return not self._is_fresh(renewed_within) and not self._was_tried()

    def get(self, *, renewed_within: float | None = None) -> dict[str, Any]:
        """The document; read anew if older than `renewed_within` seconds. Raises `ProviderUnavailable`."""
        if self._value is not None and (self._is_fresh(renewed_within) or not _may_ask.get()):
            return self._value
        # Who knows an older one need not wait for the thread that reads; who looks for a new key waits a little.
        patience = -1 if self._value is None else 3 if renewed_within is not None else 0
        if _may_ask.get() and self._lock.acquire(timeout=patience):
            try:
                self._renew()
            finally:
                self._lock.release()
        if self._value is None:
            raise ProviderUnavailable(self._fault)
        return self._value

    def _is_fresh(self, renewed_within: float | None) -> bool:
        age = time.monotonic() - self._read_at
        return age < min(self._seconds, self._seconds if renewed_within is None else renewed_within)

    def _was_tried(self) -> bool:
        pause = FIRST_RETRY_SECONDS if self._value is None else RETRY_SECONDS
        return time.monotonic() - self._tried_at < pause

    def _renew(self) -> None:
        if self._was_tried():
            return
        try:
            self._value = self._read()
            self._read_at = time.monotonic()
        except ProviderUnavailable as exc:
            self._fault = str(exc)
            logger.warning("the identity provider: %s", exc)
        finally:
            # From the end on: one that hangs is not asked again by each of those who waited meanwhile.
            self._tried_at = time.monotonic()


class Provider:
    """One issuer. Safe to share between threads."""

    def __init__(self, issuer_url: str) -> None:
        self._url = issuer_url
        self._metadata = Kept(self._read_metadata, METADATA_SECONDS)
        self._keys = Kept(self._read_keys, KEYS_SECONDS)

    # --- Metadata (OpenID Connect Discovery 1.0) ---------------------------------------------------

    @property
    def issuer(self) -> str:
        """As it stands in tokens: the configured address, or that with a slash behind it."""
        return str(self._metadata.get()["issuer"])

    def endpoint(self, name: str) -> str:
        """The address called `name` in the provider's metadata. Raises `ProviderUnavailable`."""
        value = self._metadata.get().get(name)
        schemes = ("https://",) if self._url.startswith("https://") else ("https://", "http://")
        if not isinstance(value, str) or not value.startswith(schemes):
            raise ProviderUnavailable(f"its metadata name no usable {name}")
        return value

    def _read_metadata(self) -> dict[str, Any]:
        document = _json(_request("GET", f"{self._url}/.well-known/openid-configuration"), "its metadata")
        # Section 4.3: else one issuer could speak for another.
        if str(document.get("issuer", "")).rstrip("/") != self._url:
            raise ProviderUnavailable(f"its metadata are of the issuer {document.get('issuer')!r}, not {self._url!r}")
        return document

    # --- Keys --------------------------------------------------------------------------------------

    def key(self, key_id: str, algorithm: str) -> jwt.PyJWK | None:
        """The public key that signs with `algorithm` under `key_id`; None when the provider has none such.

        An unknown id is looked for once more, since providers rotate keys. Raises `ProviderUnavailable`.
        """
        return self._find(self._keys.get(), key_id, algorithm) or self._find(
            self._keys.get(renewed_within=RETRY_SECONDS), key_id, algorithm
        )

    @property
    def is_known(self) -> bool:
        """Whether its keys have been read at all."""
        return self._keys.is_known

    def knows(self, key_id: str, algorithm: str) -> bool:
        """Whether `key` finds it without asking."""
        try:
            with as_known():
                return self.key(key_id, algorithm) is not None
        except ProviderUnavailable:
            return False

    def is_due(self, key_id: str, algorithm: str) -> bool:
        """Whether a token of this key would have anything read now."""
        if self._metadata.is_due() or self._keys.is_due():
            return True
        return self._keys.is_due(renewed_within=RETRY_SECONDS) and not self.knows(key_id, algorithm)

    def renew(self, key_id: str, algorithm: str) -> None:
        """Read what is due for a token of this key, as far as it can be had."""
        with suppress(ProviderUnavailable):
            self._metadata.get()
            self.key(key_id, algorithm)

    @staticmethod
    def _find(document: dict[str, Any], key_id: str, algorithm: str) -> jwt.PyJWK | None:
        for entry in document["keys"]:
            if entry.get("kid") != key_id or entry.get("use", "sig") != "sig":
                continue
            if entry.get("alg", algorithm) != algorithm or entry.get("kty") == "oct":
                continue
            try:
                key = jwt.PyJWK(entry, algorithm)
            except jwt.PyJWTError:
                continue
            if isinstance(key.key, RSAPublicKey) and key.key.key_size < MIN_RSA_BITS:
                continue
            return key
        return None

    def _read_keys(self) -> dict[str, Any]:
        document = _json(_request("GET", self.endpoint("jwks_uri")), "its keys")
        keys = document.get("keys")
        if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
            raise ProviderUnavailable("its keys are not a JSON Web Key Set")
        return document

    # --- Tokens ------------------------------------------------------------------------------------

    def token(self, form: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        """What the token endpoint answers to `form`, as (status, JSON). Raises `ProviderUnavailable`."""
        # RFC 6749, section 2.3.1: both parts are form-encoded before they become Basic.
        client = (quote_plus(settings.OIDC_CLIENT_ID), quote_plus(settings.OIDC_CLIENT_SECRET))
        answer = _request("POST", self.endpoint("token_endpoint"), data=dict(form), auth=client)
        if answer.status_code >= 500 or answer.status_code == 429:
            raise ProviderUnavailable(f"its token endpoint answers {answer.status_code}")
        return answer.status_code, _json(answer, "its token endpoint's answer", is_error_fine=True)


def provider() -> Provider:
    """The one of `OIDC_ISSUER`."""
    return _provider(settings.OIDC_ISSUER)


@functools.lru_cache(maxsize=8)
def _provider(issuer_url: str) -> Provider:
    return Provider(issuer_url)


def _request(method: str, url: str, **options: Any) -> httpx.Response:
    content = bytearray()
    try:
        with (
            httpx.Client(timeout=TIMEOUT, follow_redirects=False) as client,
            client.stream(method, url, headers={"Accept": "application/json"}, **options) as response,
        ):
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > MAX_BYTES:
                    raise ProviderUnavailable(f"{url} answers with more than {MAX_BYTES} bytes")
            return httpx.Response(response.status_code, content=bytes(content))
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise ProviderUnavailable(f"{url} cannot be reached: {exc or type(exc).__name__}") from exc


def _json(answer: httpx.Response, what: str, *, is_error_fine: bool = False) -> dict[str, Any]:
    if answer.status_code != 200 and not is_error_fine:
        raise ProviderUnavailable(f"{what} cannot be read: status {answer.status_code}")
    try:
        document = answer.json()
    except (ValueError, RecursionError) as exc:
        raise ProviderUnavailable(f"{what}: not JSON") from exc
    if not isinstance(document, dict):
        raise ProviderUnavailable(f"{what}: not a JSON object")
    return document

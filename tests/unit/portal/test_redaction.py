"""Secrets are hidden by value and by shape, in logs, events and errors, and it costs next to nothing."""

import base64
import io
import json
import logging
import time
import uuid
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crews import provider_keys
from executions import events
from executions.errors import ErrorCode
from executions.gateway.answers import Answer, Piece, event
from executions.gateway.echoes import Echoes
from executions.gateway.faults import MAX_DETAIL, Fault
from executions.models import EventStream, ExecutionEvent
from portal.accounts import audit
from portal.lib import redaction
from portal.lib.redaction import HIDDEN, redact
from tests.factories.accounts import UserFactory
from tests.factories.crews import LLMProviderFactory

KEY = "sk-planted/42+é & key='x'"
PLAIN = "sk-planted-0123456789abcdef"


@pytest.fixture
def planted():
    for key in (KEY, PLAIN):
        redaction.remember(key)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """What a test plants is forgotten after it."""
    for name, empty in (("_remembered", type(redaction._remembered)()), ("_from_sources", set())):
        monkeypatch.setattr(redaction, name, empty)
    monkeypatch.setattr(redaction, "_forms", redaction._forms)
    monkeypatch.setattr(redaction, "_refreshed_at", float("-inf"))


@pytest.mark.parametrize(
    "said",
    [
        lambda key: key,
        lambda key: f"Incorrect API key provided: {key}.",
        lambda key: f"https://api.example.com/?key={quote(key, safe='')}&b=1",
        lambda key: json.dumps({"error": key}),
        lambda key: json.dumps({"error": key}, ensure_ascii=False),
        lambda key: "Basic " + base64.b64encode(f"user:{key}".encode()).decode(),
        lambda key: base64.urlsafe_b64encode(f"us:{key}:more".encode()).decode(),
        lambda key: base64.b64encode(f"u:{key}".encode()).decode(),
    ],
)
@pytest.mark.parametrize("key", [KEY, PLAIN])
def test_a_known_value_is_hidden_however_it_is_written(planted, said, key):
    text = said(key)
    assert HIDDEN in redact(text)
    assert key not in redact(text)
    assert redact(text) == redact(redact(text))


@pytest.mark.parametrize(
    "token",
    [
        "ap_1a2b3c4d_" + "x" * 43,
        "run_" + "0" * 32 + ".1:" + "aB-_" * 10,
        "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl",
    ],
)
@pytest.mark.parametrize("around", ["{}", "Bearer {}", '{{"a":"line\\n{}"}}', "({})", "a,{},b"])
def test_keys_and_tokens_are_known_by_their_shape(token, around):
    text = around.format(token)
    assert redact(text) == text.replace(token, HIDDEN)


@pytest.mark.parametrize(
    "text", ["", "ap_1234", "map_reduce_is_a_word_and_ap_too", "run_fast.1:ok", "eyJhb", "A talk on sk-planted keys"]
)
def test_other_words_stay(planted, text):
    assert redact(text) == text


def test_short_secrets_are_not_looked_for_and_passwords_only_in_urls():
    redaction.remember("secret")
    redaction.know_urls("postgres://portal:postgres@db.example/portal")
    assert redact("the secret of postgres") == "the secret of postgres"
    assert redact("postgres://portal:postgres@db.example/portal") == f"postgres://portal{HIDDEN}db.example/portal"


def test_only_the_latest_are_remembered():
    for number in range(redaction.MAX_REMEMBERED + 1):
        redaction.remember(f"secret-number-{number}")
    assert redact("secret-number-0!") == "secret-number-0!"
    assert redact(f"secret-number-{redaction.MAX_REMEMBERED}!") == f"{HIDDEN}!"


def test_a_log_line_hides_arguments_and_tracebacks(planted):
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(redaction.RedactingFormatter("%(message)s"))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    try:
        raise ValueError(f"no such key: {PLAIN}")
    except ValueError:
        logger.exception("it failed with %s", PLAIN)
    assert PLAIN not in out.getvalue()
    assert out.getvalue().count(HIDDEN) == 2
    assert "Traceback" in out.getvalue()


def test_the_portals_own_log_is_formatted_so(settings):
    assert settings.LOGGING["formatters"]["line"]["()"] == "portal.lib.redaction.RedactingFormatter"
    assert settings.LOGGING["handlers"]["console"]["formatter"] == "line"
    assert all("handlers" not in logger for logger in settings.LOGGING["loggers"].values())
    for secret in (settings.SECRET_KEY, *settings.ENCRYPTION_KEYS, settings.AUDIT_KEY):
        assert redact(f"a {secret} b") == f"a {HIDDEN} b"


@pytest.mark.django_db
class TestWhereItIsUsed:
    def test_a_provider_key_is_known_once_it_was_written_or_read(self):
        provider = LLMProviderFactory(api_key=PLAIN)
        assert redact(PLAIN) == HIDDEN
        redaction._remembered.clear()
        redaction.remember("another-secret")
        assert redact(PLAIN) == PLAIN
        provider.refresh_from_db()
        assert redact(PLAIN) == HIDDEN

    def test_who_opens_no_key_learns_of_it_within_a_second(self, monkeypatch):
        LLMProviderFactory(api_key=PLAIN)
        redaction._remembered.clear()
        redaction.refresh()
        assert PLAIN in set(provider_keys.in_use())
        assert redact(PLAIN) == HIDDEN
        LLMProviderFactory(api_key="sk-changed-0123456789")
        redaction._remembered.clear()
        redaction._put_together()
        redaction.refresh()  # asked a moment ago
        assert "sk-changed-0123456789" not in redaction._forms
        monkeypatch.setattr(redaction, "_refreshed_at", time.monotonic() - redaction.REFRESH_SECONDS)
        redaction.refresh()
        assert redact("sk-changed-0123456789") == HIDDEN

    def test_events_faults_and_audit_entries(self, planted):
        stream = EventStream.objects.create(id=uuid.uuid4())
        events.append(stream.pk, [events.NewEvent("log", {"message": f"with {PLAIN}", PLAIN: [PLAIN]})])
        assert ExecutionEvent.objects.get(stream=stream).data == {"message": f"with {HIDDEN}", HIDDEN: [HIDDEN]}
        fault = Fault(ErrorCode.LLM_AUTH, "x" * (MAX_DETAIL - 10) + " " + PLAIN)
        assert "sk-planted" not in fault.message
        entry = audit.record("crew.changed", by=UserFactory(), before={"name": PLAIN}, after={"name": f"of {PLAIN}"})
        entry.refresh_from_db()
        assert (entry.before, entry.after) == ({"name": HIDDEN}, {"name": f"of {HIDDEN}"})


def chunks(text, sizes):
    at = 0
    for size in sizes:
        if at >= len(text):
            return
        yield text[at : at + size]
        at += size
    yield text[at:]


@given(
    before=st.text("skplant-0 ", max_size=12),
    after=st.text("skplant-0 ", max_size=12),
    sizes=st.lists(st.integers(1, 9), max_size=60),
    times=st.integers(0, 3),
)
def test_an_echo_in_a_stream_is_hidden_wherever_it_is_cut(before, after, sizes, times):
    text = before + PLAIN.join([after] * (times + 1))
    pieces = []
    for part in chunks(text, sizes):
        chunk = {"choices": [{"index": 0, "delta": {"content": part}, "finish_reason": None}]}
        pieces.append(Piece(event(chunk), chunk))
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    echoes, answer, passed = Echoes(PLAIN), Answer(), b""
    for piece in [*pieces, Piece(event(last), last)]:
        raw, _text = answer.take(echoes.clean([piece]))
        passed += raw
    passed += answer.ending({})
    assert answer.text == text.replace(PLAIN, HIDDEN)
    assert PLAIN.encode() not in passed
    if times == 0 and not answer.text.endswith(tuple(PLAIN[:size] for size in range(1, len(PLAIN)))):
        assert answer.text == text


def test_pieces_without_the_key_pass_as_they_came():
    chunk = {"choices": [{"index": 0, "delta": {"content": "Hello there"}}]}
    piece = Piece(event(chunk), chunk)
    assert Echoes(PLAIN).clean([piece])[0] is piece
    assert Echoes("").clean([piece])[0] is piece


def test_tool_calls_are_cleaned_too():
    echoes = Echoes(PLAIN)
    said = []
    for part in (PLAIN[:9], PLAIN[9:], " end"):
        call = {"index": 0, "function": {"arguments": part}}
        chunk = {"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}
        [piece] = echoes.clean([Piece(event(chunk), chunk)])
        said.append(piece.chunk["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"])
    assert "".join(said) == f"{HIDDEN} end"


def test_looking_through_an_event_takes_little_time():
    """With fifty secrets known, two kilobytes cost some 35 µs; the bound leaves room for a busy machine."""
    for number in range(50):
        redaction.remember(f"sk-{uuid.UUID(int=number)}")
    text = json.dumps({"text": "What models say is mostly words and numbers, 1234. " * 40})
    best = min(_timed(text) for _ in range(5))
    assert best < 0.0005


def _timed(text):
    began = time.perf_counter()
    for _ in range(20):
        redact(text)
    return (time.perf_counter() - began) / 20

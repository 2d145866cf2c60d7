"""The guard for outgoing requests: nothing inside is reached, and what may be reached is, under its name."""

import asyncio
import datetime
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import yarl
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from portal.lib import outgoing
from portal.lib.outgoing import destinations, networks, requests, streams
from portal.lib.outgoing.networks import Reach
from tests.ssrf import Canary, Payload, own_address, payloads

NEIGHBOUR = "127.0.0.3"  # an address of this machine that these tests take for a public one


@pytest.fixture
def canary() -> Iterator[Canary]:
    with Canary() as listening:
        yield listening


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], list[str]]], list[str]]:
    """Have names answered by a function; returns the list of the names that are asked for from then on."""

    def use(answer: Callable[[str], list[str]]) -> list[str]:
        asked: list[str] = []

        def look_up(host: str, port: int, *, seconds: float) -> list[str]:
            asked.append(host)
            return answer(host)

        async def look_up_async(host: str, port: int, family: int = 0) -> list[tuple[int, str]]:
            asked.append(host)
            return [(socket.AF_INET6 if ":" in found else socket.AF_INET, found) for found in answer(host)]

        monkeypatch.setattr(requests, "look_up", look_up)
        monkeypatch.setattr(streams, "look_up", look_up_async)
        return asked

    return use


@pytest.fixture
def neighbour(monkeypatch: pytest.MonkeyPatch) -> str:
    public = (Reach.PUBLIC, (ipaddress.ip_network(f"{NEIGHBOUR}/32"),))
    monkeypatch.setattr(networks, "_RULES", (public, *networks._RULES))
    return NEIGHBOUR


async def by_aiohttp(url: str, *, allow_private: bool = False) -> str:
    """As the gateway asks."""
    where = outgoing.check(url, allow_private=allow_private)
    async with streams.session(allow_private=allow_private, keepalive_seconds=1, connect_seconds=5) as session:
        try:
            async with session.get(yarl.URL(where.url, encoded=True), allow_redirects=False) as response:
                return f"{response.status} {await response.text()}"
        except aiohttp.ClientConnectorDNSError as exc:
            raise exc.os_error from exc


async def by_httpx(url: str, *, allow_private: bool = False) -> str:
    """As litellm asks."""
    transport = streams.Transport(allow_private=allow_private)
    async with httpx.AsyncClient(transport=transport, follow_redirects=True) as client:
        response = await client.get(url)
        return f"{response.status_code} {response.text}"


def at_once(url: str, *, allow_private: bool = False) -> str:
    answer = outgoing.get(url, allow_private=allow_private, timeout=5)
    return f"{answer.status} {answer.content.decode()}"


def ways() -> dict[str, Callable[..., str]]:
    return {
        "at once": at_once,
        "aiohttp": lambda url, **options: asyncio.run(by_aiohttp(url, **options)),
        "httpx": lambda url, **options: asyncio.run(by_httpx(url, **options)),
    }


@pytest.mark.parametrize("way", ways())
def test_no_payload_reaches_anything_inside(canary: Canary, resolve: Any, way: str) -> None:
    all_of_them = payloads(canary.port)
    assert len(all_of_them) > 200
    current: list[Payload] = []
    resolve(lambda host: current[0].look_up(host))
    for payload in all_of_them:
        current[:] = [payload]
        try:
            answer = ways()[way](payload.url)
        except (outgoing.Refused, httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError):
            continue
        pytest.fail(f"{payload.name} was not refused: {answer}")
    assert canary.visits == []


def test_the_canary_notices_who_comes(canary: Canary) -> None:
    for host in ("127.0.0.1", own_address(), "localhost"):
        for ask in ways().values():
            assert "inner" in ask(f"http://{host}:{canary.port}/v1", allow_private=True)
    assert len(canary.visits) == 9


@pytest.mark.parametrize("way", ways())
def test_what_is_never_allowed_is_not_allowed_by_an_admin(canary: Canary, resolve: Any, way: str) -> None:
    nowhere = {
        "169.254.169.254", "[fd00:ec2::254]", "[fe80::1]", "100.100.100.200", "168.63.129.16", "0.1.2.3", "[::]",
        "[::ffff:127.0.0.1]", "224.0.0.1", "255.255.255.255", "[64:ff9b::a9fe:a9fe]", "[2002:7f00:1::]",
        "metadata.google.internal", "zoned.example.com",
    }  # fmt: skip
    resolve(lambda host: {"zoned.example.com": ["fe80::1%lo"]}.get(host, ["169.254.169.254"]))
    for host in nowhere:
        with pytest.raises(outgoing.Refused, match="no request goes"):
            ways()[way](f"http://{host}:{canary.port}/", allow_private=True)
    assert canary.visits == []


@pytest.mark.parametrize("way", ways())
def test_a_name_server_that_changes_its_mind_changes_nothing(
    canary: Canary, neighbour: str, resolve: Any, way: str
) -> None:
    answers = iter([[neighbour]])
    asked = resolve(lambda host: next(answers, ["127.0.0.1"]))
    assert "inner" in ways()[way](f"http://rebinding.example.com:{canary.port}/v1")
    assert canary.visits == [f"::ffff:{neighbour}"] or canary.visits == [neighbour]
    assert asked == ["rebinding.example.com"]
    with pytest.raises(outgoing.Refused, match=r"rebinding\.example\.com is in a private network\. An admin can allow"):
        ways()[way](f"http://rebinding.example.com:{canary.port}/v1")
    assert len(canary.visits) == 1


@pytest.mark.parametrize("way", ways())
def test_names_that_are_near_are_told_without_a_name_server(resolve: Any, way: str) -> None:
    asked = resolve(lambda host: ["127.0.0.1"])
    for host in ("localhost", "ollama", "nas.local", "a.localhost"):
        with pytest.raises(outgoing.Refused, match=f"{host} is in a private network"):
            ways()[way](f"http://{host}:9/v1")
    assert asked == []


@pytest.mark.parametrize("way", ways())
def test_of_a_near_host_only_what_may_be_dialled_is(canary: Canary, resolve: Any, way: str) -> None:
    resolve(lambda host: ["fe80::1%lo", "169.254.1.1", "127.0.0.1"])
    assert "inner" in ways()[way](f"http://nas.local:{canary.port}/v1", allow_private=True)
    assert len(canary.visits) == 1


@pytest.mark.parametrize("way", ways())
def test_proxies_of_the_environment_are_not_used(
    canary: Canary, neighbour: str, resolve: Any, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    resolve(lambda host: [neighbour])
    with Canary() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert "inner" in ways()[way](f"http://models.example.com:{canary.port}/v1")
    assert proxy.visits == []


class TestReading:
    @pytest.mark.parametrize(
        ("url", "plain"),
        [
            ("https://api.openai.com/v1", "https://api.openai.com/v1"),
            ("HTTPS://API.Example.com:443/v1", "https://api.example.com/v1"),
            ("http://api.example.com:8080", "http://api.example.com:8080"),
            ("http://my_ollama:11434/v1", "http://my_ollama:11434/v1"),
            ("http://bücher.example/v1?limit=1000&x=%20", "http://xn--bcher-kva.example/v1?limit=1000&x=%20"),
            ("http://[2606:4700:0::1111]:8/v1", "http://[2606:4700::1111]:8/v1"),
            ("https://1.1.1.1/v1/a@b;c", "https://1.1.1.1/v1/a@b;c"),
        ],
    )
    def test_an_address_has_one_plain_form_on_which_all_readers_agree(self, url: str, plain: str) -> None:
        where = outgoing.parse(url)
        assert where.url == plain
        for host in (httpx.URL(plain).host, yarl.URL(plain, encoded=True).host):
            assert host == where.host or host.encode("idna").decode() == where.host
        assert {httpx.URL(plain).port, yarl.URL(plain).explicit_port} <= {None, where.port}

    def test_what_no_request_could_be_sent_to_is_no_address(self) -> None:
        for url in ("", "x", "http://", "https://a b", "http://exa\u0000mple.com", "http://a.1", "http://a.0x1"):
            with pytest.raises(outgoing.BadAddress, match="Give an address like"):
                outgoing.parse(url)

    @pytest.mark.parametrize(
        ("address", "verdict"),
        [
            ("8.8.8.8", Reach.PUBLIC), ("2606:4700::1111", Reach.PUBLIC), ("64:ff9b::808:808", Reach.PUBLIC),
            ("192.168.0.1", Reach.PRIVATE), ("100.64.1.1", Reach.PRIVATE), ("198.18.0.1", Reach.PRIVATE),
            ("fd00::1", Reach.PRIVATE), ("64:ff9b::a00:1", Reach.PRIVATE), ("172.32.0.1", Reach.PUBLIC),
            ("192.0.2.1", Reach.PRIVATE), ("203.0.113.9", Reach.PRIVATE), ("::ffff:8.8.8.8", Reach.NEVER),
            ("2001:db8::1", Reach.PRIVATE), ("240.0.0.1", Reach.NEVER), ("4000::1", Reach.NEVER),
        ],
    )  # fmt: skip
    def test_how_far_an_address_is(self, address: str, verdict: Reach) -> None:
        assert networks.reach(ipaddress.ip_address(address)) is verdict

    def test_nothing_is_public_that_python_does_not_take_for_global(self) -> None:
        for network in ipaddress.ip_network("0.0.0.0/0").subnets(new_prefix=12):
            for address in (network[1], network[-2]):
                if networks.reach(address) is Reach.PUBLIC:
                    assert address.is_global, address
                    assert not address.is_multicast, address

    def test_reading_is_remembered_but_not_the_verdict(self) -> None:
        outgoing.check("http://127.0.0.1:9/v1", allow_private=True)
        with pytest.raises(outgoing.Refused):
            outgoing.check("http://127.0.0.1:9/v1")
        assert destinations.parse.cache_info().maxsize == 512


# --- What comes back ------------------------------------------------------------------------------


@contextmanager
def serving(answer: Callable[[socket.socket], None], *, address: str = "127.0.0.1") -> Iterator[int]:
    """A server that takes a request and answers as told; gives its port."""
    listener = socket.create_server((address, 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                answer(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def said(status: str, *headers: str, body: bytes = b"") -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        head = "\r\n".join([f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "Connection: close"])
        connection.sendall(head.encode() + b"\r\n\r\n" + body)

    return answer


@pytest.mark.parametrize("way", ways())
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent"])
def test_no_redirect_is_followed(canary: Canary, way: str, status: str) -> None:
    with serving(said(status, f"Location: http://127.0.0.1:{canary.port}/v1")) as port:
        assert ways()[way](f"http://127.0.0.1:{port}/v1", allow_private=True).startswith(status[:3])
    assert canary.visits == []


def test_time_is_limited_in_all_and_not_only_for_each_step() -> None:
    def drip(connection: socket.socket) -> None:
        connection.recv(65536)
        for _ in range(100):
            connection.sendall(b"H")
            time.sleep(0.05)

    with serving(drip) as port:
        began = time.monotonic()
        with pytest.raises(outgoing.Unreachable, match="in time"):
            outgoing.get(f"http://127.0.0.1:{port}/", allow_private=True, timeout=1, total=0.4)
        assert time.monotonic() - began < 2


def test_a_name_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: answer.wait(30) and [])
    began = time.monotonic()
    with pytest.raises(outgoing.Unreachable, match="Nobody answers"):
        outgoing.get("http://models.example.com/", timeout=0.2)
    assert time.monotonic() - began < 5
    answer.set()


def test_what_is_too_long_is_not_read() -> None:
    with (
        serving(said("200 OK", body=b"x" * (outgoing.MAX_BYTES + 1))) as port,
        pytest.raises(outgoing.Unreachable, match="too long"),
    ):
        outgoing.get(f"http://127.0.0.1:{port}/", allow_private=True)


def test_a_key_that_cannot_be_sent_is_not_repeated() -> None:
    with pytest.raises(outgoing.Unreachable) as caught:
        outgoing.get("http://127.0.0.1:9/", headers={"Authorization": "Bearer sk-secret\n"}, allow_private=True)
    assert "sk-secret" not in str(caught.value)


# --- TLS ------------------------------------------------------------------------------------------


def certificate(folder: Path, name: str) -> Path:
    """A self-signed certificate of a host, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / f"{name}.pem"
    path.write_bytes(private + signed.public_bytes(encoding))
    return path


@pytest.mark.parametrize("way", ways())
def test_the_pinned_address_has_to_prove_the_hosts_name(
    tmp_path: Path, neighbour: str, resolve: Any, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    path = certificate(tmp_path, "models.example.com")
    asked_for: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    context.sni_callback = lambda _socket, name, _context: asked_for.append(name)
    trusting = ssl.create_default_context(cafile=str(path))
    monkeypatch.setattr(requests, "tls", lambda: trusting)
    monkeypatch.setattr(streams, "tls", lambda: trusting)
    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", trusting)
    resolve(lambda host: [neighbour])

    def answer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            host = next(line for line in secure.recv(65536).split(b"\r\n") if line.lower().startswith(b"host:"))
            secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(host) + host)

    with serving(answer, address=neighbour) as port:
        assert f"models.example.com:{port}" in ways()[way](f"https://models.example.com:{port}/v1")
        assert asked_for == ["models.example.com"]
        with pytest.raises((outgoing.Unreachable, httpx.ConnectError, aiohttp.ClientConnectorCertificateError)):
            ways()[way](f"https://other.example.com:{port}/v1")


def test_many_at_once_are_all_judged(canary: Canary, resolve: Any, neighbour: str) -> None:
    """Of two hundred requests in one moment, to a name that is near and far by turns, each dials what it was told."""
    lock, count = threading.Lock(), iter(range(10_000))

    def answer(host: str) -> list[str]:
        with lock:
            return [neighbour] if next(count) % 2 else ["127.0.0.1"]

    resolve(answer)

    def ask(_: int) -> bool:
        try:
            at_once(f"http://rebinding.example.com:{canary.port}/v1")
        except outgoing.Refused:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(ask, range(200)))
    assert outcomes.count(True) == len(canary.visits) == 100
    assert {visit.removeprefix("::ffff:") for visit in canary.visits} == {neighbour}

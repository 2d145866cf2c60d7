"""What is too large, too deep or too slow is refused early, and takes no memory."""

import asyncio
import contextlib
import json
import socket
import threading
import time

import httpx
import psutil
import pytest
import uvicorn
from websockets.exceptions import ConnectionClosedError

from portal.lib import bodies, serving
from portal.lib.bodies import BoundedBody
from portal.lib.parsing import MAX_DEPTH, is_deeper
from portal.lib.serving import MAX_FRAME_BYTES, MAX_HEAD_BYTES, BoundedHttp
from tests.deadlines import DEADLINE, wait_for
from tests.factories.accounts import UserFactory
from tests.services import free_port

PIECE = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"


async def counts(scope, receive, send):
    """Answers how many bytes it was sent."""
    assert scope["type"] == "http"
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    body = str(size).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def server():
    """The address of a server as the portal starts it, in a thread of this process."""
    config = uvicorn.Config(
        BoundedBody(counts), port=free_port(), http=BoundedHttp, loop="asyncio", lifespan="off", log_config=None
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    wait_for(lambda: running.started, "the server listens")
    yield "127.0.0.1", config.port
    running.should_exit = True
    thread.join(DEADLINE)


def talk(address, *parts):
    """Send these pieces, then read to the end of the connection."""
    with socket.create_connection(address, timeout=DEADLINE) as link:
        with contextlib.suppress(OSError):
            for part in parts:
                link.sendall(part)
        return read(link)


def read(link):
    answer = b""
    with contextlib.suppress(OSError):
        while part := link.recv(65536):
            answer += part
    return answer.decode(errors="replace")


def send_for_ever(address, head, most):
    """Send a chunked body until the server will not have more; (bytes sent, answer)."""
    sent = 0
    with socket.create_connection(address, timeout=DEADLINE) as link:
        link.sendall(head)
        with contextlib.suppress(OSError):
            while sent < most:
                link.sendall(PIECE)
                sent += 0x10000
        return sent, read(link)


HEAD = b"POST /api/crews HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CLOSE = b"Connection: close\r\n"


class TestServer:
    def test_what_is_within_the_limits_passes(self, server):
        body = b"x" * 3_000_000
        for content in (body, iter([body[:1_000_000], body[1_000_000:]])):
            assert httpx.post("http://{}:{}/".format(*server), content=content, timeout=DEADLINE).text == "3000000"
        assert "\r\n\r\n5" in talk(server, HEAD, CLOSE, b"Content-Length: 5\r\n\r\n", b"12345")

    def test_an_announced_giant_is_refused_before_it_comes(self, server):
        answer = talk(server, HEAD, b"Content-Length: 1000000000\r\n\r\n")
        assert answer.startswith("HTTP/1.1 413")
        problem = json.loads(answer.partition("\r\n\r\n")[2])
        assert (problem["code"], problem["status"]) == ("too_large", 413)
        assert "application/problem+json" in answer

    def test_one_that_is_not_announced_is_refused_while_it_comes(self, server, settings):
        settings.MAX_BODY_BYTES = 1_000_000
        sent, _answer = send_for_ever(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", 100_000_000)
        assert sent < 20_000_000  # what the buffers on the way hold
        # Who stops to listen hears why.
        answer = talk(server, HEAD, b"Transfer-Encoding: chunked\r\n\r\n", *[PIECE] * 17)
        assert answer.startswith("HTTP/1.1 413")

    @pytest.mark.parametrize(
        "head",
        [
            b"GET /?q=" + b"x" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: xx\r\n" * 5000 + b"\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: xx\r\n" * 50_000,  # never ends
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nX-A: " + b"x" * 40_000 + b"\r\n\r\n12345",
        ],
    )
    def test_a_head_that_is_too_long_is_refused(self, server, head):
        assert talk(server, head).startswith("HTTP/1.1 431")

    def test_several_requests_on_one_connection_each_have_their_own_head(self, server):
        one = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"x" * 20_000 + b"\r\n"
        answer = talk(server, one + b"\r\n", one + b"\r\n", one + b"\r\n", one + CLOSE + b"\r\n")
        assert answer.count("HTTP/1.1 200") == 4

    def test_a_head_that_does_not_come_is_not_waited_for(self, server, monkeypatch):
        monkeypatch.setattr(serving, "HEAD_SECONDS", 0.2)
        for begun in (b"", b"GET / HTTP/1.1\r\nHost: loc"):
            began = time.monotonic()
            assert talk(server, begun).startswith("HTTP/1.1 408")
            assert 0.1 < time.monotonic() - began < 10

    def test_a_body_that_stops_is_not_waited_for(self, server, monkeypatch):
        monkeypatch.setattr(bodies, "BODY_SECONDS", 0.2)
        answer = talk(server, HEAD, b"Content-Length: 5\r\n\r\n12")
        assert answer.startswith("HTTP/1.1 408")

    def test_an_answer_that_takes_its_time_is_not_disturbed(self, monkeypatch):
        """The time limit is for the body: whoever listens for the client's going listens on."""
        monkeypatch.setattr(bodies, "BODY_SECONDS", 0.05)
        sent = []

        async def slow(scope, receive, send):
            await receive()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(receive(), 0.3)
            await send({"type": "http.response.start", "status": 200, "headers": []})

        async def main():
            messages = asyncio.Queue()
            messages.put_nowait({"type": "http.request", "body": b"12345", "more_body": False})

            async def send(message):
                sent.append(message)

            await BoundedBody(slow)({"type": "http", "headers": [(b"content-length", b"5")]}, messages.get, send)

        asyncio.run(main())
        assert [message["status"] for message in sent] == [200]


@pytest.mark.django_db
class TestJson:
    @pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 900, 2000, 200_000])
    @pytest.mark.parametrize("opening", ["[", '{"a":'])
    def test_deep_json_is_a_bad_request(self, client, depth, opening):
        client.force_login(UserFactory())
        closing = "]" if opening == "[" else "}"
        text = '{"name": ' + opening * depth + "1" + closing * depth + "}"
        answer = client.post("/api/crews", text, content_type="application/json")
        assert answer.status_code == 400
        assert "levels deep" in answer.json()["detail"]

    def test_what_is_not_deep_is_looked_at(self, client):
        client.force_login(UserFactory())
        text = '{"name": ' + "[" * 20 + "]" * 20 + "}"
        answer = client.post("/api/crews", text, content_type="application/json")
        assert answer.status_code == 400
        assert answer.json()["errors"]

    def test_depth(self):
        assert not is_deeper({"a": [1, {"b": "c"}]}, 3)
        assert is_deeper({"a": [1, {"b": "c"}]}, 2)
        assert not is_deeper([], 1)
        assert not is_deeper("text", 1)

    def test_too_many_fields_are_a_bad_request_in_either_form(self, client):
        client.force_login(UserFactory())
        many = {f"f{number}": "1" for number in range(1100)}
        assert client.post("/preferences", many).status_code == 400
        answer = client.post("/api/crews", many)
        assert answer.status_code in {400, 415}
        assert answer["Content-Type"] == "application/problem+json"


@pytest.mark.slow
class TestWholePortal:
    def test_a_gigabyte_in_chunks_is_refused_early_with_bounded_memory(self, stack):
        web = psutil.Process(stack.pid("web"))
        before = web.memory_info().rss
        host = f"Cookie: sessionid={stack._sessions['ann']}\r\n".encode()
        address = ("127.0.0.1", stack.port)
        head = HEAD + host + b"Transfer-Encoding: chunked\r\n\r\n"
        sent, answer = send_for_ever(address, head, 1_000_000_000)
        assert sent < 40_000_000
        assert web.memory_info().rss - before < 60_000_000
        assert not answer or answer.startswith("HTTP/1.1 413")
        assert httpx.get(f"{stack.url}/sign-in").status_code == 200

    def test_large_frames_of_a_client_close_the_socket(self, stack):
        run = stack.kickoff(stack.make_crews({"Framed": {}})["Framed"])
        stack.wait_for_status(run, "completed")
        crew = stack.make_crews({"Framed slowly": {"mode": "slow-200"}})["Framed slowly"]
        run = stack.kickoff(crew)
        with stack.watch(run) as watching:
            watching.send("x" * (MAX_FRAME_BYTES + 1))
            with pytest.raises(ConnectionClosedError) as closed:
                list(watching)
        assert closed.value.rcvd.code == 1009
        stack.request_stop(run)
        stack.wait_for_status(run, "stopped")

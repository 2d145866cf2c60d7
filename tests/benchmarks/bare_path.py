"""The bare database-and-socket path: what is left of a kickoff when there is no portal around it.

An ASGI application without a framework. `POST /` looks up a session and its user, writes the rows
that a kickoff writes in one transaction, and publishes the event to Redis. A WebSocket looks up the
session, subscribes, reads the events and sends them. The same server, drivers and settings as the
portal's web process.

    python -m tests.benchmarks.bare_path PORT DATABASE_URL REDIS_URL
"""

import asyncio
import contextlib
import json
import sys
import uuid
from typing import Any

import redis.asyncio
import uvicorn
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

SCHEMA = """
CREATE TABLE IF NOT EXISTS bare_user (id uuid PRIMARY KEY, name text NOT NULL);
CREATE TABLE IF NOT EXISTS bare_session (key text PRIMARY KEY, user_id uuid NOT NULL REFERENCES bare_user);
CREATE TABLE IF NOT EXISTS bare_stream (id uuid PRIMARY KEY, last_seq bigint NOT NULL);
CREATE TABLE IF NOT EXISTS bare_execution (
  id uuid PRIMARY KEY REFERENCES bare_stream, user_id uuid NOT NULL REFERENCES bare_user, status text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(), snapshot jsonb NOT NULL);
CREATE TABLE IF NOT EXISTS bare_task (id bigserial PRIMARY KEY, execution_id uuid NOT NULL REFERENCES bare_execution,
  task text NOT NULL, status text NOT NULL);
CREATE TABLE IF NOT EXISTS bare_event (id bigserial PRIMARY KEY, stream_id uuid NOT NULL REFERENCES bare_stream,
  seq bigint NOT NULL, type text NOT NULL, at timestamptz NOT NULL DEFAULT now(), data jsonb NOT NULL,
  UNIQUE (stream_id, seq));
"""
SESSION = "s" * 32
SNAPSHOT = {"tasks": [{"name": "Task 1", "description": "Say something. " * 20}], "agents": [{"role": "Agent 1"}]}


class BarePath:
    def __init__(self, database_url: str, redis_url: str) -> None:
        self.pool = AsyncConnectionPool(database_url, min_size=1, max_size=8, open=False)
        self.redis = redis.asyncio.Redis.from_url(redis_url)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._kickoff(receive, send)
        else:
            await self._watch(scope, receive, send)

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        await self.pool.open(wait=True)
        async with self.pool.connection() as connection:
            await connection.execute(SCHEMA)
            user = uuid.uuid4()
            await connection.execute("INSERT INTO bare_user VALUES (%s, 'ann')", [user])
            await connection.execute("INSERT INTO bare_session VALUES (%s, %s) ON CONFLICT DO NOTHING", [SESSION, user])
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.pool.close()
        await self.redis.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _user(self, connection: Any) -> Any:
        found = await connection.execute("SELECT user_id FROM bare_session WHERE key = %s", [SESSION])
        (user,) = await found.fetchone()
        await connection.execute("SELECT * FROM bare_user WHERE id = %s", [user])
        return user

    async def _kickoff(self, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        execution = uuid.uuid4()
        async with self.pool.connection() as connection:
            user = await self._user(connection)
            async with connection.transaction():
                run = connection.execute
                await run("INSERT INTO bare_stream VALUES (%s, 1)", [execution])
                await run(
                    "INSERT INTO bare_execution (id, user_id, status, snapshot) VALUES (%s, %s, 'pending', %s)",
                    [execution, user, Jsonb(SNAPSHOT)],
                )
                await run(
                    "INSERT INTO bare_task (execution_id, task, status) VALUES (%s, 'Task 1', 'pending')", [execution]
                )
                await run(
                    "INSERT INTO bare_event (stream_id, seq, type, data) VALUES (%s, 1, 'execution.queued', '{}')",
                    [execution],
                )
        await self.redis.publish(f"stream.{execution}", b"1")
        body = json.dumps({"execution_id": str(execution)}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 202, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _watch(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        execution = scope["path"].rsplit("/", 1)[-1]
        async with self.redis.pubsub() as news:
            async with self.pool.connection() as connection:
                await self._user(connection)
            await news.subscribe(f"stream.{execution}")
            async with self.pool.connection() as connection:
                rows = await connection.execute(
                    "SELECT seq, type, at, data FROM bare_event WHERE stream_id = %s ORDER BY seq", [execution]
                )
                for seq, name, at, data in await rows.fetchall():
                    event = {"seq": seq, "type": name, "at": at.isoformat(), "data": data}
                    await send({"type": "websocket.send", "text": json.dumps(event)})
            with contextlib.suppress(asyncio.CancelledError):
                while (await receive())["type"] != "websocket.disconnect":
                    pass


def main() -> None:
    port, database_url, redis_url = sys.argv[1:]
    uvicorn.run(
        BarePath(database_url, redis_url),
        host="127.0.0.1", port=int(port), loop="uvloop", http="httptools", ws="websockets-sansio", access_log=False,
        log_level="error",
    )  # fmt: skip


if __name__ == "__main__":
    main()

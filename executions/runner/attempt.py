"""Carrying out one attempt at an execution: engine up, events in, limits and stops obeyed, end recorded."""

import asyncio
import logging
import shutil
from collections.abc import Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from django.conf import settings
from django.db import OperationalError, transaction
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from executions.engines import client
from executions.engines.protocol import Line, RunSpec
from executions.errors import ErrorCode, Failure, TransitionLost
from executions.gateway import tokens
from executions.models import Execution, LLMCall, TaskRun
from executions.runner import outcome
from executions.runner.intake import BadLine, Intake, LeaseLost
from portal.lib.dbthreads import DatabaseThreads

logger = logging.getLogger(__name__)

# How long a warm host may take to come up: its framework's import takes minutes on a busy machine.
HOST_PATIENCE = timedelta(minutes=5)
# After the engine has ended, the gateway needs a moment to close the calls that it cut off.
CLOSING_PATIENCE = timedelta(seconds=5)
LIMIT_CHECK_SECONDS = 1.0
TASK_TIMED_OUT = _("A task took longer than its time limit.")


async def _first_of(seconds: float, *waits: Coroutine[Any, Any, Any]) -> None:
    """Wait for the first of `waits`, at most `seconds`, and leave none behind."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


class Run:
    """One attempt, from claim to end. `carry` is its whole life; `stop` and `abandon` may be called any time."""

    def __init__(self, execution: Execution, db: DatabaseThreads) -> None:
        self.execution = execution
        self._attempt, self._worker = execution.attempt, execution.lease_worker
        self.db = db
        self.folder = Path(settings.RUNS_DIR) / str(execution.pk) / str(execution.attempt)
        self._interrupt: asyncio.Event = asyncio.Event()
        self._stopping = False
        self._abandoned = False

    def stop(self) -> None:
        """A person asked for it: kill the engine and end as `stopped`."""
        self._stopping = True
        self._interrupt.set()

    def abandon(self) -> None:
        """The lease is gone, or the runner ends: kill the engine and write nothing more."""
        self._abandoned = True
        self._interrupt.set()

    async def carry(self) -> None:
        """Never raises for what a run may do wrong: that ends the execution with its code."""
        failure: Failure | None = None
        closing: Line | None = None
        try:
            failure, closing = await self._work()
        except LeaseLost:
            logger.warning("run %s: the lease went to another runner", self.execution.pk)
            self._abandoned = True
        if self._abandoned:
            return
        for delay in (0.2, 1, 5, 15, None):
            try:
                await self.db(self._end, failure, closing)
                break
            except TransitionLost:
                logger.warning("run %s: somebody else ended it", self.execution.pk)
                break
            except OperationalError:
                if delay is None:
                    raise  # the lease expires, and recovery takes over
                logger.warning("run %s: the database is away, trying again", self.execution.pk)
                await asyncio.sleep(delay)
        shutil.rmtree(self.folder / "work", ignore_errors=True)

    async def _work(self) -> tuple[Failure | None, Line | None]:
        spec = await self.db(self._spec)
        self.folder.mkdir(parents=True, exist_ok=True)
        intake = await self.db(Intake, self.execution, self.folder / "events.jsonl")
        try:
            engine = await self._start(spec)
        except client.EngineUnavailable as exc:
            logger.warning("run %s: %s", self.execution.pk, exc)
            return Failure(ErrorCode.ENGINE_MISSING), None
        if engine is None:
            return None, None
        try:
            return await self._attend(engine, intake)
        finally:
            engine.close()

    async def _attend(self, engine: client.EngineRun, intake: Intake) -> tuple[Failure | None, Line | None]:
        """Store what the engine writes until it ends or must end; then why it failed, and its closing line."""
        closing: Line | None = None
        failure: Failure | None = None
        try:
            while not engine.ended and not self._interrupt.is_set() and failure is None:
                await self._wait(engine)
                closing = await self._store(intake) or closing
                failure = self._limit_reached(intake)
        except BadLine as exc:
            logger.warning("run %s: %s", self.execution.pk, exc)
            failure = Failure(ErrorCode.ENGINE_CRASHED)
        finally:
            engine.kill()
        exited = await engine.wait()
        if self._abandoned:
            return None, None
        try:
            closing = await self._store(intake) or closing
        except BadLine as exc:
            logger.warning("run %s: %s", self.execution.pk, exc)
            failure = failure or Failure(ErrorCode.ENGINE_CRASHED)
        await self._calls_closed()
        if failure is None and not self._stopping and (closing is None or closing["kind"] == "failure"):
            how = f"signal {exited.signal}" if exited.signal else f"exit code {exited.code}"
            failure = await self.db(outcome.failure_of, self.execution, closing, how)
        return failure, closing

    async def _start(self, spec: RunSpec) -> client.EngineRun | None:
        """The engine process; None when the run was interrupted before it was there."""
        socket = Path(settings.RUN_DIR) / f"host-{self.execution.engine}.sock"
        deadline = asyncio.get_running_loop().time() + HOST_PATIENCE.total_seconds()
        while not self._interrupt.is_set():
            try:
                return await client.start(socket, spec, self.folder)
            except client.EngineUnavailable:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await self._sleep(0.2)
        return None

    async def _wait(self, engine: client.EngineRun) -> None:
        """Until the engine has written or ended, somebody interrupts, or limits are due for a look."""
        await _first_of(LIMIT_CHECK_SECONDS, engine.rang(), self._interrupt.wait())

    async def _sleep(self, seconds: float) -> None:
        await _first_of(seconds, self._interrupt.wait())

    async def _store(self, intake: Intake) -> Line | None:
        closing: Line | None = None
        while True:
            try:
                batch = await self.db(intake.read)
            except OperationalError:
                # The file keeps what the engine writes; the lease decides whether we may still store it.
                logger.warning("run %s: the database is away, trying again", self.execution.pk)
                await self._sleep(1)
                if self._interrupt.is_set():
                    return closing
                continue
            closing = batch.closing or closing
            if not batch.is_full:
                return closing

    def _limit_reached(self, intake: Intake) -> Failure | None:
        limits = self.execution.snapshot["limits"]
        now = timezone.now()
        since = self.execution.started_at or now
        if (now - since).total_seconds() > limits["max_duration_seconds"]:
            return Failure(ErrorCode.TIMED_OUT)
        if any((now - at).total_seconds() > limits["task_timeout_seconds"] for at in intake.running.values()):
            return Failure(ErrorCode.TIMED_OUT, str(TASK_TIMED_OUT))
        return None

    async def _calls_closed(self) -> None:
        """Wait until the gateway has closed the attempt's calls, so that totals and the log are whole.

        Another process closes them, so there is nothing to wait on but the database.
        """
        deadline = asyncio.get_running_loop().time() + CLOSING_PATIENCE.total_seconds()
        while asyncio.get_running_loop().time() < deadline and await self.db(self._has_open_calls):  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    def _has_open_calls(self) -> bool:
        return LLMCall.objects.filter(
            execution=self.execution, attempt=self.execution.attempt, status=LLMCall.Status.OPEN
        ).exists()

    def _spec(self) -> RunSpec:
        """The snapshot with what belongs to this attempt alone."""
        finished = self.execution.task_runs.filter(status=TaskRun.Status.COMPLETED).values_list("task", "output")
        own: dict[str, Any] = {
            "execution": str(self.execution.pk),
            "attempt": self.execution.attempt,
            "finished": dict(finished),
            "waiting": [],
            "reviews": {},
            "gateway": {"base_url": f"{settings.GATEWAY_URL}/v1", "token": tokens.issue(self.execution)},
        }
        return cast(RunSpec, {**self.execution.snapshot["spec"], **own})

    def _end(self, failure: Failure | None, closing: Line | None) -> None:
        self.execution.refresh_from_db()
        if (self.execution.attempt, self.execution.lease_worker) != (self._attempt, self._worker):
            # The lease ran out while this process stood still, and another runner has begun the next attempt.
            raise TransitionLost("The execution is another runner's by now.")
        with transaction.atomic():
            outcome.keep_partial_texts(self.execution)
            if closing is not None and closing["kind"] == "result" and failure is None:
                # Also when a stop came in the same moment: the work is done.
                self.execution.complete(closing.get("output") or "")
            elif self._stopping or self.execution.stop_requested_at is not None:
                # The gateway refuses calls from the moment of the request: an engine may fail by that
                # before this runner has heard of the stop.
                self.execution.stop(partial_output=outcome.partial_output(self.execution))
            elif failure is not None:
                self.execution.fail(failure, partial_output=outcome.partial_output(self.execution))

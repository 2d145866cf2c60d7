"""Carrying out one attempt at an execution: engine up, events in, limits and requests obeyed, end recorded."""

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast
from urllib.parse import urlsplit

from django.conf import settings
from django.db import InterfaceError, OperationalError, transaction
from django.db.models import F, Sum
from django.utils.translation import gettext_lazy as _

from executions import workspace
from executions.engines import client
from executions.engines.protocol import Line, Review, RunSpec
from executions.engines.registry import ENGINES
from executions.errors import ErrorCode, Failure, TransitionLost
from executions.gateway import tokens
from executions.models import Approval, Execution, LLMCall, TaskRun
from executions.runner import outcome
from executions.runner.intake import BadLine, Batch, Intake, LeaseLost
from executions.runner.outcome import Crash, Problem, Shortage
from executions.worker import hosts
from portal.lib.dbthreads import DatabaseThreads

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

AWAY = (OperationalError, InterfaceError)  # the database, for the moment

# How long a warm host may take to come up: its framework's import takes minutes on a busy machine.
HOST_PATIENCE = timedelta(minutes=5)
# And a gateway that has to be started again; an engine that finds none has lost its attempt.
GATEWAY_PATIENCE = timedelta(minutes=2)
# After the engine has ended, the gateway needs a moment to close the calls that it cut off.
CLOSING_PATIENCE = timedelta(seconds=5)
CONNECT_SECONDS = 10.0  # for a connection; engines wait as long
LIMIT_CHECK_SECONDS = 1.0
REST_SECONDS = 0.3  # for storing what a run that is to stop has written faster than it could be stored
TASK_TIMED_OUT = _("A task took longer than its time limit.")
NO_FILES = _("The files of the finished tasks could not be read from storage.")
PAUSE_TAKEN_BACK = _("It had paused, but nobody wants it to any more.")


async def _first_of(seconds: float, *waits: Coroutine[Any, Any, Any]) -> None:
    """Wait for the first of `waits`, at most `seconds`, and leave none behind."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


class Run:
    """One attempt, from claim to end. `carry` is its whole life; the other methods may be called any time.

    `on_asked` hears of each question to people once it is stored.
    """

    def __init__(
        self, execution: Execution, db: DatabaseThreads, on_asked: Callable[[Approval], None] | None = None
    ) -> None:
        self.execution = execution
        self._on_asked = on_asked
        self.attempt, self._worker = execution.attempt, execution.lease_worker
        self.db = db
        self.folder = Path(settings.RUNS_DIR) / str(execution.pk) / str(execution.attempt)
        self._interrupt: asyncio.Event = asyncio.Event()
        self._engine: client.EngineRun | None = None
        self._stopping = False
        self._pausing = execution.pause_requested_at is not None
        self._abandoned = False
        self._is_lost = False
        self._born = time.monotonic()
        self._spent = 0.0  # seconds of earlier attempts

    def stop(self) -> None:
        """A person asked for it: kill the engine and end as `stopped`."""
        self._stopping = True
        self._interrupt.set()

    def pause(self, *, at_once: bool) -> None:
        """A person asked for it: let the tasks under way finish, or kill the engine at once. Safe to repeat."""
        self._pausing = True
        if self._engine is not None:
            self._engine.pause()
        if at_once:
            self._interrupt.set()

    def abandon(self, *, is_lost: bool = False) -> None:
        """The lease is gone (`is_lost`), or the runner ends: kill the engine and write nothing more."""
        self._abandoned = True
        self._is_lost = self._is_lost or is_lost
        self._interrupt.set()

    async def carry(self) -> None:
        """Never raises for what a run may do wrong: that ends the execution with its code."""
        problem: Problem | None = None
        closing: Line | None = None
        try:
            problem, closing = await self._work()
        except LeaseLost:
            logger.warning("run %s: the lease went to another runner", self.execution.pk)
            self.abandon(is_lost=True)
        if self._abandoned:
            return
        for delay in (0.2, 1, 5, 15, None):
            try:
                await self.db(self._end, problem, closing)
                break
            except TransitionLost:
                logger.warning("run %s: somebody else ended it", self.execution.pk)
                break
            except AWAY:
                if delay is None:
                    raise  # the lease expires, and recovery takes over
                logger.warning("run %s: the database is away, trying again", self.execution.pk)
                await asyncio.sleep(delay)

    def clean_up(self) -> None:
        """Remove the attempt's work folder; its events and log stay.

        Whoever puts back what this runner abandons at its end needs both; of a lost lease nobody here does.
        """
        if self._abandoned and not self._is_lost:
            return
        work = self.folder / "work"
        for pause in (0.1, 1, 5):
            shutil.rmtree(work, ignore_errors=True)
            if not work.exists():
                return
            time.sleep(pause)  # what the engine had started may write for a moment longer
        logger.warning("run %s: its work folder could not be removed: %s", self.execution.pk, work)

    async def _work(self) -> tuple[Problem | None, Line | None]:
        if self._pausing:
            return None, None  # asked for before anything was begun
        self._spent = await self._read(self._spent_before)
        spec = await self._read(self._spec)
        self.folder.mkdir(parents=True, exist_ok=True)
        intake = await self._read(Intake, self.execution, self.folder / "events.jsonl")
        try:
            await self._read(workspace.place, self.execution, self.folder / "work")
        except OSError as exc:
            logger.warning("run %s: %s", self.execution.pk, exc)
            return Crash(str(NO_FILES)), None
        await self._gateway_there()
        try:
            self._engine = await self._start(spec)
        except client.EngineUnavailable as exc:
            logger.warning("run %s: %s", self.execution.pk, exc)
            return Failure(ErrorCode.ENGINE_MISSING), None
        if self._engine is None:
            return None, None
        if self._pausing:
            self._engine.pause()
        try:
            return await self._attend(self._engine, intake)
        finally:
            self._engine.close()

    async def _attend(self, engine: client.EngineRun, intake: Intake) -> tuple[Problem | None, Line | None]:
        """Store what the engine writes until it ends or must end; then what went wrong, and its closing line."""
        closing: Line | None = None
        problem: Problem | None = None
        has_more = False
        try:
            while not engine.ended and not self._interrupt.is_set() and problem is None:
                if not has_more:
                    await self._wait(engine)
                if batch := await self._store(intake):
                    has_more, closing = batch.is_full, batch.closing or closing
                problem = None if closing else self._limit_reached(intake)
        except BadLine as exc:
            logger.warning("run %s: %s", self.execution.pk, exc)
            problem = Failure(ErrorCode.ENGINE_CRASHED)
        finally:
            was_killed = not engine.ended
            engine.kill()
        exited = await engine.wait()
        if self._abandoned:
            return None, None
        try:
            closing = await self._store_rest(intake, problem) or closing
        except BadLine as exc:
            logger.warning("run %s: %s", self.execution.pk, exc)
            problem = problem or Failure(ErrorCode.ENGINE_CRASHED)
        if problem is None and not self._stopping:
            failed = closing is not None and closing["kind"] == "failure"
            if failed or (closing is None and not was_killed):
                problem = await self._read(outcome.problem_of, self.execution, closing, exited, intake.written)
        if self._stopping or isinstance(problem, Failure):
            await self._calls_closed(problem)
        return problem, closing

    async def _gateway_there(self) -> None:
        """Wait until the gateway takes connections, or it is no use to wait any longer."""
        url = urlsplit(settings.GATEWAY_URL)
        port = url.port or (443 if url.scheme == "https" else 80)
        deadline = time.monotonic() + GATEWAY_PATIENCE.total_seconds()
        while not self._interrupt.is_set() and not self._pausing and time.monotonic() < deadline:
            with contextlib.suppress(OSError):  # of which TimeoutError is one
                async with asyncio.timeout(CONNECT_SECONDS):
                    _, writer = await asyncio.open_connection(url.hostname, port)
                writer.close()
                return
            await self._sleep(0.2)

    async def _start(self, spec: RunSpec) -> client.EngineRun | None:
        """The engine process; None when the run was interrupted before it was there."""
        engine = self.execution.engine
        hosts.want(engine)
        deadline = asyncio.get_running_loop().time() + HOST_PATIENCE.total_seconds()
        while not self._interrupt.is_set() and not self._pausing:
            try:
                return await client.start(hosts.socket_of(engine), spec, self.folder)
            except client.EngineUnavailable:
                if asyncio.get_running_loop().time() > deadline or not ENGINES[engine].is_installed():
                    raise
                await self._sleep(0.2)
        return None

    async def _wait(self, engine: client.EngineRun) -> None:
        """Until the engine has written or ended, somebody interrupts, or limits are due for a look."""
        await _first_of(LIMIT_CHECK_SECONDS, engine.rang(), self._interrupt.wait())

    async def _sleep(self, seconds: float) -> None:
        await _first_of(seconds, self._interrupt.wait())

    async def _store(self, intake: Intake) -> Batch | None:
        """Store what is new in the attempt's file, at most a batch; None when the database is away for the moment."""
        try:
            batch = await self.db(intake.read)
        except (*AWAY, OSError) as exc:
            # The file keeps what the engine writes; the lease decides whether we may still store it.
            logger.warning("run %s: events cannot be stored (%s), trying again", self.execution.pk, exc)
            await self._pause_between_tries()
            return None
        for approval in batch.asked:
            if self._on_asked is not None:
                self._on_asked(approval)
        return batch

    async def _store_rest(self, intake: Intake, problem: Problem | None) -> Line | None:
        """Store what the engine had written when it ended; its closing line if that was there.

        Of a run that is to stop or to fail only what a moment allows: who waits for that does not wait for a log.
        """
        closing: Line | None = None
        end = time.monotonic() + REST_SECONDS
        while True:
            batch = await self._store(intake)
            if batch is not None:
                closing = batch.closing or closing
                if not batch.is_full:
                    return closing
            if self._abandoned or (self._stopping and batch is None):
                return closing
            if (self._stopping or problem is not None) and batch is not None and time.monotonic() > end:
                logger.warning("run %s: the end of what its engine wrote is not stored", self.execution.pk)
                return closing

    async def _read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What a function reads from the database, also when that is away for a while."""
        while True:
            try:
                return await self.db(function, *args, **kwargs)
            except AWAY as exc:
                if self._abandoned:
                    raise LeaseLost from exc
                logger.warning("run %s: the database is away, trying again", self.execution.pk)
                await self._pause_between_tries()

    async def _pause_between_tries(self) -> None:
        if self._interrupt.is_set():
            await asyncio.sleep(0.2)
        else:
            await self._sleep(1)

    def _limit_reached(self, intake: Intake) -> Failure | None:
        limits = self.execution.snapshot["limits"]
        now = time.monotonic()
        if self._spent + now - self._born > limits["max_duration_seconds"]:
            return Failure(ErrorCode.TIMED_OUT)
        if any(now - since > limits["task_timeout_seconds"] for since in intake.running.values()):
            return Failure(ErrorCode.TIMED_OUT, str(TASK_TIMED_OUT))
        return None

    def _spent_before(self) -> float:
        """Seconds that the earlier attempts took since a person last started the run; waiting is not among them."""
        earlier = self.execution.attempts.filter(number__gt=self.execution.restarted_attempt).exclude(ended_at=None)
        spent = earlier.aggregate(spent=Sum(F("ended_at") - F("started_at")))["spent"]
        return spent.total_seconds() if spent else 0.0

    async def _calls_closed(self, problem: Problem | None) -> None:
        """Wait until the gateway has closed the attempt's calls, so that totals and the log are whole.

        Of a run that goes on it would rather see the answer come. Another process closes them, so
        there is nothing to wait on but the database.
        """
        if not await self._read(self._has_open_calls):
            return
        if isinstance(problem, Failure):
            with contextlib.suppress(TransitionLost):  # the end will say so
                await self._read(self.execution.will_fail, problem)
        deadline = time.monotonic() + CLOSING_PATIENCE.total_seconds()
        while time.monotonic() < deadline and await self._read(self._has_open_calls):  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    def _has_open_calls(self) -> bool:
        return LLMCall.objects.filter(
            execution=self.execution, attempt=self.execution.attempt, status=LLMCall.Status.OPEN
        ).exists()

    def _spec(self) -> RunSpec:
        """The snapshot with what belongs to this attempt alone.

        What an engine makes its prompts of is in the order of the tasks, whichever was done first: the
        prompts of an attempt are the same to the byte, however often the run was begun.
        """
        # The questions before the tasks: one that is answered between the two reads still counts as open
        # or its task as finished. The other way round it would be neither, and the task done again.
        asked: dict[str, list[Approval]] = {}
        for approval in self.execution.approvals.order_by("round"):
            asked.setdefault(approval.task, []).append(approval)
        runs = list(self.execution.task_runs.all())
        finished = {run.task: run.output for run in runs if run.status == TaskRun.Status.COMPLETED}
        unfinished = [run.task for run in runs if run.task in asked and run.task not in finished]
        # What was sent back before the run began stands in its snapshot, what was sent back since in its answers.
        reviews: dict[str, list[Review]] = {
            key: list(given)
            for key, given in self.execution.snapshot["spec"].get("reviews", {}).items()
            if key not in finished
        }
        for key in unfinished:
            rejected = [approval for approval in asked[key] if approval.status == Approval.Status.REJECTED]
            if rejected:
                since = [Review(output=review.output, feedback=review.feedback) for review in rejected]
                reviews[key] = [*reviews.get(key, []), *since]
        own: dict[str, Any] = {
            "execution": str(self.execution.pk),
            "attempt": self.execution.attempt,
            "finished": finished,
            "waiting": [key for key in unfinished if asked[key][-1].status == Approval.Status.OPEN],
            "reviews": reviews,
            "gateway": {"base_url": f"{settings.GATEWAY_URL}/v1", "token": tokens.issue(self.execution)},
        }
        return cast(RunSpec, {**self.execution.snapshot["spec"], **own})

    def _end(self, problem: Problem | None, closing: Line | None) -> None:
        with transaction.atomic():
            execution = Execution.objects.select_for_update(no_key=True).get(pk=self.execution.pk)
            if (execution.attempt, execution.lease_worker) != (self.attempt, self._worker):
                # The lease ran out while this process stood still, and another runner took it over.
                raise TransitionLost("The execution is another runner's by now.")
            self._move(execution, problem, closing)

    def _move(self, execution: Execution, problem: Problem | None, closing: Line | None) -> None:
        """Make the one move that the attempt ends with; a stop goes before a failure, and both before a pause."""
        if closing is not None and closing["kind"] == "result" and problem is None:
            # Also when a stop came in the same moment: the work is done.
            execution.complete(closing.get("output") or "")
        elif self._stopping or execution.stop_requested_at is not None:
            # The gateway refuses calls from the moment of the request: an engine may fail by that
            # before this runner has heard of the stop.
            outcome.keep_partial_texts(execution)
            execution.stop(partial_output=outcome.partial_output(execution))
        elif isinstance(problem, Failure):
            outcome.keep_partial_texts(execution)
            execution.fail(problem, partial_output=outcome.partial_output(execution))
        elif isinstance(problem, Shortage):
            execution.wait_for_budget(sentence=problem.sentence, usd=problem.usd, tokens=problem.tokens)
        elif closing is not None and closing["kind"] == "waiting":
            execution.wait_for_people()
        elif execution.pause_requested_at is not None:
            execution.pause()
        elif isinstance(problem, Crash):
            execution.recover(
                reason=problem.sentence,
                failure=Failure(ErrorCode.ENGINE_CRASHED, problem.sentence),
                partial_output=outcome.partial_output(execution),
            )
        else:
            execution.recover(reason=str(PAUSE_TAKEN_BACK), is_blameless=True)

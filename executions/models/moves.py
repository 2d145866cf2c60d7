"""The moves of an execution: the one place that writes a status.

Each move is compare-and-set on status and attempt, and writes its event in the same transaction; once that
has committed, higher rooms are told (`executions.hooks`).
Everybody locks in the same order, or two movers would wait for each other: the execution's row
first, then what hangs on it (approvals, journal, tasks, attempts), the event stream last.
"""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.db import models, transaction
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _

from executions import events, hooks
from executions.errors import ErrorCode, Failure, InvalidTransition, TransitionLost
from executions.models.approval import Approval
from executions.models.parts import Attempt, TaskRun
from executions.status import ENDED, TRANSITIONS, Status, WaitingFor

if TYPE_CHECKING:
    from django.db.models.fields.related_descriptors import RelatedManager

    from portal.accounts.models import User

# Before the second, third… attempt in a row that nobody asked for; the first comes at once.
BACKOFF = (timedelta(0), timedelta(seconds=5), timedelta(seconds=30), timedelta(minutes=2))
# What a person's word to go on takes back.
_NOTHING_ASKED: dict[str, Any] = {
    "stop_requested_at": None,
    "stop_requested_by": None,
    "pause_requested_at": None,
    "pause_requested_by": None,
    "pause_at_once": False,
}
_NO_WAIT: dict[str, Any] = {"waiting_for": "", "needs_usd": None, "needs_tokens": None}


class Moves(models.Model):
    """The status machine of an execution, drawn in `executions.status`.

    The attempt is the fencing number of the lease: it rises with every claim, is never given twice,
    and every move and every write of a runner names it, so that a runner that lost its lease and
    comes back late changes nothing.
    """

    class Meta:
        abstract = True

    if TYPE_CHECKING:
        status: Any
        attempt: Any
        max_attempts: Any
        recoveries: Any
        started_at: Any
        stop_requested_at: Any
        error_code: Any
        error_message: Any
        lease_worker: Any
        stream_id: Any
        waiting_for: Any
        pause_at_once: Any
        priority: Any
        attempts: RelatedManager[Attempt]
        task_runs: RelatedManager[TaskRun]
        approvals: RelatedManager[Approval]

    # --- A runner's moves -----------------------------------------------------------------------

    def start(self, *, worker: str, lease: timedelta) -> None:
        """A runner takes it: the next attempt begins, under a lease of `lease`."""
        number = self.attempt + 1
        with transaction.atomic():
            self._move_to(
                Status.RUNNING,
                "execution.started",
                {"worker": worker},
                expect={"stop_requested_at": None},
                attempt=number,
                started_at=self.started_at or Now(),
                not_before=None,
                lease_worker=worker,
                lease_until=Now() + lease,
            )
            Attempt.objects.create(execution_id=self.pk, number=number, worker=worker, started_at=Now())

    def complete(self, output: str) -> None:
        """The engine delivered its result."""
        self._move_to(Status.COMPLETED, "execution.completed", {}, final_output=output)

    def fail(self, failure: Failure, *, partial_output: str = "", quarantine: str = "") -> None:
        """It cannot go on; the failure's code and sentence say why.

        `quarantine` is the reason why it will not be started again but by a person who has read it.
        """
        self._move_to(
            Status.FAILED,
            "execution.failed",
            {
                "error_code": failure.code.value,
                "error_message": failure.sentence,
                **({"is_quarantined": True} if quarantine else {}),
            },
            reason=failure.sentence,
            error_code=failure.code,
            error_message=failure.sentence,
            final_output=partial_output,
            quarantine_reason=quarantine,
        )

    def will_fail(self, failure: Failure) -> None:
        """Say so before the end: the gateway cancels what is under way, and it fails even if the runner dies now.

        Raises `TransitionLost`.
        """
        mine = self._rows().filter(status=Status.RUNNING, attempt=self.attempt, lease_worker=self.lease_worker)
        if not mine.update(error_code=failure.code, error_message=failure.sentence):
            raise TransitionLost("The execution is another runner's by now.")

    def stop(self, *, partial_output: str = "") -> None:
        """A person asked for it; what was finished is kept."""
        self._move_to(
            Status.STOPPED,
            "execution.stopped",
            {"error_code": ErrorCode.STOPPED_BY_USER.value},
            reason=str(ErrorCode.STOPPED_BY_USER.label),
            error_code=ErrorCode.STOPPED_BY_USER,
            error_message=str(ErrorCode.STOPPED_BY_USER.label),
            final_output=partial_output,
        )

    def pause(self) -> None:
        """The engine has ended at a person's request; finished tasks are kept."""
        data = {"at_once": self.pause_at_once}
        self._move_to(Status.PAUSED, "execution.paused", data, reason=_("A person paused the run."), **_NOTHING_ASKED)

    def wait_for_people(self) -> None:
        """The engine has ended because nothing goes on without an answer.

        When an answer came while it still ran, it goes back into the queue at once: what that answer
        lets go on need not wait for the other questions.
        """
        with transaction.atomic():
            self.hold()
            began = self.attempts.values("started_at").get(number=self.attempt)["started_at"]
            is_open = self.approvals.filter(status=Approval.Status.OPEN).exists()
            if is_open and not self.approvals.filter(answered_at__gt=began).exists():
                self._move_to(
                    Status.WAITING,
                    "execution.waiting",
                    {"for": WaitingFor.APPROVAL.value},
                    reason=_("It needed a person's answer to go on."),
                    waiting_for=WaitingFor.APPROVAL,
                )
            else:
                reason = _("It needed a person's answer to go on, which came before its end.")
                self._move_to(Status.PENDING, "execution.resumed", {"reason": reason}, reason=reason)

    def wait_for_budget(self, *, sentence: str, usd: Any = None, tokens: int | None = None) -> None:
        """Its next call would pass a limit; `usd` and `tokens` are what that call needs."""
        data = {"for": WaitingFor.BUDGET.value, "message": sentence}
        self._move_to(
            Status.WAITING,
            "execution.waiting",
            data,
            reason=sentence,
            waiting_for=WaitingFor.BUDGET,
            needs_usd=usd,
            needs_tokens=tokens,
        )

    def recover(
        self,
        *,
        reason: str,
        failure: Failure | None = None,
        is_blameless: bool = False,
        partial_output: str = "",
    ) -> None:
        """Its runner or engine is gone: back into the queue for the next attempt, from the last finished task.

        `reason` is a sentence for people. After `max_attempts` recoveries since a person last started
        it, it is quarantined as `failure` instead. `is_blameless`: the worker was told to end, which
        counts for nothing. A run that somebody asked to stop stops, and one that was to fail fails, with
        `partial_output`.
        Raises `TransitionLost`.
        """
        with transaction.atomic():
            self.hold()  # or a stop that is asked for in this moment would be overlooked, and nobody would obey it
            if self.stop_requested_at is not None:
                self.stop(partial_output=partial_output)
                return
            if self.error_code:
                self.fail(Failure(ErrorCode(self.error_code), self.error_message), partial_output=partial_output)
                return
            count = self.recoveries + (0 if is_blameless else 1)
            if count > self.max_attempts:
                failure = failure or Failure(ErrorCode.WORKER_LOST, reason)
                sentence = _("%(why)s It has been started again %(count)s times, so now a person has to look at it.")
                sentence %= {"why": failure.sentence, "count": self.recoveries}
                self.fail(Failure(failure.code, sentence), partial_output=partial_output, quarantine=sentence)
                return
            wait = BACKOFF[min(max(count - 1, 0), len(BACKOFF) - 1)]
            self._move_to(
                Status.PENDING,
                "execution.recovered",
                {"reason": reason, "attempt": self.attempt, "recoveries": count, "delay_seconds": wait.total_seconds()},
                reason=reason,
                recoveries=count,
                not_before=Now() + wait if wait else None,
            )

    # --- People's moves -------------------------------------------------------------------------

    def resume(self, *, by: "User | None") -> None:
        """A paused execution goes on from its last finished task; one that still runs is asked to pause no more."""
        if self.status == Status.RUNNING and self._take_back_pause():
            return
        if self.status != Status.PAUSED:
            raise InvalidTransition(
                _("Only a paused run can be resumed."), hint=_("A run that failed or was stopped can be retried.")
            )
        self._move_to(Status.PENDING, "execution.resumed", _by(by), recoveries=0, **_NOTHING_ASKED)

    def _take_back_pause(self) -> bool:
        """Whether it was asked to pause and has not yet. An engine that ends by it all the same is started again."""
        asked = self._rows().filter(status=Status.RUNNING).exclude(pause_requested_at=None)
        taken = asked.update(pause_requested_at=None, pause_requested_by=None, pause_at_once=False)
        self.refresh_from_db()
        return bool(taken)

    def answered(self, *, by: "User | None") -> None:
        """A question it waited for was answered. Does nothing while it is not waiting for people.

        Call it in the transaction that answers, with the execution locked.
        """
        if self.status == Status.WAITING and self.waiting_for == WaitingFor.APPROVAL:
            self._move_to(Status.PENDING, "execution.resumed", _by(by), recoveries=0, **_NO_WAIT)

    def afforded(self, *, by: "User | None" = None) -> None:
        """The limit it waited for leaves room again. Does nothing while it is not waiting for a budget."""
        if self.status == Status.WAITING and self.waiting_for == WaitingFor.BUDGET:
            data = {"reason": _("The budget leaves room again."), **_by(by)}
            self._move_to(Status.PENDING, "execution.resumed", data, recoveries=0, **_NO_WAIT)

    def expire(self, *, sentence: str) -> None:
        """Nobody answered in time."""
        self.fail(Failure(ErrorCode.TIMED_OUT, sentence))

    def retry(self, *, by: "User | None") -> None:
        """A failed or stopped execution starts again from its last finished task; time and calls count anew."""
        if self.status not in {Status.FAILED, Status.STOPPED}:
            raise InvalidTransition(
                _("Only a run that failed or was stopped can be retried."),
                hint=_("Resume a paused run, or start a new one."),
            )
        self._move_to(
            Status.PENDING,
            "execution.queued",
            {"is_retry": True, **_by(by)},
            ended_at=None,
            error_code="",
            error_message="",
            final_output="",
            quarantine_reason="",
            recoveries=0,
            restarted_attempt=self.attempt,
            calls_before_restart=F("llm_calls_count"),
            not_before=None,
            queue_rank=self.rank(self.priority, timezone.now()),  # type: ignore[attr-defined]
            **_NOTHING_ASKED,
        )

    def request_stop(self, *, by: "User | None") -> None:
        """Ask for a stop: at once when nothing runs yet, else the runner obeys. Safe to repeat.

        Raises `InvalidTransition` when the execution has ended.
        """
        with transaction.atomic():
            # Locked, or an answer or a runner in this moment would leave a request that nobody obeys.
            self._rows().select_for_update(no_key=True).values_list("pk").get()
            self.refresh_from_db()
            if self.status in ENDED:
                raise InvalidTransition(
                    _("This execution has already ended."), hint=_("There is nothing left to stop.")
                )
            if self.stop_requested_at is None:
                self._rows().update(stop_requested_at=Now(), stop_requested_by=by)
                self.refresh_from_db()
            if self.status != Status.RUNNING:
                self.stop()

    def request_pause(self, *, by: "User | None", at_once: bool = False) -> None:
        """Ask a running execution to pause: when its current tasks are finished, or at once. Safe to repeat.

        Raises `InvalidTransition` when it does not run.
        """
        if self.status != Status.RUNNING:
            raise InvalidTransition(
                _("Only a running run can be paused."), hint=_("A run that has not started yet can be stopped.")
            )
        asked = {"pause_requested_by": by, **({"pause_at_once": True} if at_once else {})}
        won = self._rows().filter(status=Status.RUNNING, stop_requested_at=None)
        if not won.update(pause_requested_at=Now(), **asked):
            raise TransitionLost(_("The run has ended or is stopping."))
        self.refresh_from_db()

    # --- How a move is made ---------------------------------------------------------------------

    def _rows(self) -> Any:
        return type(self)._default_manager.filter(pk=self.pk)

    def hold(self) -> None:
        """Lock the execution's row until the transaction ends, and read it again.

        Raises `TransitionLost` when it is at another attempt or under another runner's lease by now.
        """
        # Rows that point to it may be added meanwhile.
        found = self._rows().select_for_update(no_key=True).values_list("attempt", "lease_worker").get()
        if found != (self.attempt, self.lease_worker):
            raise TransitionLost("The execution is at another attempt by now.")
        self.refresh_from_db()

    def _move_to(
        self,
        status: Status,
        event: str,
        data: dict[str, Any],
        *,
        expect: dict[str, Any] | None = None,
        reason: str = "",
        **changes: Any,
    ) -> None:
        """Make one move of the table. `reason`: why the attempt that ends with it ends, for people."""
        old = Status(self.status)
        if status not in TRANSITIONS[old]:
            raise InvalidTransition(
                f"An execution that is {old.value} cannot become {status.value}.",
                hint="Read the execution again: somebody may have moved it.",
            )
        if old == Status.RUNNING:
            changes |= {"lease_worker": "", "lease_until": None}
        if old == Status.WAITING:
            changes |= _NO_WAIT
        if status in ENDED:
            changes["ended_at"] = Now()
        expected = {"attempt": self.attempt, **(expect or {})}
        if old == Status.RUNNING:
            expected["lease_worker"] = self.lease_worker
        attempt = changes.get("attempt", self.attempt)
        with transaction.atomic():
            if not self._rows().filter(status=old, **expected).update(status=status, **changes):
                raise TransitionLost(f"The execution was no longer {old.value}.")
            if old == Status.RUNNING:
                self._end_attempt(status, reason)
            if status in ENDED:
                self.approvals.filter(status=Approval.Status.OPEN).update(
                    status=Approval.Status.CANCELLED, answered_at=Now()
                )
            if old in ENDED:
                self.task_runs.filter(~Q(status=TaskRun.Status.COMPLETED)).update(
                    status=TaskRun.Status.PENDING, started_at=None, ended_at=None, output="", error=""
                )
            events.append(self.stream_id, [events.NewEvent(event, data=data, attempt=attempt)])
            hooks.moved(self.pk, status)
        self.refresh_from_db()

    def _end_attempt(self, status: Status, reason: str) -> None:
        """What was under way ends with the attempt, or waits for the next one."""
        cut_off = self.task_runs.filter(status=TaskRun.Status.RUNNING)
        if status in ENDED:
            ended_as = TaskRun.Status.STOPPED if status == Status.STOPPED else TaskRun.Status.FAILED
            cut_off.update(status=ended_as, ended_at=Now())
        else:
            # A task that a passing fault cut off is done again, and one that failed with its engine too.
            self.task_runs.filter(status__in=[TaskRun.Status.RUNNING, TaskRun.Status.FAILED]).update(
                status=TaskRun.Status.PENDING, started_at=None, ended_at=None, output="", error=""
            )
        outcome = Status.FAILED if status == Status.PENDING else status
        self.attempts.filter(number=self.attempt, ended_at=None).update(ended_at=Now(), outcome=outcome, reason=reason)


def _by(person: "User | None") -> dict[str, Any]:
    return {"by": person.get_username()} if person else {}

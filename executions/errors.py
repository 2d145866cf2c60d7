"""Why a run failed: every `error_code`, its plain sentence and what to do about it."""

from dataclasses import dataclass

from django.db import models
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from portal.lib.problems import Conflict


class ErrorCode(models.TextChoices):
    """The codes; stable, for programs. The label is the sentence for people."""

    LLM_UNAVAILABLE = "llm_unavailable", _("The model could not be reached.")
    LLM_TIMEOUT = "llm_timeout", _("The model took too long to answer.")
    LLM_RATE_LIMITED = "llm_rate_limited", _("The model's provider refused more requests for now.")
    LLM_AUTH = "llm_auth", _("The model's provider did not accept the key.")
    LLM_BAD_OUTPUT = "llm_bad_output", _("The model's answer could not be used.")
    CONTEXT_TOO_LONG = "context_too_long", _("The text was longer than the model can read.")
    BUDGET_EXCEEDED = "budget_exceeded", _("The run reached its limit.")
    TOOL_FAILED = "tool_failed", _("A tool that an agent called failed.")
    ENGINE_CRASHED = "engine_crashed", _("The engine process ended unexpectedly.")
    ENGINE_MISSING = "engine_missing", _("The engine is not installed on this machine.")
    WORKER_LOST = "worker_lost", _("The worker that carried the run disappeared.")
    TIMED_OUT = "timed_out", _("The run took longer than its time limit.")
    INVALID_INPUT = "invalid_input", _("What the run was given could not be used.")
    STOPPED_BY_USER = "stopped_by_user", _("A person stopped the run.")
    INTERNAL = "internal", _("Something in the portal itself went wrong.")

    @property
    def steps(self) -> list[Promise]:
        """What to do, most promising first."""
        return STEPS[self]

    @property
    def is_passing(self) -> bool:
        """Whether the same request may succeed a moment later, so that it is worth a retry."""
        return self in {ErrorCode.LLM_UNAVAILABLE, ErrorCode.LLM_TIMEOUT, ErrorCode.LLM_RATE_LIMITED}


_run_again = _("Run it again with the same inputs.")
STEPS: dict[ErrorCode, list[Promise]] = {
    ErrorCode.LLM_UNAVAILABLE: [
        _("Look at the model's health on the Models page, and test its provider."),
        _("Give the agent another model, or the model a fallback."),
        _run_again,
    ],
    ErrorCode.LLM_TIMEOUT: [_run_again, _("Give the agent a faster model, or ask for a shorter answer.")],
    ErrorCode.LLM_RATE_LIMITED: [
        _("Wait a few minutes, then run it again."),
        _("Lower “requests at once” of the model, or give it a fallback."),
    ],
    ErrorCode.LLM_AUTH: [_("Ask an admin to check the provider's API key, and test the provider."), _run_again],
    ErrorCode.LLM_BAD_OUTPUT: [
        _run_again,
        _("Give the agent a stronger model, or make its task simpler and its expected output more exact."),
    ],
    ErrorCode.CONTEXT_TOO_LONG: [
        _("Shorten the inputs, or let tasks take less context."),
        _("Give the agent a model with a larger context window."),
    ],
    ErrorCode.BUDGET_EXCEEDED: [_("Raise the crew's limit, or give its agents fewer steps, then run it again.")],
    ErrorCode.TOOL_FAILED: [_("Read the tool's error in the events, mend its input, then run it again.")],
    ErrorCode.ENGINE_CRASHED: [_run_again, _("If it happens again, give the log of the attempt to an admin.")],
    ErrorCode.ENGINE_MISSING: [
        _("Ask an admin to run “manage.py engine install metagpt” where the worker runs, then run it again."),
        _("“manage.py engine status” says which engines a machine has."),
    ],
    ErrorCode.WORKER_LOST: [_run_again],
    ErrorCode.TIMED_OUT: [_("Raise the crew's time limit, or make its tasks smaller, then run it again.")],
    ErrorCode.INVALID_INPUT: [_("Mend what is named above, then run it again.")],
    ErrorCode.STOPPED_BY_USER: [_run_again],
    ErrorCode.INTERNAL: [_run_again, _("If it happens again, give the run's id to an admin.")],
}


@dataclass(frozen=True)
class Failure:
    """Why an attempt ended badly: a code, and a sentence that may say more than the code's own."""

    code: ErrorCode
    message: str = ""

    @property
    def sentence(self) -> str:
        return self.message or str(self.code.label)


class InvalidTransition(Conflict):
    """The status machine has no such move."""

    code = "invalid_transition"


class TransitionLost(Conflict):
    """Somebody else moved the execution after it was read."""

    code = "transition_lost"

"""What every runner looks after beside its runs. Each step is won by one of them, so that several do no harm."""

import contextlib

from django.db import transaction
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from executions.errors import InvalidTransition, TransitionLost
from executions.models import Approval, Execution

AT_ONCE = 100  # questions looked at in one go; the rest have their turn a moment later


def expire_approvals() -> int:
    """End the runs whose questions nobody has answered in time; how many questions that were."""
    late = Approval.objects.filter(status=Approval.Status.OPEN, expires_at__lte=Now())
    return sum(_expire(approval) for approval in late.order_by("expires_at")[:AT_ONCE])


def _expire(approval: Approval) -> bool:
    gone = (TransitionLost, InvalidTransition, Execution.DoesNotExist)
    with contextlib.suppress(*gone), transaction.atomic():
        execution = Execution.objects.select_for_update(no_key=True).get(pk=approval.execution_id)
        still_open = Approval.objects.filter(pk=approval.pk, status=Approval.Status.OPEN, expires_at__lte=Now())
        if still_open.update(status=Approval.Status.EXPIRED, answered_at=Now(), remind_at=None):
            execution.expire(
                sentence=_("Nobody answered the question about “%(name)s” in time.") % {"name": approval.name}
            )
            return True
    return False

"""Reserving from budgets before a request, and settling after it: the statements behind `executions.budgets`."""

import uuid
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from django.db import connection

from executions.budgets import Amount
from executions.models import Budget, Execution
from executions.status import Status
from portal.lib import rows

# The values beside a column are text to SQLite, so they are made numbers; and its sums are floating, so
# they are rounded to what the columns keep.
_RESERVE = """
UPDATE executions_budget
   SET reserved_usd = ROUND(reserved_usd + CAST(%s AS NUMERIC), 8), reserved_tokens = reserved_tokens + %s
 WHERE id IN ({ids})
   AND (limit_usd IS NULL OR CAST(%s AS NUMERIC) = 0
        OR ROUND(spent_usd + reserved_usd + CAST(%s AS NUMERIC), 8) <= limit_usd)
   AND (limit_tokens IS NULL OR spent_tokens + reserved_tokens + %s <= limit_tokens)
"""
_SETTLE = """
UPDATE executions_budget
   SET reserved_usd = ROUND(reserved_usd - CAST(%s AS NUMERIC), 8), reserved_tokens = reserved_tokens - %s,
       spent_usd = ROUND(spent_usd + CAST(%s AS NUMERIC), 8), spent_tokens = spent_tokens + %s
 WHERE id IN ({ids})
"""
# A run's own: counts the call and reserves, where the token's attempt is running and within its limits.
_RESERVE_OWN = """
UPDATE executions_execution
   SET llm_calls_count = llm_calls_count + 1,
       reserved_usd = ROUND(reserved_usd + CAST(%s AS NUMERIC), 8), reserved_tokens = reserved_tokens + %s
 WHERE id = %s AND status = %s AND attempt = %s AND stop_requested_at IS NULL
   AND llm_calls_count - calls_before_restart < max_llm_calls
   AND (budget_usd IS NULL OR CAST(%s AS NUMERIC) = 0
        OR ROUND(cost_usd + reserved_usd + CAST(%s AS NUMERIC), 8) <= budget_usd)
   AND (budget_tokens IS NULL OR prompt_tokens + completion_tokens + reserved_tokens + %s <= budget_tokens)
RETURNING roles_version, budget_usd, budget_tokens
"""
_SETTLE_OWN = """
UPDATE executions_execution
   SET reserved_usd = ROUND(reserved_usd - CAST(%s AS NUMERIC), 8), reserved_tokens = reserved_tokens - %s,
       cost_usd = ROUND(cost_usd + CAST(%s AS NUMERIC), 8),
       prompt_tokens = prompt_tokens + %s, completion_tokens = completion_tokens + %s,
       unpriced_calls = unpriced_calls + %s
 WHERE id = %s
RETURNING status
"""


def reserve_own(execution: uuid.UUID, attempt: int, most: Amount) -> tuple[int, bool] | None:
    """Count a call of a running attempt and reserve the `most` it may use, on the run itself. One statement.

    Returns the run's `roles_version` and whether it has limits of its own; None when the attempt is over
    or stopping, or a limit leaves no room.
    """
    usd, tokens = most.usd, most.tokens
    key = rows.key(Execution, execution)
    with connection.cursor() as cursor:
        cursor.execute(_RESERVE_OWN, [usd, tokens, key, Status.RUNNING, attempt, usd, usd, tokens])
        found = cursor.fetchone()
    # SQLite 3.40 says of every column that it returns that it IS NOT NULL, so that is asked here.
    return None if found is None else (int(found[0]), found[1] is not None or found[2] is not None)


def settle_own(
    execution: uuid.UUID,
    reserved: Amount,
    *,
    prompt_tokens: int,
    completion_tokens: int,
    cost_usd: Decimal,
    is_unpriced: bool,
) -> str | None:
    """Give a call's reserve back and add what it used to the run's totals.

    Returns the run's status, None when the run was deleted.
    """
    used = [cost_usd, prompt_tokens, completion_tokens, int(is_unpriced)]
    found = rows.one(_SETTLE_OWN, [reserved.usd, reserved.tokens, *used, rows.key(Execution, execution)])
    return found[0] if found else None


def reserve(budgets: Sequence[str], most: Amount) -> bool:
    """Reserve `most` on all of `budgets` (ids); False when one leaves no room: then roll back."""
    if not budgets:
        return True
    keys = _locked(budgets)
    sql = _RESERVE.format(ids=", ".join(["%s"] * len(keys)))
    usd, tokens = most.usd, most.tokens
    return rows.execute(sql, [usd, tokens, *keys, usd, usd, tokens]) == len(keys)


def settle(budgets: Sequence[str], reserved: Amount, used: Amount) -> None:
    """Give a reserve back on all of `budgets` (ids) that are still there, and add what was used."""
    if not budgets:
        return
    keys = _locked(budgets)
    sql = _SETTLE.format(ids=", ".join(["%s"] * len(keys)))
    rows.execute(sql, [reserved.usd, reserved.tokens, used.usd, used.tokens, *keys])


def _locked(budgets: Sequence[str]) -> list[Any]:
    """The keys of `budgets`; several are locked in the order of their ids, as one UPDATE would not promise."""
    ids = sorted(uuid.UUID(name) for name in budgets)
    if len(ids) > 1 and connection.features.has_select_for_update:
        list(Budget.objects.select_for_update().filter(pk__in=ids).order_by("pk").values_list("pk"))
    return [rows.key(Budget, one) for one in ids]

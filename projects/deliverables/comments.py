"""What people say about versions."""

from django.core.exceptions import ValidationError
from django.db import transaction

from executions.events import plain
from portal.accounts import audit
from portal.accounts.models import User
from portal.lib.problems import InvalidValues, model_errors
from projects.models import Comment, Deliverable


def add(deliverable: Deliverable, by: User, text: str) -> Comment:
    """Say `text` about a version. Whoever calls has made sure that `by` sees it. Raises `InvalidValues`."""
    comment = Comment(deliverable=deliverable, author=by, text=plain(text).strip())
    try:
        comment.full_clean(exclude=["deliverable", "author"])
    except ValidationError as exc:
        raise InvalidValues(model_errors(exc)) from exc
    with transaction.atomic():
        comment.save(force_insert=True)
        audit.record("deliverable.commented", by=by, target=deliverable, after={"version": deliverable.version})
    return comment

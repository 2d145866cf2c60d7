"""What people and programs do with projects. Pages, API and commands all call these.

Whoever calls has made sure that the person may do it (`permissions.find`); what only the gate of a stage
knows (who may review it) is settled here. Every function locks the project's row first, reads what it needs
anew, and tells the audit log and the project's event stream in the same transaction.
"""

from projects.actions.attachments import attach, detach
from projects.actions.gates import (
    add_deliverable,
    edit_deliverable,
    may_review,
    review,
    review_stage,
    reviewers,
)
from projects.actions.life import cancel, force_complete, pause, restart, start
from projects.actions.making import archive, create, delete, duplicate, update
from projects.actions.people import delegate, escalate_due, set_approvers
from projects.actions.roles import set_mappings
from projects.actions.rollback import roll_back
from projects.actions.runs import settle, settle_all
from projects.actions.stages import complete_stage, set_stage, start_stage
from projects.actions.templating import copy_template, delete_template, save_as_template, save_template

__all__ = [
    "add_deliverable",
    "archive",
    "attach",
    "cancel",
    "complete_stage",
    "copy_template",
    "create",
    "delegate",
    "delete",
    "delete_template",
    "detach",
    "duplicate",
    "edit_deliverable",
    "escalate_due",
    "force_complete",
    "may_review",
    "pause",
    "restart",
    "review",
    "review_stage",
    "reviewers",
    "roll_back",
    "save_as_template",
    "save_template",
    "set_approvers",
    "set_mappings",
    "set_stage",
    "settle",
    "settle_all",
    "start",
    "start_stage",
    "update",
]

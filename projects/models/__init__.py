"""A requirement, the stages it is worked through, and what comes out."""

from projects.models.deliverable import Comment, Deliverable, DeliverableAccess, DeliverableFile
from projects.models.project import Attachment, Project, RoleLLMMapping
from projects.models.review import Approver, Review
from projects.models.stage import Stage, StageRun
from projects.models.template import Template

__all__ = [
    "Approver",
    "Attachment",
    "Comment",
    "Deliverable",
    "DeliverableAccess",
    "DeliverableFile",
    "Project",
    "Review",
    "RoleLLMMapping",
    "Stage",
    "StageRun",
    "Template",
]

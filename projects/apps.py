from typing import TYPE_CHECKING, cast

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
    from portal.accounts.models import Guarded


class ProjectsConfig(AppConfig):
    """What runs produce: projects, their stages, deliverables and reviews."""

    name = "projects"

    def ready(self) -> None:
        from executions import hooks
        from portal.accounts import audit, sharing
        from portal.accounts.signals import user_deactivated
        from projects import actions, extensions
        from projects.models import Project, Template

        sharing.register(Project, noun=_("Project"))
        # Those that come along belong to nobody, and nothing asks for them by their access list.
        sharing.register(cast("type[Guarded]", Template), noun=_("Template"))
        hooks.on_move(extensions.run_moved)
        hooks.add_chore(actions.settle_all)
        hooks.add_chore(actions.escalate_due)
        hooks.guard_deletion(extensions.refuse_while_of_a_stage)
        user_deactivated.connect(extensions.forget_the_deactivated)
        audit.follow(Template, noun="template", ignore=["updated_at"])

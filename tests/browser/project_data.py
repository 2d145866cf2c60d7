"""A project in review with documents and code, and the templates; runs in a process of its own, in the stack's
environment. Prints the ids of what was made, as JSON."""

import json

import django


def main() -> None:
    django.setup()
    print(json.dumps(make()))


def make() -> dict[str, str]:
    from django.utils import timezone

    from crews.seed import seed_catalog
    from portal.accounts.models import AccessGrant, User
    from projects.library import seed_templates
    from projects.models import Comment, Review
    from projects.status import ProjectStatus, StageStatus
    from tests.factories.projects import deliverable_of, staged_project

    seed_catalog()
    seed_templates()
    ann, vera = User.objects.get(username="ann"), User.objects.get(username="vera")
    project = staged_project(
        access__owner=ann, name="Herb list", requirement="# A list\n\nOf herbs.", status=ProjectStatus.REVIEW
    )
    AccessGrant.objects.create(access=project.access, user=vera, level="viewer")
    stages = {stage.stage_name: stage for stage in project.stages.all()}
    first, design, development = stages["requirement"], stages["design"], stages["development"]
    document = deliverable_of(
        first, title="Herb requirements", content="# Goals\n\n| a | b |\n|---|---|\n| 1 | 2 |", status="approved"
    )
    Review.objects.create(deliverable=document, reviewer=ann, decision="approved", sha256=document.sha256)
    Comment.objects.create(deliverable=document, author=ann, text="Read it.")
    first.stage_status, first.start_date, first.end_date = StageStatus.COMPLETED, timezone.now(), timezone.now()
    first.save()
    drawing = deliverable_of(design, title="Herb design", content="# Beds", status="review")
    design.stage_status, design.review_since = StageStatus.REVIEW, timezone.now()
    design.save()
    checks = {
        "syntax_ok": True, "ran": True, "exit_code": 0, "tests_run": 2, "tests_failed": 0,
        "problems": ["herbs/store.py: nothing uses json"],
    }  # fmt: skip
    code = deliverable_of(
        development, type="code", title="Herb code", content="Two files.", status="review",
        files=[{"path": "herbs/store.py", "content": "import json\n\n\nclass Store:\n    '''Herbs.'''\n"},
               {"path": "main.py", "content": "print('sage')  # a herb\n"}],
        metadata={"checks": checks},
    )  # fmt: skip
    development.stage_status, development.review_since, development.quorum = StageStatus.REVIEW, timezone.now(), 2
    development.save()
    return {
        "project": str(project.pk),
        "stage": str(development.pk),
        "document": str(document.pk),
        "design": str(drawing.pk),
        "code": str(code.pk),
    }


if __name__ == "__main__":
    main()

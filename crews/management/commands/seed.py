"""`manage.py seed`: the catalog, and the demo crews for a new portal."""

from typing import Any

from django.core.management.base import BaseCommand

from crews.models import Crew
from crews.seed import seed_catalog, seed_demo
from portal.accounts.models import Role, User


class Command(BaseCommand):
    help = "Add what a new portal starts with: the model catalog, the builtin tools and, with an admin, the demo crews."

    def handle(self, *args: Any, **options: Any) -> None:
        seed_catalog()
        self.stdout.write("The catalog is there.")
        admin = User.objects.filter(role=Role.ADMIN, is_active=True).order_by("date_joined").first()
        if admin is None:
            self.stdout.write("There is no admin yet, so the demo crews wait for one.")
        elif not Crew.objects.exists():  # demo crews that were deleted do not come back
            for crew in seed_demo(admin):
                self.stdout.write(f"Made the crew “{crew.name}”.")

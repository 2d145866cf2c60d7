from django.apps import AppConfig


class SiteConfig(AppConfig):
    """The pages that look across everything, and the commands that start it."""

    name = "portal.site"

    def ready(self) -> None:
        from portal.site import checks  # noqa: F401 - registers the checks

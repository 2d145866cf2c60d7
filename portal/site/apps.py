from django.apps import AppConfig
from django.contrib.admin import apps as admin


class SiteConfig(AppConfig):
    """The pages that look across everything, and the commands that start it."""

    name = "portal.site"
    default = True

    def ready(self) -> None:
        from portal.site import checks  # noqa: F401 - registers the checks


class AdminConfig(admin.AdminConfig):
    """Django admin, behind our own door."""

    default = False  # only the settings name it
    default_site = "portal.site.admin_site.PortalAdminSite"

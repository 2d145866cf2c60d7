from django.apps import AppConfig


class AccountsConfig(AppConfig):
    """Who may enter and what they may do."""

    name = "portal.accounts"
    label = "accounts"

    def ready(self) -> None:
        from portal.accounts.audit import following

        following.follow_admin()

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    """Who may enter and what they may do."""

    name = "portal.accounts"
    label = "accounts"

    def ready(self) -> None:
        from portal.accounts.audit import following
        from portal.accounts.oidc.renewal import KeptTokens
        from portal.lib import rotation

        following.follow_admin()
        rotation.register(KeptTokens())

"""Everybody who asks: what they are, and what they show at the door."""

from dataclasses import dataclass

RANKS = {"public": 0, "viewer": 1, "user": 2, "admin": 3}
# The role above which a key with this scope alone never acts.
CAPS = {"read": "viewer", "run": "user", "write": "user", "admin": "admin"}


@dataclass(frozen=True)
class Who:
    """Somebody who asks.

    `person` names whose credential it is (None: nobody's), `role` that person's stored role. `shows` is how
    they say who they are: nothing, a session's cookie, an API key in its own or in the Bearer form, a token of
    the identity provider, or something that opens nothing. `scopes` are a key's; None: all that the person may.
    """

    name: str
    person: str | None = None
    role: str = "public"
    shows: str = "nothing"
    scopes: frozenset[str] | None = None
    with_cookie: bool = False  # of a session that is good

    @property
    def is_good(self) -> bool:
        """Whether what they show opens anything."""
        return self.shows in {"session", "key", "key as bearer", "token"}

    @property
    def acts_as(self) -> str:
        """The role they act with in the API: their own, or what the credential allows where that is less."""
        if not self.is_good:
            return "public"
        if self.scopes is None:
            return self.role
        cap = max((CAPS[scope] for scope in self.scopes), key=RANKS.__getitem__)
        return min(self.role, cap, key=RANKS.__getitem__)

    @property
    def acts_on_pages_as(self) -> str:
        """On pages only a session counts; a header says nothing there."""
        return self.role if self.shows == "session" or self.with_cookie else "public"

    def has_scope(self, scope: str) -> bool:
        """Every scope lets read, and `admin` all."""
        return self.scopes is None or scope == "read" or scope in self.scopes or "admin" in self.scopes

    def has_role(self, role: str) -> bool:
        return RANKS[self.acts_as] >= RANKS[role]


def _key(name: str, person: str, role: str, *scopes: str, shows: str = "key") -> Who:
    return Who(name, person, role, shows, frozenset(scopes))


EVERYBODY = [
    Who("anonymous"),
    Who("viewer", "viewer", "viewer", "session"),
    Who("user", "user", "user", "session"),
    Who("other user", "stranger", "user", "session"),
    Who("editor", "editor", "user", "session"),
    Who("reader", "reader", "user", "session"),
    Who("invited", "invited", "user", "session"),
    Who("viewer made editor", "vieweditor", "viewer", "session"),
    Who("admin", "admin", "admin", "session"),
    _key("key: read", "user", "user", "read"),
    _key("key: run", "user", "user", "run"),
    _key("key: write", "user", "user", "write"),
    _key("key: run and write", "user", "user", "run", "write", shows="key as bearer"),
    _key("key: admin", "user", "user", "admin"),
    _key("viewer's key: admin", "viewer", "viewer", "admin"),
    _key("admin's key: read", "admin", "admin", "read"),
    _key("admin's key: write", "admin", "admin", "write"),
    _key("admin's key: admin", "admin", "admin", "admin"),
    # What a token may be used for follows from the role that it says.
    Who("bearer", "user", "user", "token", frozenset({"read", "run", "write"})),
    Who("admin's bearer", "admin", "admin", "token"),
    Who("inactive: session", "inactive", "user", "session of nobody active"),
    Who("inactive: key", "inactive", "user", "key of nobody active"),
    Who("inactive: bearer", "inactive", "user", "token of nobody active"),
    Who("revoked key", "user", "user", "revoked key"),
    Who("expired key", "user", "user", "expired key"),
    Who("revoked key, good session", "user", "user", "revoked key", with_cookie=True),
    Who("run token", "user", "user", "run token"),
    Who("run token, good session", "user", "user", "run token", with_cookie=True),
    Who("name and password", "user", "user", "basic"),
]
BY_NAME = {who.name: who for who in EVERYBODY}

PERSONS = {
    "viewer": "viewer",
    "user": "user",
    "stranger": "user",
    "editor": "user",
    "reader": "user",
    "vieweditor": "viewer",
    "admin": "admin",
    "inactive": "user",
    "invited": "user",
    "maker": "user",
}

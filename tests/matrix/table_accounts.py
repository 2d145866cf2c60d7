"""The rows of accounts: entering, what is one's own, sharing, and what admins do with people. Pages and API."""

from tests.matrix.rules import CROSSED, Cell, Route, api, page

SPARE = {"pk": "spare"}
KEY, SESSION, ASKED = {"pk": "key"}, {"public_id": "session"}, {"pk": "invitation"}
ACCESS = {"pk": "access"}
# What is one's own, one also ends without more than the role `viewer`; a key needs the scope for all.
MINE = {"scope": "admin"}
LED = Cell(
    "admin", ok=(302,), is_blind=True
)  # where a form stands that came back with faults: to the page that it is on


def _share(ok: int = 302, **rest: object) -> Cell:
    """Lets people in, or takes that back: its owner and admins."""
    return Cell("user", "share", (ok,), **rest)  # type: ignore[arg-type]


def _ask_and_do(path: dict[str, str], asked: int = 200, done: int = 302) -> Route:
    return page(path, GET=Cell("admin", ok=(asked,)), POST=Cell("admin", ok=(done,)))


ENTERING: dict[str, Route] = {
    # Who is in already is led on; where nothing of the kind is offered, there is nothing (404).
    "accounts:sign-in": page(GET=Cell("public", ok=(200, 302)), POST=Cell("public", ok=(422, 302))),
    "accounts:sign-in-code": page(GET=Cell("public", ok=(302,)), POST=Cell("public", ok=(302,))),
    "accounts:sign-out": page(POST=Cell("public", ok=(302,))),
    "accounts:sign-up": page(GET=Cell("public", ok=(404,)), POST=Cell("public", ok=(404,))),
    "accounts:password-forgotten": page(GET=Cell("public", ok=(404,)), POST=Cell("public", ok=(404,))),
    "accounts:reset-confirm": page(
        {"uid": "nobody", "token": "nothing"}, things=(), GET=Cell("public", ok=(404,)), POST=Cell("public", ok=(404,))
    ),
    "accounts:preferences": page(POST=Cell("public", ok=(302,))),
    "oidc_authentication_init": page(GET=Cell("public", ok=(302,))),
    "oidc_authentication_callback": page(GET=Cell("public", ok=(302, 400))),
    # The identity provider says it, with a token of its own and no session.
    "oidc-backchannel-logout": page(POST=Cell("public", ok=(400,)), csrf=False),
}

OWN: dict[str, Route] = {
    "accounts:profile": page(GET=Cell(), POST=Cell(ok=(302, 422))),
    "accounts:password": page(GET=Cell(), POST=Cell(ok=(422,))),
    "accounts:second-factor": page(GET=Cell()),
    "accounts:second-factor-begin": page(POST=Cell(ok=(302,))),
    "accounts:second-factor-confirm": page(GET=Cell(ok=(302,)), POST=Cell(ok=(302, 422))),
    "accounts:second-factor-codes": page(GET=Cell(ok=(302,)), POST=Cell(ok=(302, 422))),
    "accounts:second-factor-remove": page(GET=Cell(ok=(302,)), POST=Cell(ok=(302, 422))),
    "accounts:keys": page(GET=Cell(lists=("key",), listed="self"), POST=Cell(ok=(422,))),
    "accounts:key-revoke": page(
        KEY, GET=Cell(action="see", side="self"), POST=Cell("viewer", "see", (302,), side="self")
    ),
    "accounts:sessions": page(GET=Cell(lists=("session",), listed="self")),
    "accounts:session-end": page(SESSION, POST=Cell("viewer", "see", (302,), side="self")),
    "accounts:sessions-end-others": page(POST=Cell(ok=(302,))),
    "accounts:invitations": page(GET=Cell(lists=("invitation",), listed="invited")),
    "accounts:invitation-answer": page(ASKED, POST=Cell("viewer", "see", (302,), side="invited")),
    "accounts:invitation": page(
        {"token": "link"},
        GET=Cell(action="see", side="invited"),
        POST=Cell("viewer", "see", (302,), side="invited"),
    ),
    "me": api(GET=Cell()),
    "api-key-list": api(GET=Cell(lists=("key",), listed="self"), POST=Cell(ok=(400,), **MINE)),
    "api-key-detail": api(
        KEY, GET=Cell(action="see", side="account"), DELETE=Cell("viewer", "see", (204,), side="account", **MINE)
    ),
    "session-list": api(GET=Cell(lists=("session",), listed="self")),
    "session-detail": api({"pk": "session"}, DELETE=Cell("viewer", "see", (204,), side="self", **MINE)),
    "session-end-others": api(POST=Cell(**MINE)),
    "invitation-list": api(GET=Cell(lists=("invitation",), listed="invited")),
    "invitation-detail": api(
        ASKED,
        GET=Cell(action="see", side="invitation"),
        DELETE=Cell("viewer", "take back", (204,), side="invitation"),
    ),
    "invitation-answer": api(ASKED, POST=Cell("viewer", "see", (400,), side="invited")),
    "invitation-answer-link": api(POST=Cell("viewer", ok=(400,))),
}


def _api_of_access(noun: str) -> dict[str, Route]:
    """Members, owner and invitations of a kind of thing: its owner and admins change them."""
    thing = {f"{noun}_id": noun}
    member = {**thing, "user_id": "member"}
    return {
        f"{noun}-members": api(thing, GET=Cell(action="see"), POST=Cell("viewer", "share", (400,))),
        f"{noun}-member": api(
            member,
            things=("granted", "missing", CROSSED),
            PATCH=Cell("viewer", "share", (400,)),
            DELETE=Cell("viewer", "leave", (204,), side="member"),
        ),
        f"{noun}-owner": api(thing, POST=Cell("viewer", "share", (400,))),
        f"{noun}-invitations": api(thing, GET=Cell("viewer", "share")),
    }


SHARING: dict[str, Route] = {
    "accounts:people-options": page(GET=Cell("user")),
    "accounts:access-visibility": page(ACCESS, POST=_share(body={"visibility": "shared"})),
    "accounts:access-invite": page(ACCESS, GET=_share(200), POST=_share(422)),
    "accounts:access-withdraw": page({**ACCESS, "invitation_pk": "invitation"}, POST=_share()),
    "accounts:access-member": page(
        {**ACCESS, "user_pk": "member"}, POST=_share(body={"level": "editor"}), things=("granted", "missing", CROSSED)
    ),
    "accounts:access-leave": page(
        {**ACCESS, "user_pk": "member"},
        POST=Cell("viewer", "leave", (302,), side="member"),
        things=("granted", "missing", CROSSED),
    ),
    "accounts:access-hand-on": page(ACCESS, GET=_share(200), POST=_share(422)),
    "found-user-list": api(GET=Cell("user", query="search=matrix")),
    **_api_of_access("crew"),
    **_api_of_access("agent"),
    **_api_of_access("project"),
}

PEOPLE: dict[str, Route] = {
    "accounts:user-list": page(GET=Cell("admin")),
    "accounts:user-create": page(GET=Cell("admin"), POST=Cell("admin", ok=(422,))),
    "accounts:service-create": page(GET=Cell("admin"), POST=Cell("admin", ok=(422,))),
    "accounts:user": page(SPARE, GET=Cell("admin")),
    "accounts:user-role": page(SPARE, GET=LED, POST=Cell("admin", ok=(422,))),
    "accounts:user-deactivate": _ask_and_do(SPARE),
    "accounts:user-reactivate": page(SPARE, POST=Cell("admin", ok=(302,))),
    "accounts:user-delete": _ask_and_do(SPARE),
    "accounts:user-link": page(SPARE, GET=LED, POST=Cell("admin", ok=(200, 201))),
    "accounts:user-factor-remove": page(SPARE, POST=Cell("admin", ok=(302,))),
    "accounts:user-hand-on": _ask_and_do(SPARE, done=422),
    "accounts:user-key-create": page({"pk": "service"}, GET=LED, POST=Cell("admin", ok=(422,))),
    "accounts:user-key-revoke": _ask_and_do({**SPARE, "key_pk": "spare_key"}),
    "accounts:user-sessions-end-all": page(SPARE, POST=Cell("admin", ok=(302,))),
    "accounts:user-session-end": page({**SPARE, "public_id": "spare_session"}, POST=Cell("admin", ok=(302,))),
    "accounts:user-identity-link": page(SPARE, GET=LED, POST=Cell("admin", ok=(422,))),
    "accounts:user-identity-unlink": page({**SPARE, "identity_pk": "identity"}, POST=Cell("admin", ok=(302,))),
    "accounts:audit-list": page(GET=Cell("admin")),
    "accounts:audit-entry": page({"pk": "entry"}, GET=Cell("admin")),
    "audit-list": api(GET=Cell("admin")),
    "audit-detail": api({"pk": "entry"}, GET=Cell("admin")),
    "audit-export": api(GET=Cell("admin")),
    "audit-head": api(GET=Cell("admin", ok=(200, 404))),  # 404: nothing has been sealed yet
    "user-list": api(GET=Cell("admin"), POST=Cell("admin", ok=(400,))),
    "user-detail": api(SPARE, GET=Cell("admin"), PATCH=Cell("admin"), DELETE=Cell("admin", ok=(204,))),
    "user-password-link": api(SPARE, POST=Cell("admin", ok=(201,))),
    "user-second-factor": api(SPARE, DELETE=Cell("admin", ok=(204,))),
    "user-identities": api(SPARE, GET=Cell("admin"), POST=Cell("admin", ok=(400,))),
    "user-identity": api({**SPARE, "identity": "identity"}, DELETE=Cell("admin", ok=(204,))),
}

ACCOUNTS: dict[str, Route] = {**ENTERING, **OWN, **SHARING, **PEOPLE}

"""What is asked about: crews and runs of several owners, and the strings by which each is known in an answer."""

import base64
import hashlib
import re
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.hashers import make_password
from django.utils import timezone

from crews.models import Agent, Crew, LLMModel, LLMProvider
from executions import actions, approvals, events
from executions.gateway import tokens
from executions.models import Approval, Budget, Execution, TaskRun
from portal.accounts import credentials, keys
from portal.accounts.models import AccessGrant, ApiKey, AuditEntry, Identity, Invitation, Scope, Session, User
from portal.accounts.sessions import SessionStore
from tests.factories.accounts import PASSWORD, UserFactory
from tests.factories.crews import LLMModelFactory, LLMProviderFactory, TaskFactory, ToolFactory, runnable_crew
from tests.factories.executions import LEASE, ApprovalFactory, LLMCallFactory
from tests.fakes.idp import FakeIdp
from tests.matrix.people import EVERYBODY, PERSONS, Who
from tests.matrix.rules import may
from tests.matrix.things_projects import MORE_WORDS, PARTS, add_project

# Names of things hold one of these; answers are searched for them and for ids.
KNOWN = re.compile(r"zq[a-z]+|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
NEVER = "zqneverseen"  # of a provider's key: nobody is shown it
MEMBER = "reader"  # whom addresses of members name
INVITED = "invited"  # to every crew, and to nothing else
# What gives a thing away, by the list that says who may see it: the crew's and its runs', the project's, who is
# invited, and what is the owner's own.
SIDES = {
    "crew": ("crew", "agent", "task", "input"),
    "run": ("run", "waiting", "approval"),
    "project": PARTS,
    "invitation": ("invitation",),
    "account": ("key", "session"),
}
_MORE_WORDS = {"run": ("work", "result", "running", "toldrun", "toldwaiting"), "project": MORE_WORDS}
SIDE_OF = {part: side for side, parts in SIDES.items() for part in parts}


@dataclass(eq=False)
class Thing:
    """A crew with all that belongs to it, and two runs of it: one that is finished and one that asks its owner;
    and a project with a template.

    Crew, project and template may be shared; runs of the crew are their starter's. `grants` (person → level) are
    of all.
    """

    name: str
    owner: str = ""
    is_shared: bool = False
    grants: Mapping[str, str] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)

    def level(self, side: str, person: str | None, role: str) -> str:
        """What somebody is to a side of it: owner (admins too), editor, viewer, or ""."""
        if role == "public" or person is None:
            return ""
        if person == self.owner:
            return "owner" if side != "invited" else ""
        if side in {"invitation", "invited"} and person == INVITED:
            return "viewer"
        if side in {"self", "invited"}:
            return ""
        if role == "admin":
            return "owner"
        if side in {"account", "invitation"}:
            return ""
        if side == "member" and person == MEMBER and person in self.grants:
            return "self"
        return self.grants.get(person, "viewer" if self.is_shared and side in {"crew", "project"} else "")

    def known_by(self, side: str) -> set[str]:
        """The strings that give a side of it away."""
        words = (*SIDES[side], *_MORE_WORDS.get(side, ()))
        return {f"zq{word}{self.mark}" for word in words} | {str(self.parts[part]) for part in SIDES[side]}

    @property
    def mark(self) -> str:
        return re.sub("[^a-z]", "", self.name)


def _things() -> list[Thing]:
    return [
        Thing("own", "user"),
        Thing("viewer's own", "viewer"),  # made while they still had the role `user`
        Thing("shared", "maker", is_shared=True),
        Thing("granted", "maker", grants={"editor": "editor", "reader": "viewer", "vieweditor": "editor"}),
        Thing("private", "maker"),
    ]


class World:
    """People with what they show, things, and a catalog. Made in the transaction of whoever asks for it."""

    def __init__(self, idp: FakeIdp) -> None:
        self._idp = idp
        self.people = {
            name: UserFactory(username=f"matrix-{name}", email=f"zqmail{name}@example.com", role=role)
            for name, role in PERSONS.items()
        }
        self._make_catalog()
        self.things = {thing.name: thing for thing in _things()}
        for thing in self.things.values():
            self._fill(thing)
        # A guest in the own crew: an agent of somebody else, who shares it.
        own, shared = (self.things[name].parts for name in ("own", "shared"))
        guest = Agent.objects.get(pk=shared["agent"])
        TaskFactory(crew=Crew.objects.get(pk=own["crew"]), agent=guest, name="Help")
        self.things["missing"] = Thing("missing", parts=_nothing(self.things["own"].parts))
        self.things["there"] = Thing("there", parts=self.catalog)
        self.things["missing"].parts |= _nothing(self.catalog)
        self._show()
        User.objects.filter(username="matrix-inactive").update(is_active=False)
        self._secrets: dict[tuple[str | None, str], frozenset[str]] = {}

    # --- Things ----------------------------------------------------------------------------------

    def _make_catalog(self) -> None:
        provider = LLMProviderFactory(name="zqprovider", api_key=NEVER)
        embedded = LLMProviderFactory(name="zqembedded", kind=LLMProvider.Kind.EMBEDDED)
        self.model: LLMModel = LLMModelFactory(id="embedded", provider=embedded)
        budget = Budget.objects.create(subject_id=self.people["maker"].pk, limit_tokens=10**9)
        spare = UserFactory(username="matrix-spare", email="zqmailspare@example.com")
        identity = Identity.objects.create(user=spare, issuer="https://idp.example", subject="spare")
        key, _ = keys.create(spare, name="zqkeyspare", scopes=[Scope.READ], by=spare)
        self.catalog = {
            "provider": provider.pk,
            "model": LLMModelFactory(id="matrix-model", provider=provider).pk,
            "tool": ToolFactory().pk,
            "budget": budget.pk,
            "spare": spare.pk,
            "service": User.objects.create(username="matrix-service", is_service=True, password=make_password(None)).pk,
            "identity": identity.pk,
            "spare_key": key.pk,
            "spare_session": Session.objects.get(session_key=self._session(spare)).public_id,
            "entry": AuditEntry.objects.order_by("pk").values_list("pk", flat=True).first(),
        }

    def _fill(self, thing: Thing) -> None:
        owner, mark = self.people[thing.owner], thing.mark
        visibility = "shared" if thing.is_shared else "private"
        crew = runnable_crew(owner=owner, model=self.model, name=f"zqcrew{mark}", visibility=visibility)
        agent, task, definition = crew.agents.get(), crew.tasks.get(), crew.inputs.get()
        type(agent.access).objects.filter(pk=agent.access_id).update(visibility=visibility)
        Agent.objects.filter(pk=agent.pk).update(role=f"zqagent{mark}")
        task.name, definition.field_label = f"zqtask{mark}", f"zqinput{mark}"
        task.save()
        definition.save()
        done, waiting = (self._run(crew, owner, f"zq{word}{mark}") for word in ("run", "waiting"))
        row: TaskRun = done.task_runs.get()
        done.task_runs.update(status=TaskRun.Status.COMPLETED, ended_at=timezone.now(), output=f"zqwork{mark}")
        events.append(done.stream_id, [events.NewEvent("log", data={"message": f"zqwork{mark}"})])
        done.complete(f"zqresult{mark}")
        LLMCallFactory(execution=done, user=owner, model=self.model.pk)
        approval: Approval = ApprovalFactory(execution=waiting, name=f"zqapproval{mark}", output=f"zqwork{mark}")
        waiting.wait_for_people()
        for access in (crew.access, agent.access, done.access, waiting.access):
            for person, level in thing.grants.items():
                AccessGrant.objects.create(access=access, user=self.people[person], level=level)
        thing.parts = {
            "crew": crew.pk,
            "agent": agent.pk,
            "task": task.pk,
            "input": definition.pk,
            "run": done.pk,
            "waiting": waiting.pk,
            "approval": approval.pk,
            "row": row.task,
            "token": approvals.make_link(approval, owner).rpartition("/")[2],
            "person": owner.pk,
            "access": crew.access_id,
            "member": self.people[MEMBER].pk,
            **self._personal(thing, crew, owner),
            **self._project(thing, owner),
        }

    def _project(self, thing: Thing, owner: User) -> dict[str, Any]:
        return add_project(
            owner, self.people, thing.grants, is_shared=thing.is_shared, mark=thing.mark, model=self.model
        )

    def fill_one_more(self) -> None:
        """A private crew, runs of it in several states, one more of the shared crew, and a private project: no part
        of the world."""
        owner = self.people["maker"]
        self._run(Crew.objects.get(pk=self.things["shared"].parts["crew"]), owner, "zqrunanew")
        crew = runnable_crew(owner=owner, model=self.model, name="zqcrewmore")
        actions.kickoff(crew=crew, inputs={"topic": "tea"}, by=owner)
        self._run(crew, owner, "zqrunmore").complete("done")
        waiting = self._run(crew, owner, "zqwaitingmore")
        ApprovalFactory(execution=waiting)
        waiting.wait_for_people()
        self._run(crew, owner, "zqrunningmore")
        add_project(owner, self.people, {}, is_shared=False, mark="more", model=self.model)

    def _personal(self, thing: Thing, crew: Any, owner: User) -> dict[str, Any]:
        """An open invitation to the crew, and a key and a session of its owner."""
        invitation = Invitation.objects.create(
            access=crew.access,
            level="viewer",
            thing=f"zqinvitation{thing.mark}",
            user=self.people[INVITED],
            token_digest=hashlib.sha256(thing.mark.encode()).hexdigest(),
            invited_by=owner,
            expires_at=timezone.now() + timedelta(days=1),
        )
        key, _ = keys.create(owner, name=f"zqkey{thing.mark}", scopes=[Scope.READ], by=owner)
        session = Session.objects.get(session_key=self._session(owner))
        return {"invitation": invitation.pk, "link": thing.mark, "key": key.pk, "session": session.public_id}

    def _run(self, crew: Any, owner: User, name: str) -> Execution:
        run = actions.kickoff(crew=crew, inputs={"topic": f"zqtold{name.removeprefix('zq')}"}, by=owner)
        Execution.objects.filter(pk=run.pk).update(name=name)
        run.refresh_from_db()
        run.start(worker="matrix", lease=LEASE)
        return run

    # --- What people show --------------------------------------------------------------------------

    def _show(self) -> None:
        self._cookies = {person: self._session(user) for person, user in self.people.items()}
        own = Crew.objects.get(pk=self.things["own"].parts["crew"])
        run = self._run(own, self.people["user"], "zqrunningown")
        self._headers: dict[str, str] = {}
        for who in EVERYBODY:
            user = self.people[who.person] if who.person else None
            if user is None or "session" in who.shows:
                continue
            if "key" in who.shows:
                row, text = keys.create(user, name=who.name, scopes=[Scope.READ], by=user)
                ApiKey.objects.filter(pk=row.pk).update(**_as_it_is(who))
                self._headers[who.name] = f"{'Bearer' if 'bearer' in who.shows else 'Api-Key'} {text}"
            elif who.shows == "run token":
                self._headers[who.name] = f"Bearer {tokens.issue(run)}"
            elif who.shows == "basic":
                self._headers[who.name] = f"Basic {_basic(user)}"
            else:
                self._headers[who.name] = f"Bearer {self._token(user)}"

    def _token(self, user: User) -> str:
        """An access token of the identity provider, which has been here before."""
        known = self._idp.person(user.username, roles=[str(user.role)])
        Identity.objects.create(user=user, issuer=self._idp.issuer, subject=known.subject)
        token = self._idp.access_token(known, exp=int(time.time()) + 3600)  # as long as the tests may take
        credentials.check(token)
        return token

    def _session(self, user: User) -> str:
        session = SessionStore()
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
        session.create()
        return str(session.session_key)

    def headers_of(self, who: Who) -> dict[str, str]:
        """What `who` sends with every request, as WSGI knows it."""
        sent = {}
        if who.person and ("session" in who.shows or who.with_cookie):
            sent["HTTP_COOKIE"] = f"{settings.SESSION_COOKIE_NAME}={self._cookies[who.person]}"
        if who.name in self._headers:
            sent["HTTP_AUTHORIZATION"] = self._headers[who.name]
        return sent

    # --- What may stand in an answer -----------------------------------------------------------------

    def parts(self, asked: Iterable[str], thing: str) -> dict[str, Any]:
        """The values of a thing's parts; of `crossed`, the first of one's own and the rest of another's."""
        if thing != "crossed":
            return self.things[thing].parts
        first = next(iter(asked))
        return {**self.things["private"].parts, first: self.things["own"].parts[first]}

    def fixed(self, part: str) -> Any:
        """The value of a parameter that is of no thing: a word, or `<table> row` for any row of a table."""
        if not part.endswith(" row"):
            return part
        app, _, model = part.removesuffix(" row").rpartition("_")
        row = apps.get_model(app, model)._default_manager.order_by("pk").first()
        return row.pk if row is not None else "1"

    def visible(self, part: str, person: str | None, role: str, side: str = "") -> set[str]:
        """The ids of all things of a kind (`crew`, `run`…) that somebody may see."""
        levels = {t: t.level(SIDE_OF[part] if side in {"", "editable"} else side, person, role) for t in self.owned()}
        if side == "editable":
            return {str(t.parts[part]) for t, level in levels.items() if may(role, level, "change")}
        return {str(t.parts[part]) for t, level in levels.items() if level}

    def all_of(self, part: str) -> set[str]:
        return {str(thing.parts[part]) for thing in self.owned()}

    def hidden_from(self, person: str | None, role: str) -> frozenset[str]:
        """Everything that must never stand in an answer to somebody."""
        if (person, role) not in self._secrets:
            hidden = {NEVER}
            for thing in self.owned():
                for side in SIDES:
                    if not thing.level(side, person, role):
                        hidden |= thing.known_by(side)
            if role != "admin":
                hidden |= {f"zqmail{name}" for name in (*PERSONS, "spare") if name != person}
            self._secrets[person, role] = frozenset(hidden)
        return self._secrets[person, role]

    def owned(self) -> list[Thing]:
        return [thing for thing in self.things.values() if thing.owner]


def _nothing(parts: Mapping[str, Any]) -> dict[str, Any]:
    """As `parts`, of what there is not."""
    other = {uuid.UUID: uuid.uuid4, int: lambda: 10**9, str: lambda: "nothing-here"}
    return {name: other[type(value)]() for name, value in parts.items()}


def _as_it_is(who: Who) -> dict[str, Any]:
    """The row of somebody's key. Its owner may have been more when it was made."""
    now = timezone.now()
    return {
        "scopes": " ".join(scope for scope in Scope.values if scope in (who.scopes or {"write"})),
        # Asked thousands of times within a minute, each of them a request of its own.
        "requests_per_minute": 10**6,
        "expires_at": now - timedelta(days=1) if who.shows == "expired key" else None,
        "revoked_at": now if who.shows == "revoked key" else None,
    }


def _basic(user: User) -> str:
    return base64.b64encode(f"{user.username}:{PASSWORD}".encode()).decode()

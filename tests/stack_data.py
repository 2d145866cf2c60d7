"""What a `tests.stack.Stack` has in its database; runs in a process of its own, in the stack's environment."""

import json
import sys
from importlib import import_module
from typing import Any

import django
from django.conf import settings


def people() -> dict[str, str]:
    """Makes `ann` (user), `vera` (viewer) and `root` (admin); returns a session key of each."""
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY

    from portal.accounts.models import Role
    from tests.factories.accounts import UserFactory

    sessions = {}
    store = import_module(settings.SESSION_ENGINE).SessionStore
    for name, fields in {"ann": {}, "vera": {"role": Role.VIEWER}, "root": {"admin": True}}.items():
        user = UserFactory(username=name, **fields)
        session = store()
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
        session.create()
        sessions[name] = session.session_key
    return sessions


def crews(llm_url: str, crews: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Makes crews as `Stack.make_crews` describes them; returns their ids by name."""
    from crews.models import LLMModel, LLMProvider
    from portal.accounts.models import User
    from tests.factories import crews as make

    owner = User.objects.get(username="ann")
    provider = LLMProvider.objects.filter(name="Fake").first()
    provider = provider or make.LLMProviderFactory(name="Fake", api_base=llm_url)

    def model(mode: str, native_tools: bool, price: str | None) -> LLMModel:
        name = f"fake-{mode}".replace("@", "at") + ("" if native_tools else "-shim") + (f"-{price}" if price else "")
        known = LLMModel.objects.filter(pk=name).first()
        return known or make.LLMModelFactory(
            id=name, provider=provider, route=f"openai/{mode}", max_concurrency=100, native_tools=native_tools,
            price_in=0 if price else None, price_out=price,
        )  # fmt: skip

    ids = {}
    for name, wanted in crews.items():
        tasks = wanted.get("tasks", 1)
        modes = wanted.get("models") or [wanted.get("mode", "ok")] * tasks
        process = wanted.get("process", "sequential")
        crew = make.CrewFactory(name=name, owner=owner, process=process, **wanted.get("crew", {}))
        agents = [
            make.AgentFactory(
                owner=owner,
                role=f"Agent {n + 1}",
                llm_model=model(modes[n], wanted.get("native_tools", True), wanted.get("price")),
                llm_config=wanted.get("llm", {}),
            )
            for n in range(wanted.get("agents", 1))
        ]
        for agent in agents:
            agent.tools.set([make.ToolFactory(name=tool) for tool in wanted.get("tools", ())])
        for field in wanted.get("inputs", ()):
            make.CrewInputFactory(crew=crew, field_name=field)
        before = None
        for n in range(tasks):
            before = make.TaskFactory(
                crew=crew,
                agent=agents[n % len(agents)],
                name=f"Task {n + 1}",
                description=wanted.get("description", f"Say something, part {n + 1}."),
                execution_order=n + 1,
                human_input=n + 1 in wanted.get("asks", ()),
                context=[before] if before and process == "sequential" else [],
            )
        ids[name] = str(crew.pk)
    return ids


def catalog(llm_url: str, ids: list[str], mode: str) -> list[str]:
    """The portal's catalog, in which models of these `ids` are reached at the fake server; returns them."""
    from crews.models import LLMModel, LLMProvider
    from crews.seed import seed_catalog
    from tests.factories import crews as make

    seed_catalog()
    provider = LLMProvider.objects.filter(name="Fake").first()
    provider = provider or make.LLMProviderFactory(name="Fake", api_base=llm_url)
    LLMModel.objects.filter(pk__in=ids).update(provider=provider, route=f"openai/{mode}", max_concurrency=100)
    return ids


def main() -> None:
    django.setup()
    command, *arguments = sys.argv[1:]
    made: Any = (
        people() if command == "people" else {"crews": crews, "catalog": catalog}[command](**json.loads(arguments[0]))
    )
    print(json.dumps(made))


if __name__ == "__main__":
    main()

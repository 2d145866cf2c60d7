"""The crews, models and people of a scene; runs in a process of its own, in the stack's environment.

    python -m tests.chaos.cast URL

prints the crews' ids by name. Every task's description has the run's mark in it (`{topic}`), so that a
request can be told by its body.
"""

import json
import sys
from typing import Any

import django

# Models by name, as the fake model's modes; priced, so that money is counted too. Most of a run's time
# is theirs, so that most faults strike while an answer is on its way.
MODES = {
    "quick": "delay-80",
    "slow": "slow-30",
    "calling": "tools-1",
    "chatty": "long-40@15",
    "shim": "delay-60",
    "other": "delay-70",
}
# Of each crew its process, its tasks' models, their tools, and which of them ask a person.
CREWS: dict[str, dict[str, Any]] = {
    "steps": {"models": ["quick", "slow", "quick"]},
    "beside": {"process": "parallel", "models": ["slow", "quick", "slow", "quick"]},
    "led": {"process": "hierarchical", "models": ["quick", "quick"], "manager": "slow"},
    "counting": {"models": ["calling", "slow"], "tools": ["calculator"]},
    "noting": {"models": ["calling", "calling", "slow"], "tools": ["leave_note"]},
    "shimmed": {"models": ["shim", "slow"], "tools": ["calculator"]},
    "asking": {"models": ["quick", "slow", "quick"], "asks": [1]},
    "asking twice": {"process": "parallel", "models": ["slow", "quick", "slow"], "asks": [0, 1]},
    "long": {"models": ["chatty", "slow", "quick", "chatty", "quick"]},
}


def make(url: str) -> dict[str, str]:
    from crews.builtin_tools import BUILTIN
    from crews.models import LLMModel, LLMProvider
    from portal.accounts.models import User
    from tests.factories import crews as factories

    owner = User.objects.get(username="ann")
    provider = LLMProvider.objects.filter(name="Chaos").first()
    provider = provider or factories.LLMProviderFactory(name="Chaos", api_base=url)
    for name in MODES:
        if not LLMModel.objects.filter(pk=name).exists():
            factories.LLMModelFactory(
                id=name,
                provider=provider,
                route=f"openai/{name}",
                max_concurrency=100,
                native_tools=name != "shim",
                context_window=200_000,
                price_in="2.5",
                price_out="10",
            )
    ids = {}
    for name, wanted in CREWS.items():
        if not BUILTIN.keys() >= set(wanted.get("tools", ())):
            continue
        process = wanted.get("process", "sequential")
        manager = {"manager_llm_model_id": wanted["manager"]} if "manager" in wanted else {}
        crew = factories.CrewFactory(name=name, owner=owner, process=process, **manager)
        factories.CrewInputFactory(crew=crew, field_name="topic")
        before = []
        for n, model in enumerate(wanted["models"]):
            agent = factories.AgentFactory(owner=owner, role=f"{name} {n + 1}", llm_model_id=model)
            agent.tools.set([factories.ToolFactory(name=tool) for tool in wanted.get("tools", ())])
            takes = before[-1:] if process == "sequential" else before if n == len(wanted["models"]) - 1 else []
            task = factories.TaskFactory(
                crew=crew,
                agent=agent,
                name=f"Task {n + 1}",
                description=f"Part {n + 1} of {{topic}}",
                execution_order=n + 1,
                human_input=n in wanted.get("asks", ()),
                context=list(takes),
            )
            before.append(task)
        ids[name] = str(crew.pk)
    return ids


if __name__ == "__main__":
    django.setup()
    print(json.dumps(make(sys.argv[1])))

"""Crews with random task graphs, made in a stack's environment: `python -m tests.graphs '{"1": …}'`."""

import json
import random
import sys
from typing import Any

import django

PROCESSES = ("sequential", "parallel")


def shape(seed: int) -> dict[str, Any]:
    """A graph of 3 to 7 tasks: for each which earlier ones it takes (none: the process decides), and if it is async."""
    chance = random.Random(seed)
    process = PROCESSES[seed % 2]
    tasks = []
    for n in range(chance.randint(3, 7)):
        # The last one is not async: CrewAI wants one task that brings all together.
        takes = sorted(chance.sample(range(n), chance.randint(0, min(n, 3)))) if chance.random() < 0.7 else []
        tasks.append({"takes": takes, "is_async": process == "sequential" and chance.random() < 0.4})
    tasks[-1]["is_async"] = False
    return {"process": process, "tasks": tasks}


def make(shapes: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Crews (ids by name) of `ann`, on the stack's model `fake-ok`; task n is called `Part n`."""
    from crews.models import LLMModel
    from portal.accounts.models import User
    from tests.factories import crews

    owner, model = User.objects.get(username="ann"), LLMModel.objects.get(pk="fake-ok")
    made = {}
    for name, graph in shapes.items():
        crew = crews.CrewFactory(name=name, owner=owner, process=graph["process"])
        agents = [crews.AgentFactory(owner=owner, role=f"Writer {n}", llm_model=model) for n in range(2)]
        tasks: list[Any] = []
        for n, task in enumerate(graph["tasks"]):
            tasks.append(
                crews.TaskFactory(
                    crew=crew,
                    agent=agents[n % 2],
                    name=f"Part {n}",
                    description=f"Write part {n} of {name}.",
                    execution_order=n + 1,
                    async_execution=task["is_async"],
                    context=[tasks[other] for other in task["takes"]],
                )
            )
        made[name] = str(crew.pk)
    return made


if __name__ == "__main__":
    django.setup()
    print(json.dumps(make(json.loads(sys.argv[1]))))

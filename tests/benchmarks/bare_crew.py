"""A bare CrewAI script that has imported everything already: one crew for each line on its standard input.

    python -m tests.benchmarks.bare_crew LLM_URL MODEL TASKS

Prints `ready`, then the seconds of each run. No portal: CrewAI as its documentation has it, without
telemetry, calling the same model in the same way (streamed).
"""

import importlib
import os
import sys
import time
from typing import Any

os.environ |= {
    "CREWAI_DISABLE_TELEMETRY": "true", "OTEL_SDK_DISABLED": "true", "CREWAI_TRACING_ENABLED": "false",
    "CREWAI_DISABLE_VERSION_CHECK": "true", "OPENBLAS_NUM_THREADS": "1",
}  # fmt: skip


def crew(llm_url: str, model: str, tasks: int) -> Any:
    """One agent and its tasks, each of which takes the one before."""
    from crewai import LLM, Agent, Crew, Task

    endpoint = {"provider": "openai", "custom_openai": True, "base_url": llm_url, "api_key": "none"}
    llm = LLM(model=model, stream=True, max_retries=0, **endpoint)
    agent = Agent(role="Agent 1", goal="Answer.", backstory="", llm=llm, max_iter=4, verbose=False)
    work: list[Task] = []
    for n in range(tasks):
        work.append(
            Task(
                description=f"Say something, part {n + 1}.",
                expected_output="A sentence.",
                agent=agent,
                context=work[-1:],
            )
        )
    return Crew(agents=[agent], tasks=work, verbose=False)


def main() -> None:
    llm_url, model, tasks = sys.argv[1], sys.argv[2], int(sys.argv[3])
    importlib.import_module("crewai")
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        crew(llm_url, model, tasks).kickoff()
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()

"""What is left of a recovery when there is no portal around it: kill, wait, fork again.

    python -m tests.benchmarks.bare_recovery LLM_URL MODEL TASKS

A parent that has imported CrewAI, and all that a run would import late, forks a child that carries a
crew. For each line on its standard input it kills such a child while that waits for its model, waits
for it, and forks the next, which carries the same crew. Prints `ready`, then the seconds from the kill
to the first event of the second child.
"""

import contextlib
import gc
import importlib
import os
import signal
import sys
import time
from pathlib import Path

from tests.benchmarks.bare_crew import crew

PRELOADED = Path(__file__).parents[2] / "executions" / "engines" / "crewai" / "preload.txt"
STARTED, CALLING = b"s", b"c"  # what a child writes: its first event; its model is asked


def forked(llm_url: str, model: str, tasks: int) -> tuple[int, int]:
    """A child that carries the crew, and where it says what happens."""
    news, tell = os.pipe()
    pid = os.fork()
    if pid:
        os.close(tell)
        return pid, news
    from crewai.events import LLMCallStartedEvent, TaskStartedEvent, crewai_event_bus

    crewai_event_bus.on(TaskStartedEvent)(lambda *_: os.write(tell, STARTED))
    crewai_event_bus.on(LLMCallStartedEvent)(lambda *_: os.write(tell, CALLING))
    try:
        crew(llm_url, model, tasks).kickoff()
    finally:
        os._exit(0)


def wait_for_word(news: int, word: bytes) -> None:
    while (said := os.read(news, 1)) != word:
        assert said, "the child ended"


def end(pid: int, news: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(news)


def seconds_to_first_event(llm_url: str, model: str, tasks: int) -> float:
    child = forked(llm_url, model, tasks)
    wait_for_word(child[1], CALLING)
    began = time.perf_counter()
    end(*child)
    again = forked(llm_url, model, tasks)
    wait_for_word(again[1], STARTED)
    took = time.perf_counter() - began
    end(*again)
    return took


def main() -> None:
    llm_url, model, tasks = sys.argv[1], sys.argv[2], int(sys.argv[3])
    for name in ("crewai", *PRELOADED.read_text().split()):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(seconds_to_first_event(llm_url, model, tasks), flush=True)


if __name__ == "__main__":
    main()

"""What may run."""

from crews.models.catalog import EMBEDDED, LLMFallback, LLMModel, LLMProvider
from crews.models.crew import Agent, Crew, CrewInput, CrewMember, Task
from crews.models.tool import Tool

__all__ = [
    "EMBEDDED",
    "Agent",
    "Crew",
    "CrewInput",
    "CrewMember",
    "LLMFallback",
    "LLMModel",
    "LLMProvider",
    "Task",
    "Tool",
]

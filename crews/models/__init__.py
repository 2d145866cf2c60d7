"""What may run."""

from crews.models.catalog import LLMModel, LLMProvider
from crews.models.crew import Agent, Crew, CrewInput, CrewMember, Task
from crews.models.tool import Tool

__all__ = ["Agent", "Crew", "CrewInput", "CrewMember", "LLMModel", "LLMProvider", "Task", "Tool"]

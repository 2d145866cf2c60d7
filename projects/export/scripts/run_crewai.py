"""Works the stages of this project with CrewAI. See README.md.

python run.py                        all stages, into output/
python run.py --from planning        from there on, with the documents that came along
"""

import os

# CrewAI talks to nobody but the models.
os.environ.setdefault("CREWAI_DISABLE_TELEMETRY", "true")
os.environ.setdefault("CREWAI_DISABLE_VERSION_CHECK", "true")
os.environ.setdefault("CREWAI_TRACING_ENABLED", "false")
os.environ.setdefault("OTEL_SDK_DISABLED", "true")

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from crewai import LLM, Agent, Crew, Process, Task
from stages import Model, Project, Stage, opened

# Request parameters that CrewAI knows by name; others go into the request as they are.
NAMED = {"temperature", "top_p", "max_tokens", "seed", "stop", "frequency_penalty", "presence_penalty"}


def llm(model: Model) -> LLM:
    named = {name: value for name, value in model.parameters.items() if name in NAMED}
    other = {name: value for name, value in model.parameters.items() if name not in NAMED}
    return LLM(
        model=model.name,
        custom_openai=True,
        base_url=model.base_url,
        api_key=model.api_key,
        additional_params={"extra_body": other} if other else {},
        **named,
    )


def work(project: Project, stage: Stage) -> None:
    """One stage: its role writes each of its documents."""
    role = stage.role
    agent = Agent(
        role=role.name,
        goal=role.goal,
        backstory=role.backstory,
        llm=llm(project.model(role)),
        allow_delegation=False,
        verbose=False,
    )
    for wanted in stage.deliverables:
        task = Task(
            description=project.brief(stage, wanted), expected_output=stage.expected_output or wanted.title, agent=agent
        )
        crew = Crew(name=project.name, agents=[agent], tasks=[task], process=Process.sequential, verbose=False)
        project.keep(stage, wanted, str(crew.kickoff().raw))


def main() -> None:
    project = opened()
    for role in {stage.role for stage in project.stages}:
        project.model(role)  # what is missing is said before anything is asked
    for stages in project.waves():
        with ThreadPoolExecutor(len(stages)) as side_by_side:
            list(side_by_side.map(partial(work, project), stages))
    print(f"Done: {project.output}")


if __name__ == "__main__":
    main()

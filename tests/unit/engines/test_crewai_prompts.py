"""What an agent of the crewai engine is told beside its task: the same words for the same spec, and not too many."""

import copy
import json
import subprocess
import sys

from executions.engines.crewai import prompts
from executions.engines.crewai.prompts import BRIEF, USUAL, Bounds
from executions.engines.protocol import Material, ProjectSpec, StageSpec
from tests.engines import run_spec, task


def material(title="Notes", **changes):
    values = {"key": title, "kind": "attachment", "role": "", "version": "", "content": f"About {title}.", "files": []}
    return Material(title=title, **{**values, **changes})


def stage_spec(*materials, **changes):
    project = {
        "name": "Runner's friend",
        "type": "mobile_app",
        "audience": "Runners",
        "requirement": "An app that tracks health.",
        "technical": {"Platform": ["iOS", "Android"], "Limits": {"b": 1, "a": 2}, "Database": ""},
        "folders": [],
    }
    stage = {"name": "planning", "round": 1, "deliverables": [{"type": "plan", "title": "Plan"}], "instructions": ""}
    spec = {"project": ProjectSpec(**project), "stage": StageSpec(**stage), "materials": list(materials)}
    return run_spec(**{**spec, **changes})


def told(spec, bounds=USUAL, **changes):
    return "\n---\n".join(prompts.of_stage(spec, task("planning", **changes), bounds))


def test_a_run_of_no_project_is_told_nothing_more():
    assert prompts.of_stage(run_spec(), task("1")) == []


def test_project_and_materials_come_in_the_order_of_the_spec():
    research = material("Research", kind="research", role="Researcher", version="1.1", content="  Runners run.\n")
    code = material("Code", kind="code", content="", files=[{"path": "src/main.py", "content": "print(1)\n"}])
    assert told(stage_spec(material("brief.md"), research, code, material("Empty", content=" "))) == (
        "The project: Runner's friend\nFor whom: Runners\nWhat is asked for: An app that tracks health.\n"
        'Limits: {"a": 2, "b": 1}\nPlatform: iOS, Android\n'
        "Your answer is kept as the document “Plan”. Write it in English, as Markdown, and add nothing around it."
        "\n---\nA file that belongs to what is asked for, brief.md:\nAbout brief.md."
        "\n---\nFinished work, “Research” (Researcher, version 1.1):\nRunners run."
        "\n---\nFinished work, “Code”:\nsrc/main.py:\n```\nprint(1)\n```"
    )


def test_what_the_task_says_itself_is_not_said_twice():
    spec = stage_spec(language="ko")
    spec["stage"]["instructions"] = "Plan for six weeks."
    text = told(spec, description="Project: Runner's friend, for Runners.\nAn app that tracks health.")
    assert text.startswith('Limits: {"a": 2, "b": 1}\nPlatform: iOS, Android\nPlan for six weeks.\nYour answer')
    assert "Write it in Korean" in text
    assert "six weeks" not in told(spec, description="Plan for six weeks.")


def test_a_text_that_is_shortened_says_so():
    text = told(stage_spec(material(content="x" * 9000)))
    assert text.endswith("x\n[Shortened: the first 8000 of 9000 characters.]")
    assert text.count("x" * 8000) == 1
    assert "x" * 8001 not in text
    assert "Shortened" not in told(stage_spec(material(content="x" * 8000)))


def test_all_together_are_bounded_and_short_ones_leave_their_room_to_long_ones():
    bounds = Bounds(one=50, all=100)
    letters = {"q": 90, "x": 10, "y": 90, "z": 30}
    texts = prompts.given([material("-", content=letter * length) for letter, length in letters.items()], bounds)
    assert [text.count(letter) for letter, text in zip(letters, texts, strict=True)] == [30, 10, 30, 30]
    (alone,) = prompts.given([material("-", content="z" * 60)], bounds)
    assert alone.count("z") == 50
    many = prompts.given([material(f"m{n}", content="y" * 3000) for n in range(40)])
    assert sum(text.count("y") for text in many) <= USUAL.all


def test_less_is_told_within_brief_bounds():
    spec = stage_spec(*(material(f"m{n}", content="z" * 7000) for n in range(4)))
    assert told(spec).count("z") == USUAL.all
    assert told(spec, BRIEF).count("z") == BRIEF.all


def test_equal_specs_give_equal_bytes_in_any_process():
    spec = stage_spec(*(material(f"m{n}", content=f"{n}" * 9000) for n in range(3)))
    asked = "import json, sys; from executions.engines.crewai import prompts; spec = json.load(sys.stdin); " + (
        "sys.stdout.write('|'.join(prompts.of_stage(spec, spec['tasks'][0])))"
    )
    given = json.dumps(copy.deepcopy(spec))
    first, second = (
        subprocess.run(
            [sys.executable, "-c", asked],
            input=given,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    )
    assert first == second == "|".join(prompts.of_stage(spec, spec["tasks"][0]))

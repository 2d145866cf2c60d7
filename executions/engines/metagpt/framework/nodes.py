"""MetaGPT's forms, filled in by a model that is held to a schema.

`ActionNode.simple_fill` is where MetaGPT asks for a document: six tries at JSON in tags, shown by example. Here its
parts are asked for as data (`fields`), and what it stores is made from them in the form that its actions expect.
"""

import json
from typing import Any

from metagpt.actions.action_node import ActionNode

from executions.engines.metagpt import brief, diagrams, documents, fields, trials
from executions.engines.metagpt.fields import Known
from executions.engines.metagpt.framework import desk as desks
from executions.engines.metagpt.framework.desk import Desk
from executions.engines.metagpt.schemas import Schema
from executions.engines.metagpt.wording import say

TEST_PLAN = ActionNode.from_children(
    "TestPlan",
    [ActionNode(key, str, "", "") for key in ("Test approach", "Test cases", "Risks")],
)
DOCUMENT = ActionNode.from_children("Document", [ActionNode(key, str, "", "") for key in ("Summary", "Sections")])


def install() -> None:
    """Have every form filled in this way."""
    ActionNode.simple_fill = _simple_fill


async def _simple_fill(self: ActionNode, schema: str, mode: str, exclude: Any = None, **_: Any) -> ActionNode:
    desk = desks.current()
    nodes = self.children if self.children and mode != "root" else {self.key: self}
    wanted = {key: node for key, node in nodes.items() if key not in (exclude or ())}
    known, asked = _parts(self.key, wanted, desk)
    values = known | await desk.interview.form(self.key, asked)
    if "Logic Analysis" in values:
        values["Logic Analysis"] = fields.tasks(values["Logic Analysis"])
    desk.answers[self.key] = values
    stored = {key: _stored(key, values, desk) for key in wanted}
    self.content = json.dumps(stored, ensure_ascii=False)
    self.instruct_content = self.create_model_class(f"{self.key}_AN", dict.fromkeys(wanted, (Any, ...)))(**stored)
    return self


def _parts(
    name: str, wanted: dict[str, ActionNode], desk: Desk
) -> tuple[dict[str, Any], dict[str, tuple[Schema, str]]]:
    """What is known of a form already, and how the rest is asked for."""
    form = fields.FORMS.get(name)
    found = dict(form(desk.language)) if form else {}
    if name == "PM_NODE":
        found = fields.plan(desk.language, _designed(desk))
    known = {key: value.value for key, value in _known(desk).items() if key in wanted}
    asked: dict[str, tuple[Schema, str]] = {}
    for key in dict.fromkeys([*found, *wanted]):
        node, part = wanted.get(key), found.get(key)
        if key in known:
            continue
        if part is not None:
            asked[key] = (part.schema, part.ask)
        elif node is not None and key not in _MADE:
            asked[key] = (fields.typed(node.expected_type, desk.language), node.instruction)
    return known, asked


# Parts that MetaGPT stores and that are made from others.
_MADE = frozenset({"Task list", "Required Other language third-party packages"})


def _designed(desk: Desk) -> list[str]:
    """The files that the approved design names; none where a person has sent the plan back, who may want others."""
    if desk.spec["reviews"].get(desk.task["key"]):
        return []
    return trials.with_entry(brief.files_named(desk.spec, "design_doc", "architecture"))


def _known(desk: Desk) -> dict[str, Known]:
    project = desk.spec.get("project")
    found = {} if brief.speaks_of_http(desk.spec) else {"Full API spec": Known([])}
    return {
        **found,
        "Language": Known("ko_kr" if desk.language == "ko" else "en_us"),
        "Original Requirements": Known(project["requirement"] if project else desk.task["description"]),
        "Project Name": Known("program"),
    }


def _stored(key: str, values: dict[str, Any], desk: Desk) -> Any:
    """A part as MetaGPT keeps it in its documents."""
    value = values.get(key)
    match key:
        case "Competitive Analysis":
            return [f"{item['product']}: {item['assessment']}" for item in value or ()]
        case "Competitive Quadrant Chart" if value:
            return diagrams.quadrant(value, say("Competitive position", desk.language))
        case "Requirement Pool":
            return [[item["priority"], item["requirement"]] for item in value or ()]
        case "Data structures and interfaces" if value:
            return diagrams.classes(value)
        case "Program call flow" if value:
            return diagrams.calls(value)
        case "Logic Analysis":
            return [[item["file"], item["does"]] for item in documents.in_order(value or [])]
        case "Task list":
            return [item["file"] for item in documents.in_order(values.get("Logic Analysis", []))]
        case "Full API spec":
            return "\n".join(f"{item['method']} {item['path']}: {item['does']}" for item in value or ())
        case "Required Other language third-party packages":
            return []
    return value

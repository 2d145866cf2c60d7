"""Mermaid from data, so that a diagram is always valid."""

import re
from collections.abc import Sequence
from typing import Any

Values = dict[str, Any]


def quadrant(chart: Values, title: str) -> str:
    """Where products stand on two axes."""
    lines = [
        "quadrantChart",
        f'    title "{_quoted(title)}"',
        f'    x-axis "{_quoted(chart["x_low"])}" --> "{_quoted(chart["x_high"])}"',
        f'    y-axis "{_quoted(chart["y_low"])}" --> "{_quoted(chart["y_high"])}"',
    ]
    points = {_quoted(point["name"]): point for point in chart["points"]}
    lines += [f'    "{name}": [{_within(point["x"])}, {_within(point["y"])}]' for name, point in points.items()]
    return "\n".join(lines)


def classes(found: Sequence[Values]) -> str:
    """The classes, and which of them know each other."""
    names = list(dict.fromkeys(_name(item["name"]) for item in found))
    lines = ["classDiagram"]
    for item in found:
        members = [*item["attributes"], *(_without_self(method) for method in item["methods"])]
        lines.append(f"    class {_name(item['name'])} {{")
        lines += [f"        +{_member(member)}" for member in members]
        lines.append("    }")
    for item in found:
        name = _name(item["name"])
        told = " ".join([*item["attributes"], *item["methods"]])
        lines += [f"    {name} --> {other}" for other in names if other != name and re.search(rf"\b{other}\b", told)]
    return "\n".join(lines)


def calls(found: Sequence[Values]) -> str:
    """Who calls what, in order."""
    lines = ["sequenceDiagram"]
    for item in found:
        lines.append(f"    {_name(item['from'])}->>{_name(item['to'])}: {_label(item['call'])}")
    return "\n".join(lines)


def fenced(diagram: str) -> str:
    return f"```mermaid\n{diagram}\n```"


def _within(tenths: int) -> float:
    """A place that lies inside of the chart: points on its edge are drawn half outside."""
    return min(max(tenths / 10, 0.05), 0.95)


def _without_self(method: str) -> str:
    return re.sub(r"\(self,?\s*", "(", method)


def _name(found: str) -> str:
    bare = re.sub(r"[^A-Za-z0-9_]", "", found.split("(")[0].split(".")[0])
    return f"{bare}_" if bare.lower() in {"end", "class", "namespace", "note"} else bare or "Program"


def _member(found: str) -> str:
    return re.sub(r"[{}<>;\n\"]", " ", found).strip()


def _label(found: str) -> str:
    return re.sub(r"[;#\n]", " ", found).strip() or "call"


def _quoted(found: str) -> str:
    return re.sub(r'["\n\[\]]', "'", str(found)).strip()

"""A crew's tasks as a picture: who waits for whom, laid out in columns."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from crews.graph import find_cycle
from crews.models import Crew, Task

WIDTH, HEIGHT = 196, 56  # a box, pixels
GAP_X, GAP_Y = 52, 18
TEXT = WIDTH - 30  # pixels for text in a box
LATIN, WIDE = 7.1, 13.0  # pixels a character, about


@dataclass(frozen=True)
class Box:
    task: Task
    x: int
    y: int
    name: str
    role: str

    @property
    def text_x(self) -> int:
        return self.x + 16

    @property
    def name_y(self) -> int:
        return self.y + 24

    @property
    def role_y(self) -> int:
        return self.y + 42


@dataclass(frozen=True)
class Drawing:
    """Boxes and the paths between them, in pixels."""

    width: int
    height: int
    boxes: list[Box]
    paths: list[str]
    box_width: int = WIDTH
    box_height: int = HEIGHT


def draw(crew: Crew, tasks: Sequence[Task]) -> Drawing | None:
    """The picture of a crew's tasks in execution order; None with fewer than two, or when they wait in a circle.

    Reads `task.agent` and `task.context`; prefetch them.
    """
    waits_for = _waits_for(crew, tasks)
    if len(tasks) < 2 or find_cycle(waits_for):
        return None
    columns: dict[object, int] = {}

    def column(key: object) -> int:
        if key not in columns:
            columns[key] = max((column(other) + 1 for other in waits_for[key]), default=0)
        return columns[key]

    by_column: dict[int, list[Task]] = {}
    for task in tasks:
        by_column.setdefault(column(task.pk), []).append(task)
    tallest = max(len(stack) for stack in by_column.values())
    height = tallest * HEIGHT + (tallest - 1) * GAP_Y
    boxes: dict[object, Box] = {}
    for place, stack in sorted(by_column.items()):
        used = len(stack) * HEIGHT + (len(stack) - 1) * GAP_Y
        for row, task in enumerate(stack):
            x = place * (WIDTH + GAP_X) + 1
            y = (height - used) // 2 + row * (HEIGHT + GAP_Y) + 1
            role = task.agent.role if task.agent else ""
            boxes[task.pk] = Box(task, x, y, shorten(task.name), shorten(role))
    paths = [_path(boxes[other], boxes[key]) for key, others in waits_for.items() for other in others]
    return Drawing(len(by_column) * (WIDTH + GAP_X) - GAP_X + 2, height + 2, list(boxes.values()), paths)


def _waits_for(crew: Crew, tasks: Sequence[Task]) -> dict[object, list[object]]:
    known = {task.pk for task in tasks}
    waits_for: dict[object, list[object]] = {}
    for place, task in enumerate(tasks):
        context: list[object] = [other.pk for other in task.context.all() if other.pk in known]
        before = tasks[place - 1] if place else None
        if crew.process != Crew.Process.PARALLEL and before and not context and not before.async_execution:
            context = [before.pk]
        waits_for[task.pk] = context
    return waits_for


def _path(start: Box, end: Box) -> str:
    x1, y1 = start.x + WIDTH, start.y + HEIGHT // 2
    x2, y2 = end.x - 7, end.y + HEIGHT // 2
    bend = (GAP_X * 3) // 5
    return f"M{x1} {y1}C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"


def shorten(text: str) -> str:
    """As much of `text` as fits into a box."""
    used = 0.0
    for place, char in enumerate(text):
        used += WIDE if unicodedata.east_asian_width(char) in "WF" else LATIN
        if used > TEXT:
            return text[: max(place - 1, 1)].rstrip() + "…"
    return text

"""Mending what models get wrong again and again, where that can be done without asking them: nothing is made up.

Forgotten imports, and classes that stand word for word in a file that is there already.
"""

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping

from executions.engines.metagpt import checks


def with_imports(path: str, code: str, before: Mapping[str, str], own: Iterable[str] = ()) -> str:
    """A file with the imports that it forgot: of what the files `before` it define or import under that name, and of
    modules of the standard library that it uses (`json.load`), unless a file among `own` has that name."""
    if not path.endswith(".py") or checks.syntax_error(path, code):
        return code
    tree = ast.parse(code)
    missing = checks.missing_names(path, code, tree)
    known = {checks.module_name(other).split(".")[0] for other in (*before, *own)}
    used = {
        node.value.id for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    wanted = {name: f"import {name}" for name in missing & used & sys.stdlib_module_names - known}
    wanted |= {name: line for name, line in _offered(path, before).items() if name in missing}
    if not wanted:
        return code
    lines = code.splitlines()
    at = max([node.end_lineno or 0 for node in tree.body[:1] if checks.is_docstring(node)], default=0)
    at = max([at, *(node.end_lineno or 0 for node in tree.body if _is_future(node))])
    lines[at:at] = sorted(set(wanted.values()))
    return "\n".join(lines) + "\n"


def _offered(path: str, files: Mapping[str, str]) -> dict[str, str]:
    """How each name is imported that these files define, or import themselves; their own definitions go first."""
    defined: dict[str, str] = {}
    copied: dict[str, str] = {}
    for module, tree in _importable(path, files):
        for node in tree.body:
            if isinstance(node, checks.DEFINITIONS):
                defined.setdefault(node.name, f"from {module} import {node.name}")
            elif isinstance(node, ast.Import):
                for one in node.names:
                    if one.asname or "." not in one.name:
                        copied.setdefault(one.asname or one.name, ast.unparse(ast.Import([one])))
            elif isinstance(node, ast.ImportFrom) and not node.level and not _is_future(node):
                for one in node.names:
                    line = ast.unparse(ast.ImportFrom(node.module, [one], 0))
                    copied.setdefault(one.asname or one.name, line)
    return {**copied, **defined}


def _importable(path: str, files: Mapping[str, str]) -> Iterator[tuple[str, ast.Module]]:
    """The Python files that `path` can import from, by their names as modules: those that do not import it."""
    for other, text in files.items():
        if other != path and other.endswith(".py") and not checks.syntax_error(other, text):
            tree = ast.parse(text)
            if checks.module_name(path) not in checks.imported(tree):
                yield checks.module_name(other), tree


def _is_future(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def without_repeats(path: str, code: str, before: Mapping[str, str]) -> str:
    """A file with imports in place of the classes and functions that stand word for word in one of the files `before`.

    Small models copy what they are shown, however often they are told not to. What cannot be parsed, or would import
    itself through the other, stays as it is.
    """
    if not path.endswith(".py") or checks.syntax_error(path, code):
        return code
    lines = code.splitlines()
    for module, other in _importable(path, before):
        there = {ast.dump(node) for node in other.body if isinstance(node, checks.DEFINITIONS)}
        tree = ast.parse("\n".join(lines))
        repeats = [node for node in tree.body if isinstance(node, checks.DEFINITIONS) and ast.dump(node) in there]
        names = ", ".join(dict.fromkeys(node.name for node in repeats))
        for node in reversed(repeats):
            first = min([node.lineno, *(found.lineno for found in node.decorator_list)]) - 1
            del lines[first : node.end_lineno]
            if node is repeats[0]:
                lines.insert(first, f"from {module} import {names}")
    return "\n".join(lines) + "\n" if lines != code.splitlines() else code

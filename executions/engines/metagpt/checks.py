"""What can be said of Python code without running it: syntax, names, imports, and how its files use each other.

Only what is wrong for certain is reported; a program without a finding may still be wrong. Code in other languages
is not looked at.
"""

import ast
import builtins
import functools
import re
import symtable
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

MOST = 8  # problems of one file
_DUNDERS = frozenset(
    {"__name__", "__file__", "__doc__", "__spec__", "__package__", "__path__", "__builtins__", "__class__", "__all__"}
)
_KNOWN = frozenset(dir(builtins)) | _DUNDERS
DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_MAKES_NAMES = re.compile(r"globals\(\)|_convert_|\bglobal_enum\b|\bsys\.modules\[__name__")


@dataclass
class Signature:
    """How a function may be called."""

    least: int
    most: int | None  # None: any number
    names: list[str]
    keywords: frozenset[str]
    takes_any_keyword: bool = False

    def complaint(self, call: ast.Call) -> str:
        """What is wrong with a call of it, or nothing."""
        if any(isinstance(item, ast.Starred) for item in call.args) or any(key.arg is None for key in call.keywords):
            return ""
        count, given = len(call.args), {key.arg for key in call.keywords if key.arg}
        if self.most is not None and count > self.most:
            return f"takes at most {self.most} arguments ({', '.join(self.names)}), {count} are given"
        if not self.takes_any_keyword and (unknown := sorted(given - self.keywords)):
            return f"has no parameter {unknown[0]}"
        missing = [name for name in self.names[: self.least][count:] if name not in given]
        return f"misses the argument {missing[0]}" if missing else ""


@dataclass
class Kind:
    """A class: what its objects have. `is_open`: it inherits or is decorated, so it may have more."""

    methods: dict[str, Signature] = field(default_factory=dict)
    attributes: set[str] = field(default_factory=set)
    is_open: bool = False


@dataclass
class Module:
    """What a file offers to others."""

    functions: dict[str, Signature] = field(default_factory=dict)
    classes: dict[str, Kind] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    @property
    def is_open(self) -> bool:
        return "*" in self.names or "__getattr__" in self.names


def syntax_error(path: str, code: str) -> str:
    """What is wrong with the syntax of a Python file, or nothing."""
    try:
        compile(code, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as exc:
        line = f"line {exc.lineno}: " if isinstance(exc, SyntaxError) and exc.lineno else ""
        return f"{line}syntax error: {exc.msg if isinstance(exc, SyntaxError) else exc}"
    return ""


def problems(path: str, code: str, others: Mapping[str, str], later: Iterable[str] = ()) -> list[str]:
    """What is wrong with one file; `others`: the finished files beside it; `later`: those still to be written."""
    if not path.endswith(".py"):
        return [] if code.strip() else ["the file is empty"]
    if error := syntax_error(path, code):
        return [error]
    tree = ast.parse(code)
    if not tree.body:
        return ["the file is empty"]
    modules = {
        module_name(other): module_of(text)
        for other, text in others.items()
        if other != path and other.endswith(".py") and not syntax_error(other, text)
    }
    coming = {module_name(other) for other in later if other.endswith(".py")} - modules.keys()
    found = [*_undefined(path, code, tree), *_unfinished(tree), *_Uses(path, tree, modules, coming).problems()]
    found += [*_never_set(code, tree, others), *_repeated(path, tree, others)]
    return list(dict.fromkeys(found))[:MOST]


def packages(files: Mapping[str, str]) -> list[str]:
    """The packages that Python files import, which are neither theirs nor the standard library's."""
    own = {module_name(path).split(".")[0] for path in files} | {module_name(path) for path in files}
    found: set[str] = set()
    for path, code in files.items():
        if path.endswith(".py") and not syntax_error(path, code):
            found |= {name.split(".")[0] for name in imported(ast.parse(code))}
    return sorted(name for name in found - own if name and name not in sys.stdlib_module_names)


def module_name(path: str) -> str:
    """How a file is imported from the folder in which the program starts."""
    bare = path.removesuffix(".py").removesuffix("/__init__")
    return bare.replace("/", ".")


def module_of(code: str) -> Module:
    """What a file offers; its syntax is correct."""
    module = Module()
    for node in ast.parse(code).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            module.functions[node.name] = _signature(node)
            if node.decorator_list:
                del module.functions[node.name]
            module.names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            module.classes[node.name] = _kind(node)
            module.names.add(node.name)
        else:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                    module.names.add(inner.id)
                elif isinstance(inner, ast.FunctionDef | ast.ClassDef):
                    module.names.add(inner.name)
                elif isinstance(inner, ast.alias):
                    module.names.add((inner.asname or inner.name).split(".")[0])
    return module


@functools.cache
def _of_library(name: str) -> Module | None:
    """What a module of the standard library offers, by its source, which is not run; None where that does not tell.

    A name may also be a module of a package. Modules in C and those that make names while they load do not tell.
    """
    if not re.fullmatch(r"[a-z_]\w*(\.\w+)*", name) or name.split(".")[0] not in sys.stdlib_module_names:
        return None
    place = Path(sysconfig.get_path("stdlib"), *name.split("."))
    source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    try:
        code = source.read_text(encoding="utf-8")
        module = module_of(code)
    except (OSError, UnicodeDecodeError, SyntaxError):
        return None
    if module.is_open or _MAKES_NAMES.search(code):
        return None
    module.names |= {one for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Global) for one in node.names}
    if place.is_dir():
        module.names |= {found.stem for found in place.iterdir()}
    return module


def outline(code: str) -> str:
    """What a file offers, as a model is told it."""
    if syntax_error("", code):
        return ""
    module = module_of(code)
    lines = [f"def {name}({', '.join(found.names)})" for name, found in module.functions.items()]
    for name, kind in module.classes.items():
        methods = "; ".join(f"{method}({', '.join(found.names)})" for method, found in kind.methods.items())
        lines.append(f"class {name}: {methods}")
    return "\n".join(lines)


def imported(tree: ast.AST) -> set[str]:
    """The modules that a file imports from, wherever in it, by their whole names; relative imports are left out."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module or "")
    return found


def _kind(node: ast.ClassDef) -> Kind:
    kind = Kind(is_open=bool(node.bases or node.keywords or node.decorator_list))
    for inner in node.body:
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            names = {getattr(one, "id", getattr(one, "attr", "")) for one in inner.decorator_list}
            if not names - {"staticmethod", "classmethod"}:
                kind.methods[inner.name] = _signature(inner, is_bound="staticmethod" not in names)
            else:
                kind.attributes.add(inner.name)
        elif isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
            kind.attributes.add(inner.target.id)
        elif isinstance(inner, ast.Assign | ast.ClassDef):
            targets = inner.targets if isinstance(inner, ast.Assign) else []
            kind.attributes |= {target.id for target in targets if isinstance(target, ast.Name)}
            kind.is_open = kind.is_open or isinstance(inner, ast.ClassDef)
    for found in ast.walk(node):
        if (isinstance(found, ast.Name) and found.id in {"setattr", "__getattr__", "__dict__"}) or (
            isinstance(found, ast.Attribute) and found.attr == "__dict__"
        ):
            kind.is_open = True
        elif isinstance(found, ast.Attribute) and isinstance(found.ctx, ast.Store) and _is_name(found.value, "self"):
            kind.attributes.add(found.attr)
    if "__getattr__" in kind.methods:
        kind.is_open = True
    return kind


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, *, is_bound: bool = False) -> Signature:
    spec = node.args
    positional = [item.arg for item in (*spec.posonlyargs, *spec.args)][1 if is_bound else 0 :]
    least = max(len(positional) - len(spec.defaults), 0)
    keywords = frozenset([*positional, *(item.arg for item in spec.kwonlyargs)])
    return Signature(least, None if spec.vararg else len(positional), positional, keywords, bool(spec.kwarg))


def _undefined(path: str, code: str, tree: ast.Module) -> list[str]:
    """What is said of names that nothing in the file gives a value."""
    missing = missing_names(path, code, tree)
    lines: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in missing:
            lines[node.id] = min(lines.get(node.id, node.lineno), node.lineno)
    return [f"line {line}: undefined name '{name}'" for name, line in sorted(lines.items(), key=lambda item: item[1])]


def missing_names(path: str, code: str, tree: ast.Module) -> set[str]:
    """Names that nothing in the file gives a value."""
    if any(isinstance(node, ast.ImportFrom) and any(one.name == "*" for one in node.names) for node in ast.walk(tree)):
        return set()
    top = symtable.symtable(code, path, "exec")
    given = _KNOWN | {found.get_name() for found in top.get_symbols() if found.is_assigned() or found.is_imported()}
    given |= {found.get_name() for found in top.get_symbols() if found.is_namespace()}
    given |= {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}
    return _unknown(top, given)


def _unknown(table: symtable.SymbolTable, given: frozenset[str] | set[str]) -> set[str]:
    is_top = table.get_type() == "module"
    found = {
        one.get_name()
        for one in table.get_symbols()
        if one.is_referenced() and (one.is_global() or is_top) and one.get_name() not in given
    }
    for inner in table.get_children():
        found |= _unknown(inner, given)
    return found


def _never_set(code: str, tree: ast.Module, others: Mapping[str, str]) -> list[str]:
    """Attributes of `self` that are read, and that nothing in any of the files sets."""
    texts = [code, *(text for path, text in others.items() if path.endswith(".py") and not syntax_error(path, text))]
    stored = {
        node.attr
        for text in texts
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    found = []
    for owner in tree.body:
        if not isinstance(owner, ast.ClassDef) or (kind := _kind(owner)).is_open:
            continue
        had = {*kind.methods, *kind.attributes, *stored}
        for node in ast.walk(owner):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Load)
                and _is_name(node.value, "self")
                and node.attr not in had
                and not node.attr.startswith("__")
            ):
                found.append(f"line {node.lineno}: {owner.name} has no {node.attr}: nothing sets self.{node.attr}")
                had.add(node.attr)
    return found


def _unfinished(tree: ast.Module) -> list[str]:
    """Functions with nothing in them, where nothing is no sensible content."""
    found = []
    for owner in ast.walk(tree):
        is_class = isinstance(owner, ast.ClassDef)
        abstract = is_class and bool(getattr(owner, "bases", None))
        for node in getattr(owner, "body", []) if isinstance(owner, ast.Module | ast.ClassDef) else []:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.decorator_list or abstract:
                continue
            body = [item for item in node.body if not is_docstring(item)]
            if all(isinstance(item, ast.Pass) or _is_ellipsis(item) for item in body):
                found.append(f"line {node.lineno}: {node.name} is not implemented")
    return found


def _repeated(path: str, tree: ast.Module, others: Mapping[str, str]) -> list[str]:
    """Classes and functions that stand in another file already, word for word."""
    own = {node.name: node for node in tree.body if isinstance(node, DEFINITIONS)}
    found = []
    for other, text in others.items():
        if other == path or not other.endswith(".py") or syntax_error(other, text):
            continue
        for node in ast.parse(text).body:
            if isinstance(node, DEFINITIONS) and node.name in own and ast.dump(node) == ast.dump(own[node.name]):
                wish = f"import it: from {module_name(other)} import {node.name}"
                found.append(f"line {own[node.name].lineno}: {node.name} stands in {other} already; {wish}")
    return found


class _Uses:
    """How a file uses the others, and its own classes."""

    def __init__(self, path: str, tree: ast.Module, modules: Mapping[str, Module], later: set[str]) -> None:
        self._me = module_name(path)
        self._tree = tree
        self._modules = modules
        self._later = later
        own = module_of(ast.unparse(tree))
        self._classes = dict(own.classes)
        self._functions = dict(own.functions)
        self._imported: dict[str, Module] = {}
        self._found: list[str] = []

    def problems(self) -> list[str]:
        for node in ast.walk(self._tree):
            if isinstance(node, ast.ImportFrom):
                self._import_from(node)
            elif isinstance(node, ast.Import):
                self._import(node)
        objects = self._objects()
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Call):
                self._call(node, objects)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                self._attribute(node, objects)
        return self._found

    def _import_from(self, node: ast.ImportFrom) -> None:
        name = node.module or ""
        if node.level:
            folder = self._me.split(".")[: -node.level]
            if not folder:
                self._say(node, f"a relative import works only in a package; write: from {name or 'module'} import …")
            return
        if name == self._me:
            self._say(node, "the file imports itself")
        elif name not in self._modules and (known := _of_library(name)) is not None:
            for alias in node.names:
                if alias.name not in known.names and not alias.name.startswith("__"):
                    self._say(node, f"{name} has no {alias.name}")
        elif name in self._modules:
            module = self._modules[name]
            for alias in node.names:
                bound = alias.asname or alias.name
                if alias.name in module.classes:
                    self._classes[bound] = module.classes[alias.name]
                elif alias.name in module.functions:
                    self._functions[bound] = module.functions[alias.name]
                elif alias.name != "*" and alias.name not in module.names and not module.is_open:
                    offered = ", ".join(sorted(module.names)) or "nothing"
                    self._say(node, f"{name} has no {alias.name}; it has: {offered}")

    def _import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name == self._me:
                self._say(node, "the file imports itself")
            elif alias.name in self._modules:
                self._imported[alias.asname or alias.name] = self._modules[alias.name]

    def _objects(self) -> dict[str, tuple[str, Kind]]:
        """Names (and `self.` names) that always hold an object of a known class."""
        found: dict[str, tuple[str, Kind]] = {}
        others: set[str] = set()
        for node in ast.walk(self._tree):
            targets = node.targets if isinstance(node, ast.Assign) else []
            if isinstance(node, ast.For | ast.AugAssign | ast.AnnAssign | ast.NamedExpr):
                targets = [node.target]
            if isinstance(node, ast.arg):
                others.add(node.arg)
            if isinstance(node, ast.withitem | ast.comprehension):
                held = node.optional_vars if isinstance(node, ast.withitem) else node.target
                targets = [held] if held is not None else []
            value = getattr(node, "value", None)
            kind = self._made(value) if isinstance(node, ast.Assign | ast.AnnAssign) else None
            for target in targets:
                for one in target.elts if isinstance(target, ast.Tuple) else [target]:
                    key = _dotted(one)
                    if kind and key and found.get(key, kind)[1] is kind[1]:
                        found[key] = kind
                    elif key:
                        others.add(key)
        return {key: kind for key, kind in found.items() if key not in others}

    def _made(self, value: ast.AST | None) -> tuple[str, Kind] | None:
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in self._classes:
            return value.func.id, self._classes[value.func.id]
        return None

    def _call(self, node: ast.Call, objects: Mapping[str, tuple[str, Kind]]) -> None:
        target = node.func
        if isinstance(target, ast.Name):
            kind = self._classes.get(target.id)
            if target.id in self._functions:
                self._check(node, self._functions[target.id], target.id)
            elif kind is not None and not kind.is_open:
                made = kind.methods.get("__init__", Signature(0, 0, [], frozenset()))
                self._check(node, made, target.id)
        elif isinstance(target, ast.Attribute) and (key := _dotted(target.value)):
            if key in objects and target.attr in objects[key][1].methods:
                self._check(node, objects[key][1].methods[target.attr], f"{objects[key][0]}.{target.attr}")
            elif key in self._imported and target.attr in self._imported[key].functions:
                self._check(node, self._imported[key].functions[target.attr], f"{key}.{target.attr}")

    def _check(self, node: ast.Call, signature: Signature, name: str) -> None:
        if complaint := signature.complaint(node):
            self._say(node, f"{name}() {complaint}")

    def _attribute(self, node: ast.Attribute, objects: Mapping[str, tuple[str, Kind]]) -> None:
        key = _dotted(node.value)
        if node.attr.startswith("__"):
            return
        if key in objects:
            name, kind = objects[key]
            if not kind.is_open and node.attr not in kind.methods and node.attr not in kind.attributes:
                offered = ", ".join(sorted([*kind.methods, *kind.attributes]))
                self._say(node, f"{name} has no {node.attr}; it has: {offered}")
        elif key in self._imported:
            module = self._imported[key]
            if not module.is_open and node.attr not in module.names:
                self._say(node, f"{key} has no {node.attr}")

    def _say(self, node: ast.AST, text: str) -> None:
        self._found.append(f"line {getattr(node, 'lineno', 0)}: {text}")


def _dotted(node: ast.AST | None) -> str:
    """`name` or `self.name`; else nothing."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and _is_name(node.value, "self"):
        return f"self.{node.attr}"
    return ""


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_ellipsis(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.value.value is Ellipsis

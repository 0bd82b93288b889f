"""Figures of a checkout's structure, read from the source text."""

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

APPS = ("tenants", "devices", "telemetry", "alarms", "management")
# From the lowest app: an import may go to an earlier one only.
_SHORT_LINES = 30


@dataclass(slots=True)
class Module:
    """One module with the modules of the checkout that it imports."""

    name: str
    path: Path
    tree: ast.Module
    lines: int
    imports: set[str] = field(default_factory=set)

    @property
    def app(self) -> str:
        return self.name.partition(".")[0]


def measure(root: Path) -> dict[str, Any]:
    """Return all figures of the checkout at `root`."""
    modules = read_modules(root)
    classes = Counter(name for module in modules.values() for name in _classes(module))
    public, documented = _docstrings(modules.values())
    return {
        "apps": {app: _of_app(app, modules) for app in APPS},
        "services": {app: _halls(f"{app}.services", modules) for app in ("devices", "telemetry")},
        "modules_under_30_lines": _named(m for m in modules.values() if m.lines < _SHORT_LINES and _has_code(m)),
        "modules_not_in_the_glossary": _not_in_glossary(root, modules),
        "class_names_used_twice": sorted(name for name, count in classes.items() if count > 1 and name not in _DJANGO),
        "circles": _circles({name: module.imports for name, module in modules.items()}),
        "upward_imports": _upward(modules),
        "lines_in_management": sum(m.lines for m in modules.values() if m.app == "management"),
        "public_functions": public,
        "docstring_coverage": round(documented / public, 3),
    }


# Names that Django or REST framework look up, or that each model has.
_DJANGO = {"Meta", "Migration", "Command", "Media", "State", "Kind"}


def read_modules(root: Path) -> dict[str, Module]:
    """Return the apps' modules by dotted name, migrations left out."""
    modules: dict[str, Module] = {}
    for app in APPS:
        for path in sorted((root / app).rglob("*.py")):
            if "migrations" in path.parts:
                continue
            text = path.read_text(encoding="utf-8")
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            modules[name] = Module(name, path, ast.parse(text), len(text.splitlines()))
    for module in modules.values():
        module.imports = {one for one in _imported(module, modules) if one != module.name}
    return modules


def _imported(module: Module, modules: Mapping[str, Module]) -> Iterator[str]:
    package = module.name if module.path.name == "__init__.py" else module.name.rpartition(".")[0]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, node.module] if node.module else above)
            for alias in node.names:
                target = f"{base}.{alias.name}"
                if target in modules:
                    yield target
                elif base in modules:
                    yield base


def _of_app(app: str, modules: Mapping[str, Module]) -> dict[str, int]:
    own = {name: module for name, module in modules.items() if module.app == app and _has_code(module)}
    return {
        "files": len(own),
        "lines": sum(module.lines for module in own.values()),
        "import_levels": _levels({name: module.imports & own.keys() for name, module in own.items()}),
    }


def _halls(services: str, modules: Mapping[str, Module]) -> dict[str, Any]:
    """Return how the services are divided: rooms, modules in the largest, arrows between rooms, levels of rooms."""
    inside = {n: m for n, m in modules.items() if n.startswith(f"{services}.") and _has_code(m)}

    def room_of(name: str) -> str:
        parts = name.removeprefix(f"{services}.").split(".")
        return parts[0] if len(parts) > 1 else f"({parts[0]})"

    rooms = Counter(room_of(name) for name in inside)
    arrows: dict[str, set[str]] = defaultdict(set)
    for name, module in inside.items():
        for target in module.imports & inside.keys():
            if room_of(target) != room_of(name):
                arrows[room_of(name)].add(room_of(target))
    packages = [name for name in rooms if not name.startswith("(")]
    return {
        "rooms": len(packages),
        "modules_at_the_root": len(rooms) - len(packages),
        "modules_in_the_largest_room": max([*(rooms[n] for n in packages), len(rooms) - len(packages)]),
        "arrows": sum(map(len, arrows.values())),
        "levels": _levels({name: arrows.get(name, set()) for name in rooms}),
        "circles": _circles({name: arrows.get(name, set()) for name in rooms}),
    }


def _levels(graph: Mapping[str, set[str]]) -> int:
    """Return the number of modules on the longest chain of imports; a circle counts as one module."""
    parts = _components(graph)
    number = {name: index for index, part in enumerate(parts) for name in part}
    depth: dict[int, int] = {}
    for index, part in enumerate(parts):  # Tarjan's order: what a part imports comes before it
        below = {number[t] for name in part for t in graph[name] if t in number and number[t] != index}
        depth[index] = 1 + max((depth[one] for one in below), default=0)
    return max(depth.values(), default=0)


def _circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    return [sorted(part) for part in _components(graph) if len(part) > 1]


def _components(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(graph[name]):
            if target not in graph:
                continue
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            cut = stack.index(name)
            found.append(stack[cut:])
            del stack[cut:]

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


def _upward(modules: Mapping[str, Module]) -> list[str]:
    """Return the imports of a higher app by a lower one, and of services by models."""
    rank = {app: number for number, app in enumerate(APPS)}
    arrows = []
    for name, module in modules.items():
        for target in module.imports:
            above = rank[target.partition(".")[0]] > rank[module.app]
            if above or (".models" in name and ".services" in target):
                arrows.append(f"{name} → {target}")
    return sorted(arrows)


def _classes(module: Module) -> Iterator[str]:
    yield from (node.name for node in module.tree.body if isinstance(node, ast.ClassDef))


def _docstrings(modules: Any) -> tuple[int, int]:
    """Return how many public functions and methods there are, and how many have a docstring."""
    public = documented = 0
    for module in modules:
        for node in _public(module.tree):
            public += 1
            documented += ast.get_docstring(node) is not None
    return public, documented


def _public(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the public functions of a module and the public methods of its classes."""
    owners: list[ast.Module | ast.ClassDef] = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    for node in (node for owner in owners for node in owner.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node


def _not_in_glossary(root: Path, modules: Mapping[str, Module]) -> list[str] | None:
    """Return the modules with a word that the glossary lacks; None where there is no glossary."""
    glossary = root / "docs" / "glossary.md"
    if not glossary.exists():
        return None
    known = set(re.findall(r"[a-z0-9]+", glossary.read_text(encoding="utf-8").lower()))
    words = {name: re.findall(r"[a-z0-9]+", name.rpartition(".")[2]) for name in modules}
    return sorted(name for name, parts in words.items() if not all(_is_known(part, known) for part in parts))


def _is_known(word: str, known: set[str]) -> bool:
    return any(form in known for form in (word, word.removesuffix("s"), word.removesuffix("es"), f"{word}s"))


def _has_code(module: Module) -> bool:
    """Whether the module holds more than a docstring."""
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in module.tree.body)


def _named(modules: Iterator[Module]) -> list[str]:
    return sorted(module.name for module in modules)

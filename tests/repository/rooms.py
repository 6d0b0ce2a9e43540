"""The rules of the rooms: who may import whom, which of them reach out, and what importing does.

Every rule takes a source tree and tells what breaks it. `test_imports.py` holds them against the package.
"""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOMS = (
    *(
        "endings",
        "errors",
        "stored_errors",
        "wire",
        "operations",
        "redis",
        "limits",
        "settings",
        "credentials",
        "usage",
        "objects",
        "policy",
    ),
    *("exchange", "traces", "proxy", "middleware", "app", "supervisor", "cli"),
)
"""From bottom to top: a module may import what stands before its room, and from its own without circles."""

BESIDE: dict[str, set[str]] = {"simulator": {"operations"}, "bench": set()}
"""Rooms beside that order, and what they may import."""

MAY_IMPORT_BESIDE = {"cli"}

PURE_ROOMS = {"endings", "errors", "stored_errors", "wire", "operations", "policy"}
PURE_MODULES = {"gateway.limits.terms", "gateway.limits.charges", "gateway.limits.arithmetic"}
JUDGES = {"policy"}
"""Pure rooms that judge values of rooms which are not."""

PURE_LIBRARY = {
    *(
        "__future__",
        "base64",
        "binascii",
        "bisect",
        "codecs",
        "collections",
        "collections.abc",
        "dataclasses",
        "datetime",
    ),
    *(
        "difflib",
        "enum",
        "functools",
        "hashlib",
        "ipaddress",
        "itertools",
        "math",
        "operator",
        "orjson",
        "re",
        "secrets",
        "struct",
    ),
    *(
        "brotli",
        "string",
        "struct",
        "tomllib",
        "types",
        "typing",
        "unicodedata",
        "urllib.parse",
        "zlib",
        "zstandard",
    ),
}
"""What a pure module may import from outside: nothing in here waits, or reaches out of the process."""

ALLOWED_BESIDE = {
    "gateway.operations.stored_kinds": {"importlib.resources"},
    "gateway.operations.table": {"importlib.resources"},
    "gateway.wire.search": {"ctypes"},
}
"""What one pure module may import beside that: to read its own data, and to search as the C library does."""

REACHES_OUT = {"open", "print", "input", "exec", "eval", "compile", "breakpoint"}

INSIDE = {
    f"gateway.proxy.{name}"
    for name in ("answer_heads", "dial", "request_heads", "upstream_channel", "upstream_faults")
}
"""The modules that may know more of aiohttp than what it is used by: its parsers and their errors."""

OPTIONAL = {"opentelemetry": "gateway.traces.otlp"}
"""What need not be installed, and the one module that imports it."""

USED_BY = {"aiohttp", "aiohttp.helpers", "aiohttp.web"}

ENTRANCES = {
    "gateway": {"__version__"},
    "gateway.middleware": {"build_middlewares", "compose"},
    "gateway.cli": {"main", "parser"},
    "gateway.simulator": {"build_simulator"},
}
"""The packages that are more than a docstring, and the names for which they are asked."""


@dataclass(frozen=True)
class Module:
    """One file of a source tree."""

    name: str
    tree: ast.Module
    is_package: bool

    @property
    def room(self) -> str:
        """The second part of the name; empty for the package itself and its `__main__`."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 and parts[1] != "__main__" else ""

    @property
    def is_pure(self) -> bool:
        return self.room in PURE_ROOMS or self.name in PURE_MODULES


class Source:
    """All modules of a package, read from its directory."""

    def __init__(self, package: Path) -> None:
        self.modules = {}
        for path in sorted(package.rglob("*.py")):
            parts = path.relative_to(package.parent).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            self.modules[name] = Module(name, ast.parse(path.read_text("utf-8")), is_package)

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """What each module imports, wherever in the file that stands, and under whatever condition."""
        return {module.name: set(self._imported_by(module)) for module in self.modules.values()}

    def _imported_by(self, module: Module) -> Iterator[str]:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                origin = node.module or ""
                if node.level:
                    base = module.name.split(".")
                    base = base[: len(base) + module.is_package - node.level]
                    origin = ".".join((*base, *filter(None, [origin])))
                for alias in node.names:
                    inner = f"{origin}.{alias.name}"
                    # A package that is a docstring has nothing to give but its modules.
                    of_room = (
                        origin in self.modules and self.modules[origin].is_package and origin not in ENTRANCES
                    )
                    names_module = of_room or inner in self.modules or inner == "importlib.resources"
                    yield inner if names_module else origin

    def own_imports(self) -> Iterator[tuple[Module, str]]:
        """Every import of a module of the package, known or not."""
        for name, imported in self.imports.items():
            for target in sorted(imported):
                if target.partition(".")[0] == "gateway" and target != "gateway":
                    yield self.modules[name], target


def every_module_has_a_room(source: Source) -> Iterator[str]:
    known = {*ROOMS, *BESIDE, ""}
    for module in source.modules.values():
        if module.room not in known:
            yield f"{module.name} stands in no known room"
    for module, target in source.own_imports():
        if target not in source.modules:
            yield f"{module.name} imports {target}, which does not exist"


def imports_go_one_way(source: Source) -> Iterator[str]:
    for module, target in source.own_imports():
        room = (*target.split("."), "")[1]
        if module.room in BESIDE:
            allowed = room in BESIDE[module.room] | {module.room}
        elif room in BESIDE:
            allowed = module.room in MAY_IMPORT_BESIDE
        else:
            allowed = module.name == "gateway.__main__" or _height(room) <= _height(module.room)
        if not allowed:
            yield f"{module.name} imports {target}, which stands above it"


def _height(room: str) -> int:
    return ROOMS.index(room) if room in ROOMS else -1 if room != "__main__" else len(ROOMS)


def no_room_imports_in_a_circle(source: Source) -> Iterator[str]:
    """Modules are taken away whose imports are all taken away: what stays, stands in a circle or leads to one."""
    left = {
        name: {loaded for target in imported for loaded in _loaded(target, name) if loaded in source.modules}
        for name, imported in source.imports.items()
    }
    while leaves := {name for name, imported in left.items() if not imported & left.keys()}:
        left = {name: imported for name, imported in left.items() if name not in leaves}
    if not left:
        return
    circle = [min(left)]
    while (following := min(left[circle[-1]] & left.keys())) not in circle:
        circle.append(following)
    yield " -> ".join((*circle[circle.index(following) :], following))


def _loaded(target: str, by: str) -> Iterator[str]:
    """What an import loads: the module, and before it the packages in which it stands, if we stand elsewhere."""
    yield target
    while target := target.rpartition(".")[0]:
        if not f"{by}.".startswith(f"{target}."):
            yield target


def pure_modules_reach_out_for_nothing(source: Source) -> Iterator[str]:
    for module in source.modules.values():
        if not module.is_pure:
            continue
        allowed = PURE_LIBRARY | ALLOWED_BESIDE.get(module.name, set())
        for target in sorted(source.imports[module.name]):
            if target.partition(".")[0] != "gateway":
                if target not in allowed:
                    yield f"{module.name} is to be pure, and imports {target}"
            elif (
                target in source.modules and not source.modules[target].is_pure and module.room not in JUDGES
            ):
                yield f"{module.name} is to be pure, and imports {target}, which need not be"
        for node in ast.walk(module.tree):
            if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
                yield f"{module.name} is to be pure, and waits in line {node.lineno}"
            if isinstance(node, ast.Name) and node.id in REACHES_OUT:
                yield f"{module.name} is to be pure, and calls {node.id}"


def aiohttps_insides_are_touched_in_few_places(source: Source) -> Iterator[str]:
    for module in source.modules.values():
        yield from (
            f"{module.name} touches {name}"
            for name in touched_inside_aiohttp(module)
            if module.name not in INSIDE or name.startswith("_")
        )


def what_need_not_be_there_is_imported_in_one_place(source: Source) -> Iterator[str]:
    for name, imported in source.imports.items():
        for target in sorted(imported):
            where = OPTIONAL.get(target.partition(".")[0])
            if where is not None and name != where:
                yield f"{name} imports {target}, which need not be installed"


def touched_inside_aiohttp(module: Module) -> Iterator[str]:
    """What a module imports of aiohttp that it does not offer to whoever uses it."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "aiohttp":
            yield from (alias.name for alias in node.names if alias.name.startswith("_"))
            origins = [node.module or ""]
        elif isinstance(node, ast.Import):
            origins = [alias.name for alias in node.names if alias.name.partition(".")[0] == "aiohttp"]
        else:
            continue
        yield from (origin for origin in origins if origin not in USED_BY)


def every_import_can_be_read(source: Source) -> Iterator[str]:
    """The other rules see import statements alone."""
    for module in source.modules.values():
        for node in ast.walk(module.tree):
            match node:
                case ast.Name(id=name, lineno=line) | ast.Attribute(attr=name, lineno=line):
                    if name in ("__import__", "import_module", "run_module", "run_path"):
                        yield f"{module.name} imports what only a run can tell, in line {line}"
                case _:
                    pass


def importing_does_nothing_but_define(source: Source) -> Iterator[str]:
    definitions = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for module in source.modules.values():
        for node in module.tree.body:
            harmless = (
                isinstance(node, (*definitions, ast.Assign, ast.AnnAssign, ast.Assert))
                or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
                or (
                    isinstance(node, ast.If)
                    and ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'")
                )
            )
            if not harmless:
                yield f"{module.name} does something when it is imported: {ast.unparse(node)}"


def every_room_says_what_it_is_and_exports_nothing_by_accident(source: Source) -> Iterator[str]:
    for module in source.modules.values():
        if ast.get_docstring(module.tree) is None:
            yield f"{module.name} has no docstring"
        if module.is_package and module.name not in ENTRANCES and module.tree.body[1:]:
            yield f"{module.name} holds more than its docstring"
        if module.name in ENTRANCES:
            public = {name for name in _defined(module.tree) if not re.match("_(?!_version__)", name)}
            if public != ENTRANCES[module.name]:
                yield f"{module.name} exports {sorted(public ^ ENTRANCES[module.name])} by accident, or no more"


def _defined(tree: ast.Module) -> Iterator[str]:
    """The names that a package gives to those who ask it: of what it imports, those that it lists."""
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Assign(targets=[ast.Name(id="__all__")], value=ast.List(elts=listed)):
                yield from (str(ast.literal_eval(name)) for name in listed)
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case _:
                pass


Rule = Callable[[Source], Iterator[str]]

RULES: tuple[Rule, ...] = (
    every_module_has_a_room,
    imports_go_one_way,
    no_room_imports_in_a_circle,
    pure_modules_reach_out_for_nothing,
    aiohttps_insides_are_touched_in_few_places,
    what_need_not_be_there_is_imported_in_one_place,
    every_import_can_be_read,
    importing_does_nothing_but_define,
    every_room_says_what_it_is_and_exports_nothing_by_accident,
)

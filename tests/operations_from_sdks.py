"""What the official SDKs ask for, read from their source, and what the operation table lacks of it.

    python -m tests.operations_from_sdks [--node FOLDER]

It reads the installed Python package `openai`, and the npm package of that name where it has been installed: in
`node_modules` of the folder given, or of this one. Each operation that the table lacks is printed with what the SDK
says of it, as a beginning of its row; then the exit status is 1. No SDK is imported, and nothing is asked.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

from gateway.operations.table import OperationTable

_CALLS = {
    **{f"_{method}": method.upper() for method in ("get", "post", "put", "patch", "delete")},
    "_get_api_list": "GET",
}
_BETA_HEADER = "OpenAI-Beta"


class Asked(NamedTuple):
    """One operation as an SDK asks for it."""

    method: str
    path: str
    """The template, below `/v1`; its query is apart."""

    query: str = ""
    """What the SDK itself puts into the query, such as `beta=true`."""

    socket: bool = False
    """A WebSocket is opened."""

    beta: str = ""
    """What the SDK says of itself in `OpenAI-Beta`."""

    where: str = ""
    """The module that asks."""

    @property
    def target(self) -> str:
        """A target as the SDK would send it, with a value for every parameter."""
        path = re.sub(r"{(\w*)}", lambda name: f"x-{name[1] or 'id'}", f"/v1{self.path}")
        return f"{path}?{self.query}" if self.query else path


# Python


def of_python_package(root: Path) -> list[Asked]:
    """What the package in this folder asks for."""
    asked: set[Asked] = set()
    for module in sorted(root.joinpath("resources").rglob("*.py")):
        where = module.relative_to(root).with_suffix("").as_posix()
        for function in ast.walk(ast.parse(module.read_text("utf-8"))):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                asked.update(_asked_in(function, where))
    return _merged(asked)


def _asked_in(function: ast.FunctionDef | ast.AsyncFunctionDef, where: str) -> Iterator[Asked]:
    beta = next(
        (
            str(value.value)
            for node in ast.walk(function)
            if isinstance(node, ast.Dict)
            for key, value in zip(node.keys, node.values, strict=True)
            if isinstance(key, ast.Constant) and key.value == _BETA_HEADER and isinstance(value, ast.Constant)
        ),
        "",
    )
    for node in ast.walk(function):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
            continue
        method = _CALLS.get(node.func.attr)
        template = _template(node.args[0]) if method is not None else None
        if method is None or template is None:
            continue
        for word in node.keywords:
            if word.arg == "method" and isinstance(word.value, ast.Constant):
                method = str(word.value.value).upper()
        path, _, query = template.partition("?")
        yield Asked(method, path, query, beta=beta, where=where)
    if function.name == "_prepare_url":
        for node in ast.walk(function):
            opened = _socket_path(node)
            if opened is not None:
                yield Asked("GET", opened, socket=True, where=where)


def _template(node: ast.expr) -> str | None:
    """The path that is passed: a text, or a template by its own function."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("/"):
        return node.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "path_template":
        return _template(node.args[0])
    return None


def _socket_path(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, bytes) and len(node.value) > 1:
        return node.value.decode() if node.value.startswith(b"/") else None
    return _template(node) if isinstance(node, ast.Call) else None


# Node

_NODE_CALL = re.compile(
    r"""\._client\s*\.(get|post|put|patch|delete|getAPIList)\(\s*(?:path\s*)?(['"`])(/.*?)\2(?=(?P<rest>(?:.|\n){0,400}))"""
)
_NODE_SOCKET = re.compile(r"""const\s+endpoint\s*=\s*(?:path\s*)?(['"`])(/.*?)\1""")
_NODE_REALTIME = re.compile(
    r"""url\.pathname\s*[+]?=\s*(?:.*\?\s*'[\w/]+'\s*:\s*)?(['"`])[^'"`]*?(/realtime[\w/]*)\1"""
)
_NODE_METHOD = re.compile(r"method:\s*'(\w+)'")
_NODE_BETA = re.compile(r"'OpenAI-Beta':\s*'([^']*)'")


def of_node_package(root: Path) -> list[Asked]:
    """What the npm package in this folder asks for."""
    asked: set[Asked] = set()
    for module in sorted(root.rglob("*.mjs")):
        where = module.relative_to(root).with_suffix("").as_posix()
        if where.startswith(("_vendor", "src")):
            continue
        text = module.read_text("utf-8")
        for call in _NODE_CALL.finditer(text):
            # What belongs to this call ends where the next function begins.
            rest = re.split(r"\n    }", call["rest"])[0]
            named, beta = _NODE_METHOD.search(rest), _NODE_BETA.search(rest)
            method = call[1] if call[1] != "getAPIList" else (named[1] if named else "get")
            path, _, query = _node_template(call[3]).partition("?")
            asked.add(Asked(method.upper(), path, query, beta=beta[1] if beta else "", where=where))
        sockets = [found[2] for found in _NODE_SOCKET.finditer(text)]
        if where.startswith(("realtime/", "beta/realtime/")):
            sockets += [found[2] for found in _NODE_REALTIME.finditer(text)]
        asked.update(Asked("GET", _node_template(path), socket=True, where=where) for path in sockets)
    return _merged(asked)


def _node_template(text: str) -> str:
    return re.sub(r"\${(?:\w+\.)*(\w+)}", r"{\1}", text)


def _merged(asked: Iterable[Asked]) -> list[Asked]:
    """One of each: sync and async, and what is written twice, ask for the same."""
    found: dict[tuple[str, str, str, bool], Asked] = {}
    for one in sorted(asked):
        shape = re.sub(r"{\w*}", "{}", one.path)
        found.setdefault((one.method, shape, one.query, one.socket), one)
    return list(found.values())


# The table


def lacking(asked: Iterable[Asked], table: OperationTable) -> list[Asked]:
    """What the table has no row for: no operation, or none that a WebSocket opens."""
    return [one for one in asked if not _is_listed(one, table)]


def _is_listed(one: Asked, table: OperationTable) -> bool:
    try:
        operation = table.match(one.method, one.target, socket=one.socket).operation
    except LookupError:
        return False
    if operation.is_unlisted:
        return False
    # What is closed as a whole is listed for both.
    return operation.is_session == one.socket or not operation.is_contained


def installed_python_package() -> Path:
    """Where the installed `openai` is."""
    return Path(str(distribution("openai").locate_file("openai")))


def _main() -> int:
    parser = argparse.ArgumentParser(description="What the table lacks of what the official SDKs ask for.")
    parser.add_argument("--node", type=Path, default=Path(), help="a folder with node_modules in it")
    folder: Path = parser.parse_args().node
    packages = [(f"Python {distribution('openai').version}", of_python_package(installed_python_package()))]
    node = folder / "node_modules" / "openai"
    if node.is_dir():
        packages.append(("npm", of_node_package(node)))
    else:
        print(f"npm: no package openai in {folder / 'node_modules'}: not read", file=sys.stderr)
    missing = 0
    for name, asked in packages:
        lacks = lacking(asked, OperationTable.load())
        missing += len(lacks)
        print(f"{name}: {len(asked)} operations, {len(lacks)} of them not in the table")
        for one in lacks:
            told = [f"?{one.query}" if one.query else "", "WebSocket" if one.socket else "", one.beta]
            print(f"  {one.method:6} /v1{one.path}  {' '.join(filter(None, told))}  ({one.where})")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(_main())

"""The package keeps the rules of its rooms, and every rule is seen failing on a small tree that breaks it."""

from pathlib import Path

import pytest

from tests.repository.rooms import (
    ALLOWED_BESIDE,
    ENTRANCES,
    INSIDE,
    PURE_MODULES,
    RULES,
    Rule,
    Source,
    aiohttps_insides_are_touched_in_few_places,
    every_import_can_be_read,
    every_module_has_a_room,
    every_room_says_what_it_is_and_exports_nothing_by_accident,
    importing_does_nothing_but_define,
    imports_go_one_way,
    no_room_imports_in_a_circle,
    pure_modules_reach_out_for_nothing,
    touched_inside_aiohttp,
    what_need_not_be_there_is_imported_in_one_place,
)

PACKAGE = Path(__file__).parents[2] / "gateway"


@pytest.fixture(scope="module")
def source() -> Source:
    return Source(PACKAGE)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule: Rule, source: Source) -> None:
    assert not list(rule(source))


def test_no_exception_has_outlived_its_reason(source: Source) -> None:
    assert source.modules.keys() >= INSIDE | PURE_MODULES | ENTRANCES.keys()
    assert all(touched_inside_aiohttp(source.modules[name]) for name in INSIDE)
    assert all(names <= source.imports[module] for module, names in ALLOWED_BESIDE.items())


SOUND = {
    "__init__.py": '"""A package."""\n__version__ = "1"\n',
    "__main__.py": '"""Runs."""\nfrom gateway.cli import main\nif __name__ == "__main__":\n    main()\n',
    "errors.py": '"""Errors."""\nclass Refused(Exception):\n    pass\n',
    "wire/__init__.py": '"""Bytes."""\n',
    "wire/heads.py": '"""Heads."""\nimport re\nfrom gateway.errors import Refused\nNAME = re.compile("a")\n',
    "limits/__init__.py": '"""How much."""\n',
    "limits/terms.py": '"""Terms."""\nimport math\n',
    "limits/stores.py": '"""Stores."""\nimport asyncio\nfrom gateway.limits.terms import x\n',
    "proxy/__init__.py": '"""Bytes between."""\n',
    "proxy/edge.py": '"""Edge."""\nimport aiohttp\ndef f(r):\n    return r._message\n',
    "cli/__init__.py": '"""Commands."""\ndef main(): ...\ndef parser(): ...\n',
    "simulator/__init__.py": (
        '"""An upstream."""\nfrom gateway.simulator.app import build_simulator\n__all__ = ["build_simulator"]\n'
    ),
    "simulator/app.py": '"""The application."""\ndef build_simulator(): ...\n',
}

BROKEN: list[tuple[Rule, dict[str, str], str]] = [
    (
        what_need_not_be_there_is_imported_in_one_place,
        {"cli/serve.py": "def f():\n    from opentelemetry.trace import SpanKind"},
        "gateway.cli.serve imports opentelemetry.trace, which need not be installed",
    ),
    (every_module_has_a_room, {"helpers.py": ""}, "gateway.helpers stands in no known room"),
    (every_module_has_a_room, {"tools/paint.py": ""}, "gateway.tools.paint stands in no known room"),
    (
        every_module_has_a_room,
        {"cli/serve.py": "from gateway.wire.gone import x"},
        "gateway.cli.serve imports gateway.wire.gone, which does not exist",
    ),
    (
        every_module_has_a_room,
        {"cli/serve.py": "from gateway.wire import gone"},
        "gateway.cli.serve imports gateway.wire.gone, which does not exist",
    ),
    (imports_go_one_way, {"wire/x.py": "from gateway.limits import terms"}, "imports gateway.limits.terms"),
    (imports_go_one_way, {"wire/x.py": "import gateway.limits.terms"}, "imports gateway.limits.terms"),
    (imports_go_one_way, {"wire/x.py": "from ..limits.terms import x"}, "imports gateway.limits.terms"),
    (imports_go_one_way, {"wire/x.py": "from ..limits import terms"}, "imports gateway.limits.terms"),
    (
        imports_go_one_way,
        {"wire/x.py": "if TYPE_CHECKING:\n    from gateway.limits.terms import x"},
        "imports gateway.limits.terms",
    ),
    (
        imports_go_one_way,
        {"wire/x.py": "def f():\n    from gateway.limits.terms import x"},
        "imports gateway.limits.terms",
    ),
    (imports_go_one_way, {"errors.py": "from gateway.wire.heads import x"}, "gateway.errors imports"),
    (imports_go_one_way, {"__init__.py": "from gateway.errors import Refused"}, "gateway imports"),
    (imports_go_one_way, {"cli/x.py": "from gateway.__main__ import main"}, "gateway.cli.x imports"),
    (imports_go_one_way, {"simulator/x.py": "from gateway.wire.heads import x"}, "simulator.x imports"),
    (imports_go_one_way, {"proxy/x.py": "from gateway.simulator import y"}, "proxy.x imports"),
    (
        no_room_imports_in_a_circle,
        {"proxy/x.py": "import gateway.proxy.y", "proxy/y.py": "def f():\n    from gateway.proxy import x"},
        "gateway.proxy.x -> gateway.proxy.y -> gateway.proxy.x",
    ),
    (
        no_room_imports_in_a_circle,
        {"proxy/__init__.py": "from gateway.cli import x", "cli/x.py": "from gateway.proxy.edge import y"},
        "gateway.cli.x -> gateway.proxy -> gateway.cli.x",
    ),
    *(
        (pure_modules_reach_out_for_nothing, {"wire/x.py": f"import {name}"}, f"imports {name}")
        for name in ("aiohttp", "aiohttp.web", "asyncio", "os", "pathlib", "socket", "redis.asyncio", "time")
    ),
    (
        pure_modules_reach_out_for_nothing,
        {"wire/x.py": "from importlib import resources"},
        "importlib.resources",
    ),
    (
        pure_modules_reach_out_for_nothing,
        {"operations/x.py": "import importlib.resources"},
        "imports importlib",
    ),
    (pure_modules_reach_out_for_nothing, {"errors.py": "import socket"}, "gateway.errors is to be pure"),
    (pure_modules_reach_out_for_nothing, {"policy/x.py": "import redis"}, "gateway.policy.x is to be pure"),
    (
        pure_modules_reach_out_for_nothing,
        {"limits/terms.py": "if TYPE_CHECKING:\n    from gateway.limits.stores import x"},
        "gateway.limits.terms is to be pure, and imports gateway.limits.stores",
    ),
    (pure_modules_reach_out_for_nothing, {"wire/x.py": "def f(p):\n    return open(p)"}, "calls open"),
    (pure_modules_reach_out_for_nothing, {"wire/x.py": "async def f(): ..."}, "waits in line 1"),
    (
        aiohttps_insides_are_touched_in_few_places,
        {"app/x.py": "from aiohttp.streams import StreamReader"},
        "gateway.app.x touches aiohttp.streams",
    ),
    (
        aiohttps_insides_are_touched_in_few_places,
        {"proxy/x.py": "import aiohttp.web_protocol"},
        "gateway.proxy.x touches aiohttp.web_protocol",
    ),
    (
        aiohttps_insides_are_touched_in_few_places,
        {"proxy/x.py": "from aiohttp.helpers import _SENTINEL"},
        "gateway.proxy.x touches _SENTINEL",
    ),
    (every_import_can_be_read, {"wire/x.py": "def f():\n    __import__('socket')"}, "in line 2"),
    (
        every_import_can_be_read,
        {"app/x.py": "import importlib\nx = importlib.import_module('y')"},
        "in line 2",
    ),
    *(
        (
            importing_does_nothing_but_define,
            {"app/x.py": code},
            "gateway.app.x does something when it is imported",
        )
        for code in ("print(1)", "for x in ():\n    pass", "if x:\n    import y", "x += 1", "del x")
    ),
    (
        every_room_says_what_it_is_and_exports_nothing_by_accident,
        {"wire/__init__.py": ""},
        "has no docstring",
    ),
    (every_room_says_what_it_is_and_exports_nothing_by_accident, {"wire/x.py": "x = 1"}, "has no docstring"),
    (
        every_room_says_what_it_is_and_exports_nothing_by_accident,
        {"wire/__init__.py": '"""Bytes."""\nimport re'},
        "gateway.wire holds more than its docstring",
    ),
    (
        every_room_says_what_it_is_and_exports_nothing_by_accident,
        {"cli/__init__.py": '"""Commands."""\ndef main(): ...\ndef parser(): ...\ndef help_text(): ...'},
        "gateway.cli exports ['help_text']",
    ),
]


def written(directory: Path, files: dict[str, str]) -> Source:
    for name, text in files.items():
        path = directory / "gateway" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Source(directory / "gateway")


def test_a_sound_tree_breaks_no_rule(tmp_path: Path) -> None:
    sound = written(tmp_path, SOUND)

    assert [fault for rule in RULES for fault in rule(sound)] == []


@pytest.mark.parametrize(("rule", "files", "fault"), BROKEN)
def test_every_rule_is_seen_failing(rule: Rule, files: dict[str, str], fault: str, tmp_path: Path) -> None:
    faults = list(rule(written(tmp_path, SOUND | files)))

    assert len(faults) == 1
    assert fault in faults[0]

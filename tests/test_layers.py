"""Imports in the package go down: no room knows one above it or beside it, and no two files import each other."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "modeling_pjvlt"
# From the bottom up. Rooms on one line do not import each other; "" are the files that lie in the package itself.
LAYERS = (
    ("",),
    ("data", "visualization"),
    ("evaluation",),
    ("training", "onnx", "hub"),
    ("cli", "__main__"),
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
PATHS = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in PATHS}


def room_of(module: str) -> str:
    first = (*module.split("."), "")[1]
    return first if first in LEVEL else ""


def imports_of(module: str) -> set[str]:
    """The modules of the package that a module imports, also inside functions, and the packages they lie in."""
    path = MODULES[module]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: len(module.split(".")) - node.level + (path.name == "__init__.py")]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    packages = {".".join(name.split(".")[:length]) for name in found for length in range(1, name.count(".") + 1)}
    return {name for name in found | packages if name in MODULES and not f"{module}.".startswith(f"{name}.")}


def test_every_room_has_its_place():
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()} == LEVEL.keys() - {
        "",
        "__main__",
    }


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    room = room_of(module)
    wrong = {name for name in imports_of(module) if room_of(name) != room and LEVEL[room_of(name)] >= LEVEL[room]}
    assert not wrong


def test_no_two_modules_import_each_other():
    try:
        TopologicalSorter({module: imports_of(module) for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("modeling_pjvlt.data.loading", "modeling_pjvlt.data.streaming"),
        ("modeling_pjvlt.data.synthetic.photographs", "modeling_pjvlt.data.converters"),
        ("modeling_pjvlt.command_parser", "modeling_pjvlt.streams_pjvlt"),
        ("modeling_pjvlt.cli.train", "modeling_pjvlt.hub.publishing"),
        ("modeling_pjvlt.evaluation.tracking_scores.tracking_scores", "modeling_pjvlt.evaluation.protocols"),
    ],
)
def test_imports_are_found_in_every_form(module, imported):
    assert imported in imports_of(module)

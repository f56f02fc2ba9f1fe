"""Who may import whom: the rules of CONTRIBUTING.md, read off the syntax trees of the files in dlsql and udfs."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The floor of each module of dlsql (a folder counts as one). A module imports its own floor and those below it: larger numbers.
FLOORS = {
    "session": 1,
    "bridge": 2,
    "parser": 3,
    "reader": 3,
    "script": 3,
    "terms": 3,
    "rewrite": 3,
    "statements": 3,
    "commands": 4,
    "functions": 4,
    "values": 4,
    "catalog": 5,
    "model": 5,
    "tables": 5,
    "training": 6,
    "inference": 6,
    "encoding": 6,
    "formats": 6,
    "progress": 6,
    "interrupts": 7,
    "code": 6,
    "options": 7,
    "quoting": 7,
    "errors": 7,
}
# Pure data, pure text, and the bridge, which imports nothing of dlsql but errors: everyone may import them.
FREE = {"statements", "model", "options", "errors", "quoting", "reader", "terms", "parser", "bridge"}
ON_TOP = {"__init__", "__main__", "frame", "server", "cli", "shell", "results", "ml"}  # import everything; only one another imports them

# An import, and the only rooms where it may stand.
ROOMS = {
    "torch": (
        "udfs/engines/",
        "udfs/networks/",
        "udfs/train.py",
        "udfs/losses.py",
        "udfs/schedules.py",
        "udfs/batches.py",
        "udfs/sync.py",
        "udfs/groups.py",
        "dlsql/formats/",
    ),
    "onnxruntime": ("udfs/engines/", "dlsql/formats/"),
    "keras": ("udfs/engines/", "udfs/networks/", "dlsql/formats/"),
    "tf_keras": ("udfs/engines/", "udfs/networks/", "dlsql/formats/"),
    "tensorflow": ("udfs/engines/", "udfs/networks/", "dlsql/formats/"),
    "sqlglot": ("dlsql/reader.py",),
}
UNKNOWN_TO_UDFS = {"dlsql", "pyspark", "sqlglot"}
WITHOUT_SPARK = ["parser", "rewrite", "statements", "model", "options", "errors"]

# py4j's edge, and the only rooms where it may be touched.
PY4J_EDGE = {"_jvm", "_jdf", "_jsparkSession", "_jsc"}
PY4J_ROOMS = {"dlsql/bridge.py", "dlsql/server.py"}

FILES = sorted(str(file.relative_to(ROOT)) for package in ("dlsql", "udfs") for file in (ROOT / package).rglob("*.py"))


def imports(file: str, source: str) -> Iterator[tuple[int, str]]:
    """The line and the dotted name of everything that a file imports, wherever in it; `from a import b` gives a.b."""
    package = Path(file).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def module_of_dlsql(file: str) -> str:
    """`dlsql/training/rounds.py` -> `training`."""
    return Path(file).with_suffix("").parts[1]


def imported_from_dlsql(name: str) -> str | None:
    """The module or folder of dlsql that an imported name is in; `__init__` for a name of the package itself."""
    parts = name.split(".")
    if parts[0] != "dlsql":
        return None
    known = len(parts) > 1 and (parts[1] in FLOORS or parts[1] in ON_TOP)
    return parts[1] if known else "__init__"


def wrong_floors(file: str, source: str) -> list[str]:
    importer = module_of_dlsql(file)
    if importer in ON_TOP:
        return []
    found = []
    for line, name in imports(file, source):
        imported = imported_from_dlsql(name)
        if imported in ON_TOP:
            found.append(f"{file}:{line} imports {name}, which only {', '.join(sorted(ON_TOP))} may")
        elif imported and imported not in FREE and FLOORS[imported] < FLOORS[importer]:
            found.append(f"{file}:{line} (floor {FLOORS[importer]}) imports {name} (floor {FLOORS[imported]})")
    return found


def wrong_rooms(file: str, source: str) -> list[str]:
    return [
        f"{file}:{line} imports {name}; {', '.join(rooms)} may"
        for line, name in imports(file, source)
        if (rooms := ROOMS.get(name.split(".")[0])) and not file.startswith(rooms)
    ]


def imports_of(packages: set[str], file: str, source: str) -> list[str]:
    return [f"{file}:{line} imports {name}" for line, name in imports(file, source) if name.split(".")[0] in packages]


def touches_py4j(file: str, source: str) -> list[str]:
    """Attributes, and their names in strings: getattr(spark, "_jvm") is no way around."""
    found = []
    for node in ast.walk(ast.parse(source)):
        name = node.attr if isinstance(node, ast.Attribute) else node.value if isinstance(node, ast.Constant) else None
        if isinstance(name, str) and name in PY4J_EDGE and file not in PY4J_ROOMS:
            found.append(f"{file}:{node.lineno} touches {name}; {', '.join(sorted(PY4J_ROOMS))} may")
    return found


def of(package: str) -> list[str]:
    return [file for file in FILES if file.startswith(f"{package}/")]


@pytest.mark.parametrize("file", of("dlsql"))
def test_every_module_of_dlsql_has_a_floor(file: str) -> None:
    assert module_of_dlsql(file) in FLOORS.keys() | ON_TOP


@pytest.mark.parametrize("file", of("dlsql"))
def test_imports_only_look_downwards(file: str) -> None:
    assert wrong_floors(file, (ROOT / file).read_text()) == []


@pytest.mark.parametrize("file", FILES)
def test_engines_and_sqlglot_stay_in_their_rooms(file: str) -> None:
    assert wrong_rooms(file, (ROOT / file).read_text()) == []


@pytest.mark.parametrize("file", of("udfs"))
def test_udfs_imports_nothing_of_the_driver(file: str) -> None:
    assert imports_of(UNKNOWN_TO_UDFS, file, (ROOT / file).read_text()) == []


@pytest.mark.parametrize("file", FILES)
def test_only_the_bridge_and_the_server_touch_py4j(file: str) -> None:
    assert touches_py4j(file, (ROOT / file).read_text()) == []


@pytest.mark.parametrize("file", [f"dlsql/{module}.py" for module in WITHOUT_SPARK if f"dlsql/{module}.py" in FILES])
def test_language_and_data_name_no_spark(file: str) -> None:
    assert imports_of({"pyspark", "py4j"}, file, (ROOT / file).read_text()) == []


def test_language_and_data_load_no_spark() -> None:
    modules = [f"dlsql.{module}" for module in WITHOUT_SPARK if f"dlsql/{module}.py" in FILES]
    # The package stands in empty for its __init__, which may well load Spark: what these modules bring along is asked here.
    program = f"""
import importlib, sys, types
package = types.ModuleType("dlsql")
package.__path__ = [{str(ROOT / "dlsql")!r}]
sys.modules["dlsql"] = package
for module in {modules!r}:
    importlib.import_module(module)
print(sorted({{"pyspark", "py4j", "torch", "onnxruntime", "tensorflow", "keras"}} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")


# The rules above, on sources that break them.


def test_import_of_a_floor_above_is_found() -> None:
    source = "import numpy\nfrom dlsql import catalog, errors\nfrom dlsql.options import OPTIONS\n"
    assert wrong_floors("dlsql/training/rounds.py", source) == [
        "dlsql/training/rounds.py:2 (floor 6) imports dlsql.catalog (floor 5)",
    ]


def test_relative_and_local_imports_are_found() -> None:
    source = "from . import merge\ndef run():\n    from ..commands import run\n"
    assert wrong_floors("dlsql/training/rounds.py", source) == [
        "dlsql/training/rounds.py:3 (floor 6) imports dlsql.commands.run (floor 4)",
    ]


def test_import_of_the_top_is_found() -> None:
    top = ", ".join(sorted(ON_TOP))
    assert wrong_floors("dlsql/session.py", "from dlsql.frame import Frame\nfrom dlsql import attach\n") == [
        f"dlsql/session.py:1 imports dlsql.frame.Frame, which only {top} may",
        f"dlsql/session.py:2 imports dlsql.attach, which only {top} may",
    ]


def test_the_top_imports_everything() -> None:
    assert wrong_floors("dlsql/cli.py", "from dlsql import server, session\nimport dlsql.catalog\n") == []


def test_engine_outside_its_room_is_found() -> None:
    assert wrong_rooms("udfs/predict.py", "def f():\n    import torch.nn\n") == [
        "udfs/predict.py:2 imports torch.nn; udfs/engines/, udfs/networks/, udfs/train.py, udfs/losses.py, udfs/schedules.py, udfs/batches.py, udfs/sync.py, udfs/groups.py, dlsql/formats/ may",
    ]
    assert wrong_rooms("udfs/train.py", "import torch\n") == []


def test_py4j_is_found_as_attribute_and_as_string() -> None:
    assert touches_py4j("dlsql/catalog.py", "a = spark._jvm\nb = getattr(frame, '_jdf')\n") == [
        "dlsql/catalog.py:1 touches _jvm; dlsql/bridge.py, dlsql/server.py may",
        "dlsql/catalog.py:2 touches _jdf; dlsql/bridge.py, dlsql/server.py may",
    ]
    assert touches_py4j("dlsql/bridge.py", "a = spark._jvm\n") == []

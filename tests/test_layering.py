"""Rooms and floors: a file includes or imports only from floors below its own.

The tables are read from the ground up. A file that stands in none of them fails the test: add it to the floor where it
belongs, below everything that uses it.
"""

import ast
import re
import sys
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parent.parent

# ---------------------------------------------------------------------------------------------------- C
# Two wings stand on one foundation and do not see each other: kernels are reached through the table of kernels.h alone.
FOUNDATION = [["ops.def"], ["backprop.h"], ["kernels.h"]]
WINGS = {
    "kernels": [["simd/*.h"], ["kernels/[!t]*.h"], ["kernels/table.h"], ["isa_*.c"]],
    "executor": [
        ["cpu.c", "rng.c", "pool.c", "ops.c", "text.c"],
        ["matmul.c", "bfloat16.c"],
        ["program.h"],
        ["decode.c", "map.c", "reduce.c", "rows.c", "plan.c", "program.c", "fit.c"],
    ],
}


def c_place(name):
    """(wing, floor) of a file of csrc, or None."""
    for wing, floors in [("foundation", FOUNDATION), *WINGS.items()]:
        for floor, patterns in enumerate(floors):
            if any(fnmatch(name, pattern) for pattern in patterns):
                return wing, floor
    return None


def c_violations(files):
    """What is wrong in {name relative to csrc: source}: a list of sentences."""
    found = []
    for name, source in files.items():
        place = c_place(name)
        if place is None:
            found.append(f"csrc/{name} has no floor: add it to FOUNDATION or WINGS in {Path(__file__).name}")
            continue
        for target in re.findall(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', source, re.MULTILINE):
            beside = (Path(name).parent / target).as_posix()
            parts = []
            for part in beside.split("/"):
                parts = parts[:-1] if part == ".." else [*parts, part]
            path = "/".join(parts) if "/".join(parts) in files else target
            there = c_place(path)
            if there is None or path not in files:
                found.append(f"csrc/{name} includes {target}, which is no file of csrc")
            elif there[0] not in ("foundation", place[0]) or (there[0] == place[0] and there[1] >= place[1]):
                found.append(f"csrc/{name} ({place[0]}, floor {place[1]}) includes {path} ({there[0]}, floor {there[1]})")
        if place[0] == "kernels" and re.search(r"^[ \t]*#[ \t]*include[ \t]*<math\.h>", source, re.MULTILINE):
            found.append(f"csrc/{name} includes <math.h>: its bits differ between machines")
    return found


def test_c_files_include_only_from_lower_floors():
    files = {
        path.relative_to(ROOT / "csrc").as_posix(): path.read_text()
        for path in (ROOT / "csrc").rglob("*")
        if path.suffix in (".c", ".h", ".def")
    }
    assert {"backprop.h", "kernels.h", "simd/avx2.h", "kernels/table.h"} <= files.keys()
    assert c_violations(files) == []


def test_a_planted_include_is_found():
    good = {
        "ops.def": "",
        "backprop.h": '#include "ops.def"',
        "kernels.h": '#include "backprop.h"\n#include <stdint.h>',
        "program.h": '#include "kernels.h"',
        "simd/avx2.h": "",
        "kernels/math.h": "",
        "kernels/table.h": '#include "../kernels.h"\n#include "math.h"',
        "isa_avx2.c": '#include "simd/avx2.h"\n#include "kernels/table.h"',
        "program.c": '#include "program.h"',
    }
    assert c_violations(good) == []
    for name, line in [
        ("backprop.h", '#include "kernels.h"'),  # upwards
        ("program.c", '#include "simd/avx2.h"'),  # into the other wing
        ("program.c", '  #  include "kernels/math.h"'),
        ("isa_avx2.c", '#include "program.h"'),
        ("kernels/math.h", '#include "table.h"'),
        ("simd/avx2.h", '#include "../kernels/math.h"'),
        ("program.c", '#include "elsewhere.h"'),
        ("kernels/math.h", "#include <math.h>"),
    ]:
        assert len(c_violations({**good, name: good[name] + "\n" + line})) == 1, (name, line)
    assert "add it to" in c_violations({**good, "new.c": ""})[0]


# ---------------------------------------------------------------------------------------------------- Python
FLOORS = [
    ["_core", "errors", "drawing", "layered"],
    ["graph", "arrays"],
    ["ops"],
    ["functions", "autodiff", "operation", "sparse"],
    ["simplify", "plan"],
    ["rowblocks", "rowupdates"],
    ["lower"],
    ["eager"],
    ["init", "schedules", "metrics", "data", "files", "callbacks", "streams"],
    ["losses", "optim", "updates", "vectorfiles"],
    ["layers"],
    ["embedding"],
    ["structure"],
    ["network"],
    ["saving", "accumulation"],
    ["trainer", "vectors", "windows", "features"],
    ["checkpoint", "gradcheck", "charts", "rates", "profiling", "many"],
    ["view", "benchmark"],
    ["sklearn", "torch", "thinc", "onnx", "mpi"],
    ["__init__"],
    ["__main__"],
]
FLOOR_OF = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}


def imports(tree):
    """(name as `a.b`, whether it runs when the module is imported, line) of every import in a syntax tree."""

    def walk(node, at_import):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, at_import, child.lineno) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = "backprop" if child.level else ""
                base = ".".join(filter(None, [base, child.module]))
                if base == "backprop":  # a module, or something that __init__ has
                    yield from ((f"backprop.{alias.name}", at_import, child.lineno) for alias in child.names)
                else:
                    yield base, at_import, child.lineno
            elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                yield from walk(child, False)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                yield from walk(child, False)
            else:
                yield from walk(child, at_import)

    return walk(tree, True)


def python_violations(module, source):
    """What is wrong in the source of backprop.<module>: a list of sentences."""
    if module not in FLOOR_OF:
        return [f"backprop/{module}.py has no floor: add it to FLOORS in {Path(__file__).name}"]
    found = []
    for name, at_import, line in imports(ast.parse(source)):
        top, _, rest = name.partition(".")
        where = f"backprop/{module}.py:{line} imports {name}"
        if top == "backprop":
            target = rest.partition(".")[0]
            target = target if target in FLOOR_OF else "__init__"
            if FLOOR_OF[target] >= FLOOR_OF[module]:
                found.append(f"{where}: {target} is on floor {FLOOR_OF[target]}, {module} on {FLOOR_OF[module]}")
        elif at_import and top != "numpy" and top not in sys.stdlib_module_names:
            found.append(f"{where} at module level: only NumPy and the standard library may stand there")
    return found


def test_python_modules_import_only_from_lower_floors():
    sources = {path.stem: path.read_text() for path in (ROOT / "backprop").glob("*.py")}
    assert "__init__" in sources
    assert [found for module in sorted(sources) for found in python_violations(module, sources[module])] == []


def test_a_planted_import_is_found():
    good = """
import os, numpy as np
from . import graph, _core
from .errors import ShapeError
from backprop.graph import Tensor
def picture():
    import matplotlib.pyplot
"""
    assert python_violations("ops", good) == []
    for line in [
        "from . import lower",
        "from .network import Network",
        "import backprop.trainer as t",
        "from backprop import Trainer",
        "import backprop",
        "from . import ops",  # its own floor
        "def late():\n    from . import layers",  # inside functions too
        "import matplotlib",
        "class A:\n    import torch",
        "try:\n    import scipy.sparse\nexcept ImportError:\n    pass",
    ]:
        assert len(python_violations("ops", good + line)) == 1, line
    assert "add it to FLOORS" in python_violations("novelty", "")[0]

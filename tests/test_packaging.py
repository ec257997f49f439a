"""The package as it is installed: what importing it does, what the shared library shows, what lies beside it."""

import ast
import ctypes
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

import backprop
from backprop import _core

PACKAGE = Path(backprop.__file__).parent


def python(code, **environ):
    """Runs `code` in a new interpreter that imports the same package."""
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, **environ}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)


def test_import_brings_numpy_and_the_standard_library_alone():
    run = python("import sys, numpy; before = set(sys.modules); import backprop; print(*set(sys.modules) - before)")
    assert run.returncode == 0, run.stderr
    tops = {name.partition(".")[0] for name in run.stdout.split()}
    assert "backprop" in tops
    own = {"backprop", "numpy", "cython_runtime"}  # Cython's runtime: modules that the extension makes itself
    assert not tops & {"csv", "gzip", "pathlib", "secrets", "urllib", "argparse"}, "slow to import, and only some need them"
    assert {t for t in tops - own - sys.stdlib_module_names if not t.startswith("_cython_")} == set()


def test_unknown_instruction_set_is_an_import_error():
    run = python("import backprop._core", BACKPROP_ISA="bogus")
    assert run.returncode != 0
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and "BACKPROP_ISA" in last and "bogus" in last and "scalar" in last


@pytest.mark.parametrize("name", ["", *_core.isa_runnable()])
def test_instruction_set_can_be_forced(name):
    run = python(
        "from backprop import _core; print(*[r['name'] for r in _core.isa_info() if r['current']])", BACKPROP_ISA=name
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == (name or _core.isa_runnable()[-1])


def test_scalar_runs_everywhere():
    rows = {row["name"]: row for row in _core.isa_info()}
    assert _core.isa_runnable()[0] == "scalar"
    assert [name for name, row in rows.items() if row["supported"]] == _core.isa_runnable()
    assert all(row["compiled"] for row in rows.values() if row["supported"])
    assert sum(row["current"] for row in rows.values()) == 1


def test_version_is_the_same_everywhere():
    try:
        installed = importlib.metadata.version("backprop")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("built in place, not installed")
    assert backprop.__version__ == installed


def test_wheel_has_types_and_no_sources():
    assert {"py.typed", "_core.pyi", "_core.pxd"} <= {path.name for path in PACKAGE.iterdir()}
    try:
        dist = importlib.metadata.distribution("backprop")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("built in place, not installed")
    if "site-packages" not in str(PACKAGE):
        pytest.skip("an editable install shows the source tree")
    assert not [str(path) for path in dist.files if path.suffix in (".c", ".h", ".def", ".pyx", ".pxi", ".o")]


def public(names):
    return {name for name in names if not name.startswith("_")}


def test_stub_lists_every_public_name():
    stub = {}  # name -> names in its body, for classes
    for node in ast.parse((PACKAGE / "_core.pyi").read_text()).body:
        if isinstance(node, ast.ClassDef):
            stub[node.name] = {
                child.name if isinstance(child, ast.FunctionDef) else child.target.id
                for child in node.body
                if isinstance(child, (ast.FunctionDef, ast.AnnAssign))
            }
        elif isinstance(node, ast.FunctionDef):
            stub[node.name] = set()
        elif isinstance(node, ast.AnnAssign):
            stub[node.target.id] = set()
    modules = {name for name in vars(_core) if type(getattr(_core, name)) is type(sys)}
    assert public(stub) == public(vars(_core)) - modules
    for name in ("Program", "Binding"):
        assert public(stub[name]) == public(vars(getattr(_core, name)))


def test_only_the_thread_controls_are_exported():
    library = ctypes.CDLL(_core.__file__)
    assert library.backprop_get_num_threads() == _core.threads_get()
    for name in ("bp_run", "bp_threads_get", "bp_gemm_run", "bp_kernels_scalar_f32"):
        assert not hasattr(library, name)


def test_threadpoolctl_finds_and_limits_the_library():
    threadpoolctl = pytest.importorskip("threadpoolctl")

    # The file is found by its beginning, `_core.`, and told from others of that name by the symbols it shows.
    class Controller(threadpoolctl.LibController):
        user_api = internal_api = "backprop"
        filename_prefixes = ("_core.",)
        check_symbols = ("backprop_get_num_threads", "backprop_set_num_threads")

        def get_num_threads(self):
            return self.dynlib.backprop_get_num_threads()

        def set_num_threads(self, n):
            self.dynlib.backprop_set_num_threads(n)

        def get_version(self):
            return None

    before = _core.threads_get()
    infos = [Controller(filepath=_core.__file__, prefix="_core.").info()]
    assert infos[0]["num_threads"] == before
    threadpoolctl.register(Controller)
    found = threadpoolctl.ThreadpoolController().select(user_api="backprop")
    assert [Path(row["filepath"]) for row in found.info()] == [Path(_core.__file__).resolve()]
    with found.limit(limits=3):
        assert _core.threads_get() == 3
    assert _core.threads_get() == before

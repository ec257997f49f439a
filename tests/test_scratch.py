"""The scratch that is asked for holds what products use, by ``scratch.c``: a C compiler sees what no call can."""

import shutil
import subprocess
from pathlib import Path

import pytest

CORE = Path(__file__).resolve().parents[1] / "csrc"
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


@pytest.mark.skipif(COMPILER is None or not CORE.is_dir(), reason="needs a C compiler and the sources of the core")
def test_scratch_holds_what_products_use(tmp_path):
    program, source = tmp_path / "scratch", Path(__file__).with_name("scratch.c")
    subprocess.run([COMPILER, "-std=gnu11", "-O1", "-w", f"-I{CORE}", source, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout

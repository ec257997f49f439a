"""Builds the extension: the C core, its kernels once per instruction set and float type, and Cython's module over it.

Everything else about the package stands in pyproject.toml.
"""

import os
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CSRC = Path("csrc")

# Bits are part of the contract, so the flags that could change them come last and win over CFLAGS: no contraction of
# a*b + c behind the source's back, no fast-math (on a link line it would also set flush-to-zero for the whole process).
# Without errno a square root is one instruction everywhere, and libm is not needed; -fno-fast-math would reset that.
# Names are hidden but for the module's own and those that threadpoolctl looks for.
C_FLAGS = ["-std=c11", "-O3", "-g0", "-fvisibility=hidden", "-pthread"]
C_FLAGS += ["-fno-fast-math", "-ffp-contract=off", "-fno-math-errno"]
LINK_FLAGS = ["-pthread", "-fno-fast-math"]
# Python's own flags have signed numbers wrap around, for its sake and Cython's; the kernels' addresses are simpler where they do not.
CSRC_FLAGS = [*C_FLAGS, "-fno-wrapv"]

# csrc/isa_<set>.c by target, with the flags of that set alone. -DBP_HAVE_<SET> tells cpu.c what there is.
SETS = {
    "x86_64": {
        "scalar": [],
        "avx2": ["-mavx2", "-mfma"],
        "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma"],
    },
    "aarch64": {
        "scalar": [],
        "neon": [],
    },
}
OTHER_TARGET = {"scalar": []}
# csrc/isa_bf16.c: products of bfloat16 beside AVX-512, where the compiler knows their instructions.
BF16_FLAGS = [*SETS["x86_64"]["avx512"], "-mavx512bf16", "-mamx-tile", "-mamx-bf16"]

# One wheel for every Python from 3.11 on; free-threaded builds have no stable ABI and get a wheel per version.
LIMITED_API = not sysconfig.get_config_var("Py_GIL_DISABLED")


def target_sets(compiler: list[str]) -> dict[str, list[str]]:
    """The sets of the processor that `compiler`, with its flags, compiles for (not the one that runs this)."""
    command = [*compiler, "-dM", "-E", "-x", "c", os.devnull]
    macros = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for target, sets in SETS.items():
        if f"#define __{target}__ " in macros:
            return sets
    return OTHER_TARGET


def knows_bf16(compiler: list[str], target: Path) -> bool:
    """Whether `compiler`, its headers and its assembler take BF16_FLAGS; older ones do not. Makes the object `target` to see."""
    code = "#include <immintrin.h>\nvoid f(void) { _tile_dpbf16ps(0, 1, 2); }"
    command = [*compiler, *BF16_FLAGS, "-c", "-x", "c", "-", "-o", str(target)]
    return subprocess.run(command, input=code, capture_output=True, text=True).returncode == 0


class BuildExt(build_ext):
    """Compiles csrc/*.c into objects of their own flags, which the extension then links."""

    def finalize_options(self):
        super().finalize_options()
        self.cython_c_in_temp = True  # generated C never lies in the source tree

    def build_extension(self, ext):
        sets = target_sets(self.compiler.compiler_so)
        have = [f"-DBP_HAVE_{name.upper()}=1" for name in sets]
        folder = Path(self.build_temp, "csrc")
        folder.mkdir(parents=True, exist_ok=True)
        bf16 = "avx512" in sets and knows_bf16(self.compiler.compiler_so, folder / "bf16.o")
        have += ["-DBP_HAVE_BF16=1"] * bf16

        jobs = [
            (source, folder / f"{source.stem}.o", have)
            for source in sorted(CSRC.glob("*.c"))
            if not source.name.startswith("isa_")
        ]
        for name, flags in sets.items():
            for bits in (32, 64):
                defines = [f"-DBP_REAL={bits}", *have]
                jobs.append((CSRC / f"isa_{name}.c", folder / f"isa_{name}_f{bits}.o", [*flags, *defines]))
        if bf16:
            jobs.append((CSRC / "isa_bf16.c", folder / "isa_bf16.o", [*BF16_FLAGS, "-DBP_REAL=32", *have]))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ext.extra_objects = [str(path) for path in pool.map(lambda job: self.compile_object(*job), jobs)]

        ext.depends = ext.extra_objects + [str(path) for path in Path("backprop").glob("_*.p[yx][xdi]")]
        super().build_extension(ext)

    def compile_object(self, source: Path, target: Path, flags: list[str]) -> Path:
        """Compiles `source`, unless `target` was made by the same command from no older files."""
        command = [*self.compiler.compiler_so, "-c", str(source), "-o", str(target), *CSRC_FLAGS, *flags]
        record = target.with_suffix(".cmd")
        # Any header may be included by any source: one rule that is never wrong is worth the few seconds it costs.
        newest = max(path.stat().st_mtime for path in [source, *CSRC.rglob("*.h"), *CSRC.rglob("*.def")])
        fresh = target.exists() and target.stat().st_mtime > newest
        if self.force or not fresh or not record.exists() or record.read_text() != "\n".join(command):
            record.unlink(missing_ok=True)
            print(*command, flush=True)
            subprocess.run(command, check=True)
            record.write_text("\n".join(command))
        return target


setup(
    ext_modules=[
        Extension(
            "backprop._core",
            ["backprop/_core.pyx"],
            include_dirs=[str(CSRC)],
            define_macros=[("Py_LIMITED_API", "0x030B0000")] if LIMITED_API else [],
            py_limited_api=LIMITED_API,
            extra_compile_args=C_FLAGS,
            extra_link_args=LINK_FLAGS,
        )
    ],
    cmdclass={"build_ext": BuildExt},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED_API else {},
)

"""Build hook: compile the picture path, where there is a C compiler.

A wheel that is built without one reads pictures with NumPy: slower, with the same answers. So does
one that is built with HATCH_BUILD_NO_HOOKS=true, which any machine can install.
"""

import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags

SOURCES = Path("edge_mnist/picture")
MODULE = "_reader"
# Within 10 % of the speed of -O3 at half the size: the wheel has little room.
FLAGS = ["-std=c99", "-O2", "-ftree-vectorize", "-fvisibility=hidden"]
FLAGS += ["-fno-asynchronous-unwind-tables", "--param=vect-epilogues-nomask=0", "-g0"]


class ReaderHook(BuildHookInterface[Any]):
    """Adds the compiled module to a wheel, which then is of one platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; what goes wrong there is told, and leaves a wheel of pure Python."""
        # An editable installation imports from the source folder, where a former module may lie.
        is_editable = version == "editable"
        self.folder = Path(self.root) / SOURCES if is_editable else Path(tempfile.mkdtemp())
        for suffix in ("so", "pyd"):
            for former in self.folder.glob(f"{MODULE}*.{suffix}"):
                former.unlink()
        try:
            module = compile_reader(Path(self.root), self.folder)
        except (Exception, SystemExit) as error:  # compilers and setuptools raise anything
            self.app.display_warning(f"No C module, NumPy will read the pictures: {error}")
            return
        if not is_editable:
            build_data["force_include"][str(module)] = str(SOURCES / module.name)
        # The first tag without manylinux or musllinux is that of this Python on this machine.
        names = (tag.platform for tag in sys_tags())
        name = next(one for one in names if not one.startswith(("manylinux", "musllinux")))
        build_data |= {"pure_python": False, "tag": f"cp311-abi3-{name}"}

    def finalize(  # its arguments are those of the interface
        self,
        version: str,
        build_data: dict[str, Any],  # noqa: ARG002
        artifact_path: str,  # noqa: ARG002
    ) -> None:
        """Remove what was compiled for a wheel, which holds it now."""
        if version != "editable":
            shutil.rmtree(self.folder, ignore_errors=True)


def compile_reader(root: Path, folder: Path) -> Path:
    """Compile the module into a folder and return its path."""
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    if platform.python_implementation() != "CPython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise OSError("it needs CPython's stable ABI")
    extension = Extension(
        MODULE,
        [str(root / SOURCES / name) for name in ("_reader.c", "reader.c")],
        extra_compile_args=["/std:c11"] if os.name == "nt" else FLAGS,
        # A sixth faster where the processor has AVX2; musl's loader cannot choose.
        define_macros=[("EDGE_MNIST_HOT", '__attribute__((target_clones("avx2","default")))')]
        if platform.libc_ver()[0] == "glibc" and platform.machine() == "x86_64"
        else [],
        extra_link_args=["-s"] if sys.platform == "linux" else [],
        py_limited_api=True,
    )
    command = build_ext(Distribution({"ext_modules": [extension]}))
    with tempfile.TemporaryDirectory() as build_temp:
        command.build_lib, command.build_temp = str(folder), build_temp
        command.ensure_finalized()
        command.run()
    return Path(command.get_ext_fullpath(MODULE))

"""Makes one layer of an image: pip installs it, then what no step needs goes, bytecode is made, and all gets one date.

Runs inside a build alone, by the base's own interpreter and from a mount: nothing of it stays in the image. The
same packages make the same bytes, whenever it runs.
"""

from __future__ import annotations

import argparse
import csv
import os
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.util import cache_from_source
from multiprocessing import get_context
from pathlib import Path

VENV = Path("/opt/venv")
# Every AWS service has a description, 25 MB; the S3 client needs its own and those of the ways to log in.
_AWS_SERVICES = {"s3", "signin", "sso", "sso-oidc", "sts"}
# What no step imports, as patterns in the folder of packages.
_NOT_IMPORTED = (
    # For compilers, of which an image has none. torch asks for setuptools to build extensions in C++.
    "setuptools",
    "setuptools-*.dist-info",
    "_distutils_hack",
    "distutils-precedence.pth",
    "numpy/_core/include",
    "numpy/distutils",
    "numpy/f2py",
    "torch/bin/[!t]*",
    "torch/bin/test_*",
    "torch/include",
    "torch/share/cmake",
    # What others test their runtimes by, and what it is built from.
    "onnx/backend",
    "onnx/**/*.cc",
    "onnx/**/*.h",
    # Converts, quantises and measures models; a step runs them.
    "onnxruntime/datasets",
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "onnxruntime/transformers",
    # TensorBoard's own pages and server; a step writes what they show.
    "tensorboard/_vendor",
    "tensorboard/webfiles.zip",
    "tensorboard_data_server",
    "tensorboard_data_server-*.dist-info",
    # MLflow's own servers, their databases and chat; a step is their client.
    "mlflow/assistant",
    "mlflow/server",
    "mlflow/store/db_migrations",
    # google-auth reads keys by it where cryptography is missing.
    "pyasn1_modules",
    "pyasn1_modules-*.dist-info",
    # pyarrow's server of tables, what compilers read, and the copies that pip makes of a library for each of its names.
    "pyarrow/_flight*",
    "pyarrow/libarrow_flight*",
    "pyarrow/_pyarrow_cpp_tests*",
    "pyarrow/include",
    "pyarrow/includes",
    "pyarrow/src",
    "pyarrow/libarrow_python*.so",
    "pyarrow/libarrow_python*.so.*.*.*",
    "pyarrow/libarrow_python_flight*",
    # torch reckons with the sizes of tensors, and sympy with the world besides.
    "sympy/categories",
    "sympy/crypto",
    "sympy/diffgeom",
    "sympy/holonomic",
    "sympy/liealgebras",
    "sympy/parsing/autolev",
    "sympy/parsing/latex",
    "sympy/physics",
    "sympy/stats",
    "sympy/vector",
)


def pip_install(pip: Path, wheels: Path, *options: str) -> None:
    """Let the pip of another stage install into the image's environment, without bytecode: pip's holds dates."""
    command = [str(pip), "-m", "pip", "--python", str(VENV / "bin/python"), "install", "--no-compile", "--quiet"]
    command += ["--disable-pip-version-check", "--no-warn-script-location", "--root-user-action=ignore"]
    command += ["--only-binary=:all:", "--find-links", str(wheels), *options]
    if subprocess.run(command, check=False).returncode:
        sys.exit("install.py: pip could not install this layer's packages; its lines above say why")


def not_needed(packages: Path) -> Iterator[Path]:
    """Folders and files that no step reads: tests, what compilers and type checkers read, commands."""
    for pattern in _NOT_IMPORTED:
        yield from packages.glob(pattern)
    yield from (path for path in (VENV / "bin").iterdir() if not path.name.startswith("python"))
    for folder, folders, files in os.walk(packages):
        here = Path(folder)
        services = here in (packages / "botocore" / "data", packages / "boto3" / "data")
        for name in sorted(folders):
            if name in ("test", "tests", "test_data") or (services and name not in _AWS_SERVICES):
                folders.remove(name)
                yield here / name
        for name in files:
            if name.endswith((".pyi", ".pxd", ".pxi", ".pyx", ".a")) or (
                name.endswith("_test.py") and here.is_relative_to(packages / "kfp")
            ):
                yield here / name


def strip(packages: Path) -> None:
    """Remove what no step reads, from the packages' records too."""
    for path in list(not_needed(packages)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)  # it went with its folder
    for record in packages.glob("*.dist-info/RECORD"):
        with record.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.reader(stream))
        left = [row for row in rows if (packages / row[0]).exists()]
        if len(left) < len(rows):
            with record.open("w", newline="", encoding="utf-8") as stream:
                csv.writer(stream, lineterminator="\n").writerows(left)


def compile_file(source: Path) -> str | None:
    """Make bytecode that is trusted without a look at its source: all dates are one; returns why it cannot."""
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    try:
        py_compile.compile(str(source), doraise=True, invalidation_mode=unchecked)
    except (py_compile.PyCompileError, UnicodeDecodeError, ValueError) as error:
        return str(error)
    return None


def compile_new(folder: Path) -> None:
    """Make the bytecode that is not there yet; that of lower layers must not be written again."""
    sources = [source for source in sorted(folder.rglob("*.py")) if not Path(cache_from_source(source)).exists()]
    # Each part in a process of its own: what bytecode marks as referred to depends on the texts that its process has
    # seen before, and so on which files that has compiled.
    os.environ["PYTHONHASHSEED"] = "0"
    with ProcessPoolExecutor(mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        failed = [why for why in pool.map(compile_file, sources, chunksize=64) if why]
    # Some packages bring templates that are no Python, and that nothing imports.
    sys.stdout.write(f"install.py: compiled {len(sources) - len(failed)} files, {len(failed)} are no Python\n")


def date(folder: Path) -> None:
    """Give everything one date and readable modes, except what lower layers hold with both."""
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    for where, folders, files in os.walk(folder, topdown=False):
        here = Path(where)
        links = [here / name for name in folders if (here / name).is_symlink()]
        for path in [*(here / name for name in files), *links, here]:
            status = path.lstat()
            mode = 0o755 if path.is_dir() or status.st_mode & 0o100 else 0o644
            if not path.is_symlink() and status.st_mode & 0o7777 != mode:
                path.chmod(mode)
            if int(status.st_mtime) != epoch:
                os.utime(path, (epoch, epoch), follow_symlinks=False)
    for path in (folder.parent, Path("/tmp")):  # noqa: S108 - pip worked there, and left nothing but a new date
        os.utime(path, (epoch, epoch))


def main() -> None:
    """Install, strip, compile, date."""
    parser = argparse.ArgumentParser(description="Make one layer of an image.")
    parser.add_argument("--pip", type=Path, help="interpreter that has pip; without: bytecode and dates alone")
    parser.add_argument("--wheels", type=Path, help="folder of wheels that pip may take")
    parser.add_argument("--layer", type=Path, help="folder that requirements.py wrote for this layer")
    parser.add_argument("--folder", type=Path, default=VENV, help="what gets bytecode and dates")
    options = parser.parse_args()
    (packages,) = VENV.glob("lib/python3*/site-packages") if options.folder == VENV else (options.folder,)
    if options.pip and (wanted := options.layer / "requirements.txt").exists():
        pip_install(options.pip, options.wheels, "--no-deps", "--requirement", str(wanted))
    if options.folder == VENV:
        strip(packages)
    compile_new(options.folder)
    date(options.folder)


if __name__ == "__main__":
    main()

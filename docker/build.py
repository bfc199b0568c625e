"""Builds the images of the steps, tags them with the version, and writes which they are.

    python docker/build.py                    the base is pulled, as any image
    python docker/build.py --make-base        no registry is reached: the base is made of Debian's packages
    python docker/build.py --prefix registry.example/team/ --push

What it writes is what ``shutterline compile --images FILE`` and ``shutterline run --runner docker --images FILE`` take.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from base_image import DEFAULT_BASE, provide_base
from engine import BuildError, Engine, run_command
from pip_settings import pip_settings
from sizes import show, size_of

ROOT = Path(__file__).resolve().parent.parent
# Each image's locked requirements; predict is evaluate under another name.
LOCKED = {
    "data-prep": "data-prep",
    "train": "train",
    "train-job": "train-job",
    "evaluate": "evaluate",
    "predict": "evaluate",
}
# 1980, the first year that every archive format knows.
_EPOCH = os.environ.get("SOURCE_DATE_EPOCH", "315532800")
# What the Dockerfile takes. Copied out, so that wheels from elsewhere can be beside it.
_CONTEXT = (
    *(".dockerignore", "LICENSE", "requirements", "components"),
    *("docker/Dockerfile", "docker/install.py", "docker/requirements.py"),
)
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")


def options_of(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="docker/build.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="exit codes: 0 built; 2 something to be changed first: no engine, no base; 1 a build failed",
    )
    add = parser.add_argument
    add("--prefix", default="", help="before the tags, such as registry.example/team/")
    add("--push", action="store_true", help="push the images; FILE then names them by digest")
    add("--base", default=DEFAULT_BASE, metavar="IMAGE", help="base image; default: %(default)s")
    add("--make-base", action="store_true", help="make the base, if it is not here, by mmdebstrap")
    add("--wheels", type=Path, metavar="DIR", help="wheels that pip may take beside the index's")
    add("--cuda-evaluate", action="store_true", help="evaluate and predict on GPUs, by ONNX Runtime's CUDA build")
    add("--source", default="unknown", metavar="URL", help="URL of the source, for the label")
    add("--only", choices=tuple(LOCKED), action="append", help="build this one; repeatable; default: all")
    add("--network", default="host", help="network of the builds; default: %(default)s")
    add("--no-cache", action="store_true", help="build every layer anew")
    images = ROOT / "build" / "images.json"
    help_of_digests = "file that gets which images they are; default: build/images.json"
    add("--digests", type=Path, default=images, metavar="FILE", help=help_of_digests)
    options = parser.parse_args(argv)
    if options.push and "/" not in options.prefix:
        parser.error("--push needs --prefix, which names the registry")
    if options.wheels and not options.wheels.is_dir():
        parser.error(f"--wheels {options.wheels}: no such folder")
    return options


def version() -> str:
    """The version, read without importing anything of the project."""
    text = (ROOT / "components" / "shared" / "version.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise BuildError("components/shared/version.py has no version")
    return found.group(1)


def revision() -> str:
    """The commit, with ``-dirty`` if files differ from it; ``unknown`` where there is no repository."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def fill_context(folder: Path, wheels: list[Path]) -> None:
    """Copy what the Dockerfile takes to a folder, with the wheels that pip may take."""
    (folder / "docker" / "wheels").mkdir(parents=True)
    for name in _CONTEXT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / name, folder / name)
    for wheel in wheels:
        shutil.copyfile(wheel, folder / "docker" / "wheels" / wheel.name)


def build(options: argparse.Namespace, engine: Engine) -> dict[str, str]:
    """Build the images, and return their tags by step."""
    steps = [step for step in LOCKED if not options.only or step in options.only]
    settings = pip_settings()
    folders = [folder for folder in (options.wheels, ROOT / "docker" / "wheels") if folder]
    wheels = [wheel for folder in folders for wheel in folder.glob("*.whl")]
    (ROOT / "build").mkdir(exist_ok=True)
    began = time.monotonic()
    provide_base(engine, options.base, make=options.make_base, epoch=_EPOCH)
    say(f"base: {options.base} ({time.monotonic() - began:.0f} s)")
    tags = {step: f"{options.prefix}shutterline/{step}:{version()}" for step in steps}
    of_all = {
        "BASE": options.base,
        "VERSION": version(),
        "REVISION": revision(),
        "SOURCE": options.source,
        "SOURCE_DATE_EPOCH": _EPOCH,
    }
    for step, tag in tags.items():
        locked = "evaluate-cuda" if options.cuda_evaluate and LOCKED[step] == "evaluate" else LOCKED[step]
        arguments = of_all | {"STEP": step, "LOCKED": locked}
        with tempfile.TemporaryDirectory(prefix="shutterline-images-") as temporary:
            context, conf = Path(temporary, "context"), Path(temporary, "pip.conf")
            fill_context(context, wheels)
            conf.touch(mode=0o600)  # an index's address may hold a password
            conf.write_text(settings.text(), encoding="utf-8")
            command = ["build", "--network", options.network, "--progress", "plain", "--target", step, "--tag", tag]
            command += ["--file", str(context / "docker" / "Dockerfile"), "--secret", f"id=pip.conf,src={conf}"]
            if settings.certificates:
                command += ["--secret", f"id=ca.pem,src={settings.certificates}"]
            # A proxy's value goes by the environment; no image keeps it.
            given = [f"{name}={value}" for name, value in arguments.items()]
            for argument in (*given, *(name for name in _PROXIES if name in os.environ)):
                command += ["--build-arg", argument]
            if options.no_cache:
                command.append("--no-cache")
            began, log = time.monotonic(), ROOT / "build" / f"{step}.log"
            engine.logged(log, f"building {step}", *command, str(context))
            say(f"built: {tag} ({time.monotonic() - began:.0f} s; {log.relative_to(ROOT)})")
    return tags


def push(engine: Engine, tag: str) -> str:
    """Push an image, and return its name with the digest that the registry gave."""
    engine.output("push", tag)
    name = tag.rpartition(":")[0]
    for digest in engine.image(tag)["RepoDigests"] or ():
        if str(digest).startswith(f"{name}@"):
            say(f"pushed: {digest}")
            return str(digest)
    raise BuildError(f"pushing {tag}: the engine names no digest of it")


def write_images(file: Path, images: dict[str, dict[str, str]]) -> None:
    """Write which images a build made."""
    document = {"schema_version": 1, "version": version(), "images": images}
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    temporary.replace(file)


def say(line: str) -> None:
    """Print a line now: a build takes minutes."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Build, push if asked, write which they are, and print their sizes."""
    options = options_of()

    def work() -> int:
        engine = Engine()
        tags = build(options, engine)
        images = {
            step: {"reference": push(engine, tag) if options.push else tag, "id": str(engine.image(tag)["Id"])}
            for step, tag in tags.items()
        }
        if not options.only:
            write_images(options.digests, images)
            say(f"wrote: {options.digests}")
        say(show({step: size_of(engine, step, tag) for step, tag in tags.items()}))
        return 0

    return run_command("build.py", work)


if __name__ == "__main__":
    sys.exit(main())

"""Writes the pins, `python -m tests.pins [--upgrade-package NAME | --upgrade]`; `make lock` runs it, with uv from the package index.

constraints.txt holds the version of every package, for `pip install -c`. The requirements.lock beside each requirements.txt holds the
same versions with the hashes of their files, for `pip install --no-deps -r`: what those that it names do not hold already, and never
PyTorch nor what it alone brings. Builds of PyTorch for a CPU and for CUDA bear one version and differ in their files and needs, and pip
checks the hashes of all packages of a command or of none; those needs, NVIDIA's packages and triton, follow from the build, and no file
names them. A pinned version stays as long as the requirements allow it. Knows no app, and needs nothing but uv installed.
"""

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = "constraints.txt"
UNSLOTH = "finetune/requirements-unsloth.txt"
# Each brings what those before it bring.
LAYERS = {f"{folder}requirements.txt": f"{folder}requirements.lock" for folder in ("", "finetune/", "tests/")}
INPUTS = (*LAYERS, UNSLOTH)
# The oldest Python; with `fewest`, a newer one gets the same versions.
OPTIONS = ("--universal", "--python-version", "3.11", "--fork-strategy", "fewest", "--no-annotate", "--no-header", "--quiet")
# That pip comes with Python; the rest follows from the build of PyTorch.
UNPINNED = re.compile(r"pip|triton|(cuda|nvidia)-.*")


def normal(name: str) -> str:
    """A package's name as the index compares it (https://peps.python.org/pep-0503/)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(name: str, root: Path = ROOT) -> dict[str, str]:
    """The packages of a file of requirements or pins and of the files that it names, with their ranges; markers and hashes left out."""
    found: dict[str, str] = {}
    for line in (root / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            found |= requirements((Path(name).parent / line[3:].strip()).as_posix(), root)
        elif match := re.match(r"([A-Za-z0-9][\w.-]*)(?:\[[\w,-]*])?([^\s;#\\]*)", line):
            found[normal(match[1])] = match[2]
    return found


def digest(root: Path = ROOT) -> str:
    """What the pins follow from, in short: the lines of the requirements without their comments, and how they are resolved."""
    lines = [line.split("#")[0].strip() for name in INPUTS for line in (root / name).read_text(encoding="utf-8").splitlines()]
    return hashlib.sha256("\n".join([*OPTIONS, *filter(None, lines)]).encode()).hexdigest()


def head(name: str) -> str:
    """The first lines of a file of pins."""
    use = f"-c {name}" if name == CONSTRAINTS else f"--no-deps -r {name}"
    return f"# `make lock` wrote this for `pip install {use}`: change the requirements and run it again.\n# requirements: {digest()}\n"


def blocks(text: str) -> dict[str, str]:
    """Each package's lines in a file of pins: name, version and marker, and below them hashes, if any."""
    found = re.findall(r"^[a-z0-9].*\n(?:[ ]+--hash=.*\n)*", text, flags=re.MULTILINE)
    return {re.split("[=;]", block)[0].strip(): block for block in found}


def resolve(output: Path, *arguments: str) -> dict[str, str]:
    """Lets uv choose the versions of requirements; those in the output file are kept where they may be."""
    command = [sys.executable, "-m", "uv", "pip", "compile", *OPTIONS, "--output-file", output, *arguments]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        sys.exit("No pins were written, and uv says above why: change the requirements that exclude each other, or look at the network.")
    return {name: block for name, block in blocks(output.read_text(encoding="utf-8")).items() if not UNPINNED.fullmatch(name)}


def main() -> None:
    """Writes constraints.txt and the locks, once all of them are known."""
    parser = argparse.ArgumentParser(prog="make lock", description="Pins every package anew; a version that may stay stays.")
    parser.add_argument("--upgrade-package", action="append", default=[], metavar="NAME", help="move this one to the newest that may be")
    parser.add_argument("--upgrade", action="store_true", help="move all")
    chosen = parser.parse_args()
    moving = [f"--upgrade-package={name}" for name in chosen.upgrade_package] + ["--upgrade"] * chosen.upgrade
    with TemporaryDirectory() as folder:
        pins, lock, torch = (Path(folder) / name for name in ("constraints.txt", "requirements.lock", "torch.txt"))
        shutil.copy(ROOT / CONSTRAINTS, pins)
        torch.write_text("torch\n")
        unsloth = resolve(lock, UNSLOTH, "--no-deps", "--generate-hashes")
        versions = resolve(pins, *LAYERS, *moving) | {name: block.split(" \\")[0] + "\n" for name, block in unsloth.items()}
        files = {CONSTRAINTS: "".join(versions[name] for name in sorted(versions))}
        known, below = set[str](), ""
        for source, name in LAYERS.items():
            found = resolve(lock, source, "--constraints", str(pins), "--excludes", str(torch), "--generate-hashes")
            found |= unsloth if source.startswith("finetune") else {}
            files[name] = below + "".join(found[package] for package in sorted(found.keys() - known))
            known |= found.keys()
            below = f"-r ../{name}\n"
    for name, text in files.items():
        (ROOT / name).write_text(head(name) + text, encoding="utf-8")


if __name__ == "__main__":
    main()

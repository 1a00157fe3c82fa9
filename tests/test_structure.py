"""The shape of the house: one notebook is one module, imports go to the left, nothing stray."""

import ast
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import notebook_hygiene
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = notebook_hygiene.notebooks()


def module_name(path):
    "The name of a module below iris_edu, `views.tokens` for views/tokens.py."
    return ".".join(path.relative_to(ROOT / "iris_edu").with_suffix("").parts)


FILES = sorted((ROOT / "iris_edu").rglob("*.py"))
MODULES = {module_name(path): path for path in FILES if not path.stem.startswith("_")}
# A module imports only modules that stand to its left.
ORDER = (
    "base.settings base.typed base.files base.drawing base.plots entrance envs replay "
    "recordings autoencoder perceptual tokenizer transformer world_model imagination "
    "actor_critic config base.rng checkpoint run open_loop zoo.store zoo.fetch "
    "sharing.sources sharing.own_data agent zoo.scripted zoo.episodes zoo.measures "
    "zoo.manifest zoo.learning token_cache collect validation divergence background memory "
    "callbacks resume training sharing.exchange evaluation scores bench execution zoo.fit "
    "zoo.codebook zoo.tokenizers zoo.dreams zoo.recipes course.contracts apps.report "
    "views.gallery views.tokens views.next_token views.attention views.trajectories "
    "views.reenactment views.futures views.returns views.game views.play_loop views.dream_pad "
    "views.figures apps.serve apps.watch views.dashboard apps.commands apps.cli "
).split()
CORE = ORDER[ORDER.index("autoencoder") : ORDER.index("actor_critic") + 1]
# A chapter without a module of its own.
ONLY_TEXT = {
    "00_tour",
    "11_speed",
    "own_environment",
    "freeway",
    "index",
    "notation",
    "what_mattered",
}


def imports(path):
    "Every module that the file at `path` imports anywhere, lazily too, as absolute dotted names."
    found, here = set(), path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            room = here[: len(here) + 1 - node.level] if node.level else ()
            base = ".".join([*room, *filter(None, [node.module])])
            inside = {f"{base}.{alias.name}" for alias in node.names}
            found |= {
                name if name.removeprefix("iris_edu.") in MODULES else base for name in inside
            }
    return found


def own(path):
    "The modules of this package that the file imports."
    return {name.removeprefix("iris_edu.") for name in imports(path)} & MODULES.keys()


def definitions(path):
    "Every class and function of a file with whether it stands at the top."
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [(node, node in tree.body) for node in ast.walk(tree) if isinstance(node, kinds)]


@cache
def fresh_import(name):
    """Import one module in a new process.

    Its exit status, its errors, and every module that came with it.
    """
    code = f"import sys, iris_edu.{name}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stderr, set(done.stdout.split())


@pytest.fixture(scope="session")
def fresh_imports():
    "Each module imported in a process of its own, two at a time."
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(MODULES, pool.map(fresh_import, MODULES)))


def tracked():
    "The text files that git tracks (every file, where there is no git)."
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [p for p in paths if p.is_file() and b"\0" not in p.read_bytes()[:8192]]


def module_of(notebook):
    "The module that a notebook exports: NN_name.ipynb, or below library/ the same path."
    if notebook.parent.name == "nbs":
        return notebook.stem.split("_", 1)[1]
    return ".".join(notebook.relative_to(ROOT / "nbs" / "library").with_suffix("").parts)


def test_one_notebook_one_module():
    names = [module_of(path) for path in NOTEBOOKS if path.stem not in ONLY_TEXT]
    assert sorted(names) == sorted(MODULES), (
        "nbs/NN_name.ipynb or nbs/library/name.ipynb, and iris_edu/name.py, belong together"
    )


def test_every_module_has_its_place():
    assert set(MODULES) <= set(ORDER), "name the new module's place in ORDER"


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_to_the_left(name):
    right = own(MODULES[name]) - set(ORDER[: ORDER.index(name)])
    assert not right, f"{name} imports {', '.join(right)}, which does not stand to its left"


@pytest.mark.parametrize("name", [name for name in CORE if name in MODULES])
def test_the_core_needs_only_torch(name):
    allowed = {"torch", "einops", "numpy", "iris_edu"} | set(sys.stdlib_module_names)
    # a format of weight files, loaded only when one is named
    if name == "perceptual":
        allowed.add("safetensors")
    assert {full.split(".")[0] for full in imports(MODULES[name])} <= allowed
    assert own(MODULES[name]) <= {"base.settings", "base.typed", *CORE}


def test_each_module_imports_alone(fresh_imports):
    failed = {name: error for name, (status, error, _) in fresh_imports.items() if status}
    assert not failed, failed


def test_training_loads_no_notebook_packages():
    _, _, loaded = fresh_import("training")
    assert "torch" in loaded
    assert not loaded & {
        "matplotlib",
        "ipywidgets",
        "IPython",
        "nbdev",
        "jupyterlab",
        "tensorboard",
    }


def test_no_stray_paths():
    stray = re.compile(r"(?<![\w.$}])/(?:home|root|tmp|Users|work)/\w")
    found = {
        str(path.relative_to(ROOT)): match[0]
        for path in tracked()
        if (match := stray.search(path.read_text(errors="ignore")))
    }
    assert not found, f"paths of one machine: {found}"


def test_modules_are_exported():
    by_hand = [
        name
        for name, path in MODULES.items()
        if "AUTOGENERATED" not in "".join(path.read_text()[:600])
    ]
    assert not by_hand, f"written by hand: {by_hand}"


def test_modules_equal_their_notebooks(tmp_path):
    for folder in ("nbs", "iris_edu"):
        shutil.copytree(
            ROOT / folder,
            tmp_path / folder,
            ignore=shutil.ignore_patterns("__pycache__", ".ipynb_*"),
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    code = "from nbdev.doclinks import nbdev_export; nbdev_export()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr

    def exported(folder):
        return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.py")}

    new, old = exported(tmp_path / "iris_edu"), exported(ROOT / "iris_edu")
    changed = [name for name in new.keys() | old.keys() if new.get(name) != old.get(name)]
    assert not changed, f"run `make export`: {changed}"


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_documented(name):
    bare = [
        node.name
        for node, top in definitions(MODULES[name])
        if top and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert not bare, f"no docstring: {bare}"


@pytest.mark.parametrize("name", MODULES)
def test_functions_are_short(name):
    functions = [
        node for node, _ in definitions(MODULES[name]) if not isinstance(node, ast.ClassDef)
    ]
    lines = {node.name: node.end_lineno - node.lineno + 1 for node in functions}
    long = {function: count for function, count in lines.items() if count > 40}
    assert not long, f"over 40 lines: {long}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_notebook_is_clean(path):
    assert notebook_hygiene.problems(path) == []


def test_make_builds_the_environment_again_only_for_other_packages(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    # of a make around this test
    outside = {
        name: value
        for name, value in os.environ.items()
        if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }

    def make(flag):
        return subprocess.run(
            ["make", flag, "venv", "VENV=env"],
            cwd=tmp_path,
            env=outside,
            capture_output=True,
            text=True,
        )

    steps = make("-n").stdout
    # or going back to older packages would find their old mark
    assert steps.index("rm -f 'env'/.ready*") < steps.index("pip install")
    mark = re.search(r"touch '(.+)'", steps)[1]
    (tmp_path / mark).parent.mkdir()
    (tmp_path / mark).touch()
    (tmp_path / "pyproject.toml").touch()  # as nbdev-export does
    assert make("-q").returncode == 0
    (tmp_path / "constraints.txt").write_text("torch==0\n")
    assert make("-q").returncode == 1

"""What is imported is declared: the package's own imports, those of the views, and those of notebooks and tests."""
import ast
import json
import re
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("notebook", "lab", "dev", "data")
OURS = {"iris_edu", "google", *(path.stem for path in (ROOT / "tests").glob("*.py"))}  # google: Colab's own module, asked for and never imported


def canonical(name): return re.sub(r"[-_.]+", "-", name).lower()


def declared(*extras):
    "The distributions that the installed package asks for, by itself and by some extras."
    lines = [line.partition(";") for line in requires("iris-edu")]
    return {canonical(re.match(r"[\w.-]+", name)[0]) for name, _, rule in lines if "extra" not in rule or any(re.search(f"extra == .{extra}.", rule) for extra in extras)}


def imported(tree, top_only=False):
    "The first names of the modules that a syntax tree imports, anywhere or at its top only."
    nodes = tree.body if top_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import): yield from (alias.name.split(".")[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom) and not node.level: yield node.module.split(".")[0]


def undeclared(names, *extras):
    "Of some modules, those that no declared distribution provides."
    provided = packages_distributions()
    others = set(names) - set(sys.stdlib_module_names) - OURS
    return {name for name in others if not {canonical(one) for one in provided.get(name, ())} & declared(*extras)}


MODULES = sorted((ROOT / "iris_edu").glob("*.py"))
VIEWS = {"plots", "widgets", "futures", "predictions", "play", "dashboard", "report"}  # they need the notebook extra


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_imports_what_the_package_declares(path):
    tree, extras = ast.parse(path.read_text()), ("notebook",) if path.stem in VIEWS else ()
    assert not undeclared(imported(tree, top_only=True), *extras)
    assert not undeclared(imported(tree), *EXTRAS)


def code_of(path):
    "The Python of a notebook, without magics."
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    lines = "\n".join("".join(cell["source"]) for cell in cells).split("\n")
    return "\n".join("pass" if line.startswith(("%", "!")) else line for line in lines)


@pytest.mark.parametrize("path", [*sorted((ROOT / "nbs").glob("*.ipynb")), *sorted((ROOT / "tests").glob("*.py"))], ids=lambda path: path.stem)
def test_notebooks_and_tests_import_what_the_developers_extra_declares(path):
    tree = ast.parse(code_of(path) if path.suffix == ".ipynb" else path.read_text())
    assert not undeclared(imported(tree), *EXTRAS)


def test_an_import_that_nobody_declares_is_found():
    assert undeclared(imported(ast.parse("import pip, torch\ndef f(): import setuptools")), *EXTRAS) == {"pip", "setuptools"}

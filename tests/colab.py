"""The notebooks as Colab opens them: alone, in an empty folder and a fresh environment, in which their setup cell clones
the course, installs it and goes there. The clone is of a copy of this checkout whose settings name the copy as repository.

    python tests/colab.py              every chapter up to its first use of recorded games or trained weights, three whole
    python tests/colab.py NAME ...     these, whole
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WHOLE = ("02_replay", "08_actor_critic", "06_world_model")
SKIPPED = re.compile(r"^#\|\s*(slow|gpu|exercise|eval:\s*false)", re.M)
MATERIAL = re.compile(
    r"[/\\](course[/\\]data|shipped[/\\]checkpoints)[/\\].+\.(npz|safetensors|csv)$"
)


def publish(folder):
    """A git repository in a folder with the files of this checkout, committed or not, and a
    settings.ini that names it.
    """
    listing = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listing.split("\0")):
        if not (ROOT / name).is_file():
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    settings = folder / "settings.ini"
    settings.write_text(
        re.sub(
            r"^repository =.*$", f"repository = {folder.as_uri()}", settings.read_text(), flags=re.M
        )
    )
    subprocess.run(
        [sys.executable, "-m", "iris_edu.base.settings"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    me = ["-c", "user.name=Colab", "-c", "user.email=colab@localhost"]
    for words in (
        ["init", "--quiet", "--initial-branch=main"],
        ["add", "--all"],
        [*me, "commit", "--quiet", "--message=the course"],
    ):
        subprocess.run(["git", *words], cwd=folder, check=True)


def environment(folder):
    "The Python of a fresh environment that holds no more of Colab than its shell."
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "ipython"], env=outside(), check=True
    )
    return python


def outside():
    """The environment variables of a process that knows nothing of this checkout, except which
    torch to install.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    return kept | {
        "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "MPLBACKEND": "Agg",
    }


def open_on_colab(python, notebook, whole, folder):
    "Whether a notebook runs in an empty folder, as a process of its own."
    start, words = (
        time.monotonic(),
        [python, __file__, "--inside", notebook, *(["--whole"] if whole else [])],
    )
    done = subprocess.run(words, cwd=folder, env=outside(), capture_output=True, text=True)
    said = done.stdout.strip().splitlines()
    print(
        f"{notebook.stem:<20} {time.monotonic() - start:4.0f} s  {said[-1] if said and not done.returncode else 'FAILED'}",
        flush=True,
    )
    if done.returncode:
        print(f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}", flush=True)
    return done.returncode == 0


def inside(notebook, whole):
    "Run the cells of a notebook in this process, all or as far as the first that reads material."
    from IPython.core.interactiveshell import InteractiveShell

    sys.path[0] = ""  # the working directory, as in a notebook
    for name in ("google", "google.colab"):
        sys.modules[name] = types.ModuleType(name)
    read = []
    sys.addaudithook(
        lambda event, words: (
            read.append(words[0]) if event == "open" and MATERIAL.search(str(words[0])) else None
        )
    )
    shell, cells = (
        InteractiveShell.instance(),
        [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"],
    )
    sources = [source for cell in cells if not SKIPPED.search(source := "".join(cell["source"]))]
    for number, source in enumerate(sources, 1):
        result = shell.run_cell(source)
        if not result.success:
            sys.exit(f"cell {number}:\n{source}")
        if read and not whole:
            break
    print(
        f"{number} of {len(sources)} cells"
        + (f", as far as {Path(str(read[0])).name}" if read and not whole else "")
    )


def main():
    "Publish, install, open; exit 1 if a notebook failed."
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names",
        nargs="*",
        help="notebooks, whole; default: every chapter, most of them to the first use of material",
    )
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--whole", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return inside(options.inside, options.whole)
    names = options.names or [path.stem for path in sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))]
    with tempfile.TemporaryDirectory() as place:
        course = Path(place) / "repository"
        publish(course)
        python = environment(Path(place) / "venv")
        fine = [
            open_on_colab(
                python,
                course / "nbs" / f"{name}.ipynb",
                bool(options.names) or name in WHOLE,
                tempfile.mkdtemp(dir=place),
            )
            for name in names
        ]
    print(f"{sum(fine)} passed, {len(fine) - sum(fine)} failed")
    return int(not all(fine))


if __name__ == "__main__":
    sys.exit(main())

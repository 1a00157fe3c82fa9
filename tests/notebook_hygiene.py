"""Are the notebooks clean? Without options this says what is not; with --run it first runs the
notebooks and saves what their cells show, clean."""

import argparse
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
WIDGET = "application/vnd.jupyter.widget-view+json"
SKIPPED = re.compile(r"^#\|\s*(slow|gpu|exercise|eval:\s*false)", re.M)
ADDRESS = re.compile(r"(?: at )?\b0x[0-9a-fA-F]{6,}")
PATH = re.compile(
    r"(?<![\w.])/(?:home|root|tmp|Users|work|mnt|content|private|var)/[\w.-]+|[A-Z]:\\\w+"
)
PROGRESS = re.compile(r"\d+%\||it/s\]|s/it\]|\r(?!\n)")
ASSERTION = re.compile(
    r"^\s*assert\b|\btest_(eq|close|ne|is|fail)\(|\bexpect_fail\(|^\s*check_\w+\(", re.M
)
STAR = re.compile(r"^\s*from\s+\S+\s+import\s+\*", re.M)
EMPTY_ALT = re.compile(r"!\[\s*\]\(|<img(?![^>]*\balt\s*=\s*[\"'][^\"']+)[^>]*>")


def notebooks():
    "Every notebook of the course, those of the library too."
    found = sorted((ROOT / "nbs").rglob("*.ipynb"))
    return [path for path in found if ".ipynb_checkpoints" not in path.parts]


def texts(output):
    "The text a reader sees in one output: streams, tracebacks, plain text and HTML."
    data = output.get("data", {})
    shown = [output.get("text", ""), *output.get("traceback", [])]
    return "\n".join(shown + [value for key, value in data.items() if key.startswith("text/")])


def output_problems(output):
    "What is wrong with one saved output, as a list of sentences."
    found, text = [], texts(output)
    if output.get("execution_count") is not None:
        found.append("an output keeps its execution count")
    if WIDGET in output.get("data", {}):
        found.append("an output is a widget view, which GitHub cannot show")
    if output.output_type == "stream" and output.name == "stderr":
        found.append("something was written to stderr")
    if output.output_type == "error":
        found.append(f"an error was saved: {output.ename}")
    if "image/png" in output.get("data", {}):
        if not output.metadata.get("image/png", {}).get("alt"):
            found.append("a picture has no alt text")
    if PROGRESS.search(text):
        found.append("a progress bar was saved")
    if match := ADDRESS.search(text):
        found.append(f"a memory address was saved: {match[0].strip()}")
    if match := PATH.search(text):
        found.append(f"an absolute path was saved: {match[0]}")
    return found


def cell_problems(cell):
    "What is wrong with one cell, as a list of sentences."
    if cell.cell_type == "markdown":
        return ["a picture has no alt text"] if EMPTY_ALT.search(cell.source) else []
    found = []
    if cell.get("execution_count") is not None:
        found.append("a cell keeps its execution count")
    if STAR.search(cell.source):
        found.append("a cell imports a star")
    return found + [problem for output in cell.outputs for problem in output_problems(output)]


def problems(path):
    """Everything that is wrong with the notebook at `path`, one sentence each.

    An empty list is good.
    """
    notebook, found = nbformat.read(path, as_version=4), []
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        found.append(f"not a valid notebook: {error.message}")
    if "widgets" in notebook.metadata:
        found.append("the notebook's metadata holds widget state")
    for number, cell in enumerate(notebook.cells):
        found += [f"cell {number} ({cell.get('id')}): {problem}" for problem in cell_problems(cell)]
    code = [c.source for c in notebook.cells if c.cell_type == "code"]
    if code and not any(ASSERTION.search(source) for source in code):
        found.append("no cell asserts anything")
    return found


def clean_text(text):
    "Text without memory addresses and without the folder this repository happens to lie in."
    return ADDRESS.sub("", text.replace(f"{ROOT}/", "").replace(str(ROOT), "."))


def described(output):
    "The metadata of an output that stays: size and words of its picture; a widget says them itself."
    if "image/png" not in output.get("data", {}):
        return {}
    about = output["metadata"].get("image/png", {})
    words = "".join(output["data"].get("text/plain", ""))
    if "alt" not in about and words and not words.startswith("<"):
        about["alt"] = words
    return {"image/png": {key: about[key] for key in ("alt", "width", "height") if key in about}}


def clean_output(output):
    "One output made fit to be saved, or None when nothing of it is."
    if output.output_type == "stream" and output.name == "stderr":
        return None
    if "execution_count" in output:
        output["execution_count"] = None
    if "metadata" in output:
        output["metadata"] = described(output)
    if "text" in output:
        output["text"] = clean_text(output["text"])
    data = output.get("data", {})
    # its picture stays, where it has one
    if data.pop(WIDGET, None) and "image/png" not in data:
        return None
    for key in data:
        data[key] = clean_text(data[key]) if key.startswith("text/") else data[key]
    return output


def clean(notebook):
    "A notebook with nothing in it that changes from machine to machine."
    kernel = notebook.metadata.get("kernelspec")
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": {**kernel, "display_name": kernel["name"]}} if kernel else {}
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k == "tags"})
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [o for o in map(clean_output, cell.outputs) if o is not None]
    return notebook


def run(path):
    "Run the notebook at `path` and save its outputs; cells that the tests skip keep what they had."
    from nbconvert.preprocessors import ExecutePreprocessor

    class Runner(ExecutePreprocessor):
        def preprocess_cell(self, cell, resources, index):
            if SKIPPED.search(cell.source):
                return cell, resources
            return super().preprocess_cell(cell, resources, index)

    notebook = nbformat.read(path, as_version=4)
    Runner().preprocess(notebook, {"metadata": {"path": str(path.parent)}})
    nbformat.write(clean(notebook), path)


def main():
    """Clean or run the notebooks named (all of them by default), then say what is wrong.

    Exit 1 if anything is.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: every notebook in nbs/")
    parser.add_argument("--run", action="store_true", help="run them and save their outputs")
    parser.add_argument("--clean", action="store_true", help="clean the outputs they have")
    options = parser.parse_args()
    bad = 0
    for path in options.notebooks or notebooks():
        if options.run:
            print(f"running {path.name}", flush=True)
            run(path)
        elif options.clean:
            nbformat.write(clean(nbformat.read(path, as_version=4)), path)
        for problem in problems(path):
            print(f"{path.name}: {problem}")
            bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

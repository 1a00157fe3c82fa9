"""README.md is nbs/index.ipynb seen from the project's root; run as a script, this file writes it."""

import json
import re
from pathlib import Path

import notebook_hygiene

ROOT = Path(__file__).resolve().parent.parent


def readme():
    "The Markdown of the index, with links that start in the project's root."
    cells = json.loads((ROOT / "nbs" / "index.ipynb").read_text())["cells"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    text = re.sub(r"\]\((?=[\w/]+\.ipynb|images/)", "](nbs/", text)
    return text.replace("](../", "](") + "\n"


def links():
    return re.findall(r"\]\((?!http)([^)]+)\)", readme())


def test_readme_is_the_index():
    assert (ROOT / "README.md").read_text() == readme(), "run make readme"


def test_links_lead_to_files():
    assert links() and all((ROOT / link).exists() for link in links())


def broken_links(path):
    "Links of a notebook that lead nowhere."
    cells = [
        cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "markdown"
    ]
    text = "\n".join("".join(cell["source"]) for cell in cells)
    targets = re.findall(r"(?:\]\(|href=\")(?!http|#|data:)([^)\"\s#]+)", text)
    return [target for target in targets if not (path.parent / target).exists()]


def test_links_of_notebooks_lead_to_files():
    broken = {path.name: broken_links(path) for path in notebook_hygiene.notebooks()}
    assert not {name: links for name, links in broken.items() if links}


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme())

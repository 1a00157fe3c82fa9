"""One word for one thing: names that were given up for the field's own do not come back."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "iris_edu"
GIVEN_UP = set(
    "Kept frozen_views Workshop Draws make_draws Ring Replay Story Futures Opinion Unseen Adviser "
    "Forecast Outcome Played reenact dream_on wake appraise idling holding developer "
    "nothing_moves draw_ahead ahead coins toss_coins attend_by_coins lesson practice spell naming "
    "dictionary hold player material".split()
)


def names(path):
    "Every class, function and argument that a module defines."
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found.add(node.name)
        if isinstance(node, ast.arg):
            found.add(node.arg)
    return found


def test_names_that_were_given_up_stay_away():
    modules = [path for path in PACKAGE.rglob("*.py") if path.name != "_modidx.py"]
    back = {path.name: names(path) & GIVEN_UP for path in modules}
    assert not {name: found for name, found in back.items() if found}
    assert not {path.stem for path in modules} & GIVEN_UP

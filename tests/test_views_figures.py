"""The figures of the paper, drawn from what travels with the course."""

import numpy as np

from iris_edu.views import figures as f
from iris_edu.zoo.episodes import load_episodes


def test_stages_are_in_order():
    for game in ("Breakout", "Alien"):
        recording = load_episodes(game)
        steps = f.stages(recording, 4)
        assert steps == sorted(steps) and len(set(steps)) == 4
        assert len({np.searchsorted(recording.starts, step, "right") for step in steps}) == 1


def test_figures_have_as_many_frames_as_they_promise(catch, fall):
    def count(figure):
        assert figure.alt
        return len(figure.axes[0].images)

    assert count(f.figure_unrolling(catch, fall, steps=2)) == 1 + 2 * 3
    assert count(f.figure_dreams(catch, fall, start=8, rows=2, steps=3, of=5)) == 2 * 4
    assert count(f.figure_reenactment(catch, fall, start=8, steps=4)) == 2 * 5

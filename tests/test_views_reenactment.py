"""A dream beside the real game: what is compared, and the handlers of its widget."""

import torch

from iris_edu.views import reenactment as r
from iris_edu.views.trajectories import (
    cached_decoder,
    episode_bounds,
    read_trajectory,
    real_frames,
)


def test_first_divergence():
    errors = torch.tensor([[0.0, 0.0], [0.01, 0.02], [0.05, 0.2], [0.9, 0.1]])
    assert r.first_divergence(errors, 0.03) == (2, 1)
    assert r.first_divergence(errors, 0.5) == (3, 0)
    assert r.first_divergence(errors, 1) is None and r.first_divergence(errors[:0]) is None


def test_patch_errors_find_the_patch():
    frames = torch.zeros(2, 3, 8, 8)
    changed = frames.clone()
    changed[1, :, 2:4, 6:8] = 1
    errors = r.patch_errors(frames, changed, 4)
    assert errors.shape == (2, 16) and errors.nonzero().tolist() == [[1, 7]] and errors[1, 7] == 1


def test_a_reenactment_of_the_truth_has_no_error(catch, fall):
    game, real = read_trajectory(catch.tokenizer, fall, 4, 9), real_frames(fall, 4, 9)
    found = r.compare(4, cached_decoder(catch.tokenizer), real, game, game)
    assert not found.wrong.any() and r.first_divergence(found.errors) is None
    dreamt = r.open_loop(catch.dream, game, given=3)
    assert dreamt.actions.equal(game.actions) and dreamt.tokens.shape[1] == 6
    assert dreamt.tokens[:, :3].equal(game.tokens[:, :3])


def test_reality_against_dream(catch, fall, press):
    view = r.RealityAgainstDream(catch, fall, start=8, steps=6)
    assert view.step.max == 6 and view.film["real game"].shape[0] == 7
    assert all(len(gallery.labels) == 7 and all(gallery.labels) for gallery in view.film.values())
    before = view.found.dreamt
    view.dice.value = 3
    assert not view.found.dreamt.equal(before)
    view.dice.value = 0
    assert view.found.dreamt.equal(before)
    press(view.film["dream"], 5)
    assert (
        view.step.value == 5
        and {gallery.chosen for gallery in view.film.values()} == {5}
        and "Step 5" in view.voice.status
    )
    assert view.snapshot().width > 300


def test_the_first_wrong_picture_is_marked_and_told(catch, fall):
    view = r.RealityAgainstDream(catch, fall, start=8, steps=10, tolerance=0)
    step, position = view.where
    marked = [view.film[name].marked for name in ("dream", "tokens of the dream")]
    assert step >= view.seen and marked == [[step]] * 2
    assert f"step {step}, row {position // 4 + 1}, column {position % 4 + 1}" in view.voice.status
    quiet = r.RealityAgainstDream(catch, fall, start=8, steps=10, tolerance=1)
    assert (
        quiet.where is None
        and quiet.film["dream"].marked == []
        and "In no step" in quiet.voice.status
    )


def test_a_comparison_stops_where_the_game_ends(catch, fall):
    end = episode_bounds(fall, 8)[1]
    view = r.RealityAgainstDream(catch, fall, start=end - 4, steps=10)
    assert view.step.max == 4 and not view.voice.wrong
    view.start.value = end - 1
    assert view.voice.wrong and "begin earlier" in view.voice.status
    view.start.value = end - 4
    assert not view.voice.wrong

"""Futures, comparisons and returns, and the handlers of their views, without a browser."""

import ipywidgets
import numpy as np
import pytest
import torch

from iris_edu import futures as f
from iris_edu.actor_critic import lambda_returns
from iris_edu.envs import make_env
from iris_edu.material import load_episodes, load_trained
from iris_edu.recordings import Recording, record
from iris_edu.settings import UserError
from iris_edu.views.gallery import View

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def catch():
    return load_trained("catch-small")


@pytest.fixture(scope="module")
def fall(catch):
    chance = np.random.default_rng(0)
    return record(make_env(catch.config.env), lambda frame: chance.integers(3), steps=200)


@pytest.fixture(scope="module")
def pong():
    return load_trained("pong-dream")


@pytest.fixture(scope="module")
def rally():
    return load_episodes("Pong")


@pytest.fixture
def tree(catch, fall):
    return f.ManyFutures(catch, fall, start=8, samples=2, steps=4)


def press(gallery, cell):
    "What the browser does when a picture is pressed."
    gallery.chosen = cell
    gallery._handle_custom_msg({"type": "press", "cell": cell}, [])


def blank(ends, length=10):
    "A recording without pictures whose games end at these steps."
    ended = np.isin(np.arange(length), ends)
    return Recording(
        np.zeros(1, int),
        np.zeros(1, int),
        np.zeros(length, int),
        np.zeros(length, np.float32),
        ended,
        ended & False,
    )


@pytest.mark.parametrize(
    "step, part", [(0, (0, 3)), (3, (0, 3)), (4, (4, 6)), (6, (4, 6)), (7, (7, 9)), (9, (7, 9))]
)
def test_a_life_lies_between_endings(step, part):
    assert f.life(blank([3, 6]), step) == part


def test_steps_outside_a_recording_are_refused():
    for step in (-1, 10):
        with pytest.raises(UserError, match="0 to 9"):
            f.life(blank([3]), step)


def test_a_story_is_cut_and_goes_on(catch, fall):
    story = f.read(catch.tokenizer, fall, 4, 9)
    assert [len(column) for column in story.first(2)] == [2, 1, 1, 1]
    ahead = f.branch(catch.dream, story, f.holding(torch.tensor([0, 2])), 2, 3)
    longer = story.then(ahead, 1, 2)
    assert [len(column) for column in longer] == [8, 7, 7, 7]
    assert longer.tokens[-1].equal(ahead.tokens[1, 1]) and longer.actions[-2:].tolist() == [2, 2]


def test_the_same_dice_give_the_same_dream(catch, fall):
    story = f.read(catch.tokenizer, fall, 4, 9)

    def dream(seed):
        return f.branch(catch.dream, story, f.idling(6, 3, seed), 6, 5, seed)

    assert all(one.equal(other) for one, other in zip(dream(0), dream(0)))
    assert not dream(0).tokens.equal(dream(1).tokens)


def test_waking_from_one_frame_is_beginning(catch, fall):
    story = f.read(catch.tokenizer, fall, 4, 4)
    woken, begun = f.wake(catch.dream, story, 3), catch.dream.begin(story.tokens.expand(3, -1))
    assert woken.tokens.equal(begun.tokens) and woken.history_tokens.equal(begun.history_tokens)
    outcomes = [
        catch.world_model.act(state.memory, torch.tensor([0, 1, 2]))[1] for state in (woken, begun)
    ]
    torch.testing.assert_close(*[outcome.token for outcome in outcomes])


def test_branching_leaves_the_story_alone(catch, fall):
    story = f.read(catch.tokenizer, fall, 4, 9)
    before = [column.clone() for column in story]
    for _ in range(2):
        f.branch(catch.dream, story, f.idling(4, 3), 4, 6)
    assert all(one.equal(other) for one, other in zip(before, story))


def test_a_developer_draws_each_picture_once(catch, fall):
    drawn = []

    class Counting:
        def decode(self, tokens):
            drawn.append(len(tokens))
            return catch.tokenizer.decode(tokens)

    story, develop = f.read(catch.tokenizer, fall, 4, 9), f.developer(Counting())
    assert develop(torch.cat([story.tokens, story.tokens])).shape[0] == 12
    torch.testing.assert_close(
        develop(story.tokens[None])[0],
        catch.tokenizer.decode(story.tokens).detach(),
        atol=1e-5,
        rtol=0,
    )
    assert sum(drawn) == len(story.tokens.unique(dim=0))


def test_first_divergence():
    apart = torch.tensor([[0.0, 0.0], [0.01, 0.02], [0.05, 0.2], [0.9, 0.1]])
    assert f.first_divergence(apart, 0.03) == (2, 1)
    assert f.first_divergence(apart, 0.5) == (3, 0)
    assert f.first_divergence(apart, 1) is None and f.first_divergence(apart[:0]) is None


def test_square_errors_find_the_square():
    frames = torch.zeros(2, 3, 8, 8)
    changed = frames.clone()
    changed[1, :, 2:4, 6:8] = 1
    errors = f.square_errors(frames, changed, 4)
    assert errors.shape == (2, 16) and errors.nonzero().tolist() == [[1, 7]] and errors[1, 7] == 1


def test_a_reenactment_of_the_truth_has_no_error(catch, fall):
    story, real = f.read(catch.tokenizer, fall, 4, 9), f.real_frames(fall, 4, 9)
    found = f.compare(catch.tokenizer, f.developer(catch.tokenizer), real, story, story)
    assert not found.wrong.any() and f.first_divergence(found.apart) is None
    dreamt = f.reenact(catch.dream, story, seen=3)
    assert (
        dreamt.actions.equal(story.actions)
        and dreamt.tokens[:3].equal(story.tokens[:3])
        and len(dreamt.tokens) == 6
    )


def test_equal_futures_are_counted():
    tokens = torch.tensor([[[1, 2]], [[3, 4]], [[1, 2]]])
    futures = f.Futures(
        tokens,
        torch.zeros(3, 1, dtype=torch.int64),
        torch.zeros(3, 1),
        torch.zeros(3, 1, dtype=torch.bool),
    )
    different, counts = f.distinct(futures)
    assert different.tokens.tolist() == [[[1, 2]], [[3, 4]]] and counts == [2, 1]
    other = futures._replace(actions=torch.tensor([[0], [0], [1]]))
    assert f.distinct(other)[1] == [1, 1, 1]


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.95, 1.0])
def test_a_lambda_return_is_a_mixture_of_n_step_returns(lam):
    draw = torch.Generator().manual_seed(0)
    rewards, values, dones = (
        torch.randn(7, generator=draw),
        torch.randn(8, generator=draw),
        torch.rand(7, generator=draw) < 0.2,
    )
    targets = lambda_returns(rewards[None], values[None], dones[None], 0.9, lam)[0]
    for step in range(7):
        weights = f.n_step_weights(7 - step, lam)
        torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
        torch.testing.assert_close(
            (weights * f.n_step_returns(rewards, values, dones, 0.9, step)).sum(), targets[step]
        )


def test_events_in_words():
    assert [f.event(*what) for what in ((0, False), (1.0, False), (-1.0, True), (0, True))] == [
        "",
        "+1",
        "-1 end",
        "end",
    ]
    assert f.events(torch.tensor([0.0, 1.0]), torch.tensor([False, True])) == ["", "", "+1 end"]


def test_a_border_does_not_change_the_frame():
    frame = torch.rand(3, 64, 64)
    bordered = f.framed(frame, f.GAIN)
    assert tuple(bordered[0, 0]) == f.rgb(f.GAIN) == tuple(bordered[-1, -1])
    assert (bordered[2:-2, 2:-2] == f.framed(frame)[2:-2, 2:-2]).all()


def test_action_names(catch, pong):
    assert f.action_names(catch.config) == ["left", "stay", "right"]
    assert f.action_names(pong.config)[0] == "noop" and len(f.action_names(pong.config)) == 6


def test_reality_against_dream(catch, fall):
    view = f.RealityAgainstDream(catch, fall, start=8, steps=6)
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
    view = f.RealityAgainstDream(catch, fall, start=8, steps=10, tolerance=0)
    step, square = view.where
    assert step >= view.seen and view.film["dream"].marked == view.film[
        "words of the dream"
    ].marked == [step]
    assert f"step {step}, row {square // 4 + 1}, column {square % 4 + 1}" in view.voice.status
    quiet = f.RealityAgainstDream(catch, fall, start=8, steps=10, tolerance=1)
    assert (
        quiet.where is None
        and quiet.film["dream"].marked == []
        and "In no step" in quiet.voice.status
    )


def test_a_comparison_stops_where_the_game_ends(catch, fall):
    end = f.life(fall, 8)[1]
    view = f.RealityAgainstDream(catch, fall, start=end - 4, steps=10)
    assert view.step.max == 4 and not view.voice.wrong
    view.start.value = end - 1
    assert view.voice.wrong and "begin earlier" in view.voice.status
    view.start.value = end - 4
    assert not view.voice.wrong


def test_pressing_a_future_goes_on_from_it(tree):
    future, columns = tree.futures, tree.tree.columns
    press(tree.tree, columns + 2)
    assert tree.story.tokens[-1].equal(future.tokens[1, 1]) and tree.story.actions[-2:].equal(
        future.actions[1, :2]
    )
    assert tree.tree.chosen == -1 and "2 dreamt steps" in tree.voice.status
    tree.back.click()
    assert len(tree.path) == 1 and all(one.equal(other) for one, other in zip(tree.futures, future))


def test_mistakes_in_the_tree_are_sentences(tree):
    tree.back.click()
    assert tree.voice.wrong and "real frame" in tree.voice.status
    press(tree.tree, 0)
    assert tree.voice.wrong and "stands already" in tree.voice.status
    tree.futures.dones[0, 0] = True
    press(tree.tree, 2)
    assert tree.voice.wrong and "over by then" in tree.voice.status and len(tree.path) == 1
    tree.budget = 5
    tree.steps.value = 5
    assert tree.voice.wrong and "over the budget of 5" in tree.voice.status


def test_every_frame_of_the_tree_has_words(tree, catch):
    for mode in tree.mode.options:
        tree.mode.value = mode
        assert (
            len(tree.tree.labels)
            == len(tree.tree.texts)
            == tree.tree.shape[0]
            == len(tree.counts) * tree.tree.columns
        )
        assert (
            all("V " in label for label in tree.tree.labels if "step" in label)
            and not tree.voice.wrong
        )
    assert "the agent plays" in tree.mode.options and "it would press left" in tree.voice.status


def test_without_a_policy_the_tree_says_so(pong, rally):
    view = f.ManyFutures(pong, rally, start=62, steps=2)
    assert "holds no policy" in view.voice.status and "the agent plays" not in view.mode.options
    assert not any("V " in text for text in view.tree.texts)


def test_the_values_of_a_tree_are_the_policys_own(catch, fall):
    story, develop = f.read(catch.tokenizer, fall, 6, 9), f.developer(catch.tokenizer)
    thought = f.opinion(catch.actor_critic, develop, story)
    futures = f.branch(catch.dream, story, f.acting(catch.actor_critic, develop, thought, 2), 2, 3)
    worth = f.appraise(catch.actor_critic, develop, thought, futures)
    with torch.no_grad():
        _, values, _ = catch.actor_critic.unroll(
            develop(torch.cat([story.tokens, futures.tokens[1]]))[None],
            catch.actor_critic.initial_state(1),
        )
    torch.testing.assert_close(
        values[0, -4:], torch.cat([torch.tensor([thought.value]), worth[1]]), atol=1e-4, rtol=0
    )


def test_the_return_explorer_follows_its_sliders(catch, fall):
    view = f.ReturnExplorer(catch, fall, start=8, steps=6)
    for discount, lam in ((0.5, 0.0), (0.9, 0.5), (1.0, 1.0)):
        view.discount.value, view.lam.value = discount, lam
        expected = lambda_returns(*(part[None] for part in view.trajectory[:3]), discount, lam)[0]
        torch.testing.assert_close(view.targets, expected)
    picture = view.chart.pixels
    view.film.chosen = 4
    assert len(view.weights) == 2 and "Step 4" in view.voice.status and view.chart.pixels != picture
    assert view.snapshot().width > 300


def test_own_numbers_and_mistakes_in_them():
    view = f.ReturnExplorer()
    assert view.trajectory.rewards.tolist() == [0, 0, 1]
    view.lines["ends after"].value = "1"
    assert view.trajectory.dones.tolist() == [False, True, False]
    for line, text, words in (
        ("rewards", "0, one", "must hold numbers"),
        ("rewards", "0, 1", "3 values"),
        ("rewards", "", "at least one"),
        ("ends after", "7", "0 to 2"),
    ):
        good, view.lines[line].value = view.lines[line].value, text
        assert view.voice.wrong and words in view.voice.status
        view.lines[line].value = good
        assert not view.voice.wrong and len(view.targets) == 3


def test_the_explorer_needs_a_policy_or_your_numbers(pong, rally):
    with pytest.raises(UserError, match="actor_critic"):
        f.ReturnExplorer(pong, rally)


def test_stages_are_in_order():
    for game in ("Breakout", "Alien"):
        recording = load_episodes(game)
        steps = f.stages(recording, 4)
        assert steps == sorted(steps) and len(set(steps)) == 4
        assert len({np.searchsorted(recording.starts, step, "right") for step in steps}) == 1


def test_figures_have_as_many_frames_as_they_promise(catch, fall):
    def count(figure):
        return len(figure.axes[0].images)

    assert count(f.figure_unrolling(catch, fall, steps=2)) == 1 + 2 * 3
    assert count(f.figure_dreams(catch, fall, start=8, rows=2, steps=3, of=5)) == 2 * 4
    assert count(f.figure_reenactment(catch, fall, start=8, steps=4)) == 2 * 5


@pytest.mark.parametrize("view", [f.RealityAgainstDream, f.ManyFutures, f.ReturnExplorer])
def test_a_view_hides_nothing_of_a_widget(view):
    """A method named open, close or send would replace ipywidgets' own, and nothing would appear in
    the browser.
    """
    steps = view.__mro__[: view.__mro__.index(View)]
    own = {name for step in steps for name in vars(step) if not name.startswith("_")}
    assert not own & set(dir(ipywidgets.VBox))

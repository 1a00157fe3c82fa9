"""The futures of one frame, and the handlers of their widget, without a browser."""

import pytest
import torch

from iris_edu.imagination import Rollout
from iris_edu.views import futures as f
from iris_edu.views.gallery import action_names


@pytest.fixture
def tree(catch, fall):
    return f.ManyFutures(catch, fall, start=8, samples=2, steps=4)


def test_equal_futures_are_counted():
    futures = Rollout(
        None,
        torch.tensor([[[0, 0], [1, 2]], [[0, 0], [3, 4]], [[0, 0], [1, 2]]]),
        torch.zeros(3, 1, dtype=torch.int64),
        torch.zeros(3, 1),
        torch.zeros(3, 1, dtype=torch.bool),
    )
    different, counts = f.distinct(futures)
    assert different.tokens[:, 1:].tolist() == [[[1, 2]], [[3, 4]]] and counts == [2, 1]
    other = futures._replace(actions=torch.tensor([[0], [0], [1]]))
    assert f.distinct(other)[1] == [1, 1, 1]


def test_action_names(catch, pong):
    assert action_names(catch.config) == ["left", "stay", "right"]
    assert action_names(pong.config)[0] == "noop" and len(action_names(pong.config)) == 6


def test_pressing_a_future_goes_on_from_it(tree, press):
    future, columns = tree.futures, tree.tree.columns
    press(tree.tree, columns + 2)
    assert tree.game.tokens[0, -1].equal(future.tokens[1, 2])
    assert tree.game.actions[0, -2:].equal(future.actions[1, :2])
    assert tree.tree.chosen == -1 and "2 dreamt steps" in tree.voice.status
    tree.back.click()
    assert len(tree.path) == 1
    for name in ("tokens", "actions", "rewards", "dones"):
        assert getattr(tree.futures, name).equal(getattr(future, name))


def test_mistakes_in_the_tree_are_sentences(tree, press):
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


def test_every_frame_of_the_tree_has_words(tree):
    for mode in tree.mode.options:
        tree.mode.value = mode
        assert (
            len(tree.tree.labels)
            == len(tree.tree.texts)
            == tree.tree.shape[0]
            == len(tree.outlook.counts) * tree.tree.columns
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

"""Returns as mixtures, and the handlers of their widget, without a browser."""

import ipywidgets
import pytest
import torch

from iris_edu.actor_critic import lambda_returns
from iris_edu.base.settings import UserError
from iris_edu.views import returns as r
from iris_edu.views.dream_pad import DreamPad
from iris_edu.views.futures import ManyFutures
from iris_edu.views.gallery import View
from iris_edu.views.reenactment import RealityAgainstDream


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.95, 1.0])
def test_a_lambda_return_is_a_mixture_of_n_step_returns(lam):
    rng = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(7, generator=rng), torch.randn(8, generator=rng)
    dones = torch.rand(7, generator=rng) < 0.2
    targets = lambda_returns(rewards[None], values[None], dones[None], 0.9, lam)[0]
    for step in range(7):
        weights = r.n_step_weights(7 - step, lam)
        torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
        torch.testing.assert_close(
            (weights * r.n_step_returns(rewards, values, dones, 0.9, step)).sum(), targets[step]
        )


def test_the_return_explorer_follows_its_sliders(catch, fall):
    view = r.ReturnExplorer(catch, fall, start=8, steps=6)
    for discount, lam in ((0.5, 0.0), (0.9, 0.5), (1.0, 1.0)):
        view.discount.value, view.lam.value = discount, lam
        steps = view.steps
        columns = (steps.rewards[None], steps.values[None], steps.dones[None])
        torch.testing.assert_close(view.mixture.targets, lambda_returns(*columns, discount, lam)[0])
    picture = view.chart.pixels
    view.film.chosen = 4
    assert len(view.mixture.weights) == 2 and "Step 4" in view.voice.status
    assert view.chart.pixels != picture and view.snapshot().width > 300


def test_own_numbers_and_mistakes_in_them():
    view = r.ReturnExplorer()
    assert view.steps.rewards.tolist() == [0, 0, 1]
    view.lines["ends after"].value = "1"
    assert view.steps.dones.tolist() == [False, True, False]
    for line, text, words in (
        ("rewards", "0, one", "must hold numbers"),
        ("rewards", "0, 1", "3 values"),
        ("rewards", "", "at least one"),
        ("ends after", "7", "0 to 2"),
    ):
        good, view.lines[line].value = view.lines[line].value, text
        assert view.voice.wrong and words in view.voice.status
        view.lines[line].value = good
        assert not view.voice.wrong and len(view.mixture.targets) == 3


def test_the_explorer_needs_a_policy_or_your_numbers(pong, rally):
    with pytest.raises(UserError, match="actor_critic"):
        r.ReturnExplorer(pong, rally)


@pytest.mark.parametrize("view", [RealityAgainstDream, ManyFutures, r.ReturnExplorer, DreamPad])
def test_a_view_hides_nothing_of_a_widget(view):
    """A method named open, close or send would replace ipywidgets' own, and nothing would appear in
    the browser.
    """
    steps = view.__mro__[: view.__mro__.index(View)]
    own = {name for step in steps for name in vars(step) if not name.startswith("_")}
    assert not own & set(dir(ipywidgets.VBox)) and len(steps) == 1

"""Every view of dreams with parts that share no base class with ours: 32 tokens a frame, no grid."""

import pytest
from foreign_parts import CountingModel, GridTokenizer, PairTokenizer

from iris_edu.base.settings import UserError
from iris_edu.views.dream_pad import DreamPad
from iris_edu.views.figures import figure_dreams, figure_reenactment, figure_unrolling
from iris_edu.views.futures import ManyFutures
from iris_edu.views.reenactment import RealityAgainstDream
from iris_edu.views.returns import ReturnExplorer


def with_parts(catch, kind):
    "The agent for Catch with another tokenizer and another world model."
    tokenizer = kind(None, catch.config.autoencoder)
    model = CountingModel(tokenizer.vocabulary, 3, tokenizer.tokens_per_frame)
    return catch._replace(tokenizer=tokenizer.eval(), world_model=model.eval())


@pytest.fixture
def stranger(catch):
    return with_parts(catch, PairTokenizer)


def test_the_pad_plays_a_foreign_dream(stranger, fall):
    pad = DreamPad(stranger, fall, frame=8)
    for _ in range(3):
        pad.controls.again.click()
        pad.controls.step.click()
        assert len(pad.game.steps) == 1 and not pad.voice.wrong
    pad.controls.where.value = "real game"
    pad.controls.step.click()
    assert len(pad.game.steps) == 1 and not pad.voice.wrong


def test_futures_and_returns_of_a_foreign_dream(stranger, fall, press):
    tree = ManyFutures(stranger, fall, start=8, steps=3)
    for mode in tree.mode.options:
        tree.mode.value = mode
        assert not tree.voice.wrong
    press(tree.tree, 1)
    assert tree.game.tokens.shape[-1] == 32
    explorer = ReturnExplorer(stranger, fall, steps=4)
    assert len(explorer.mixture.targets) == 4 and not explorer.voice.wrong


def test_figures_of_a_foreign_dream(stranger, fall):
    assert len(figure_dreams(stranger, fall, start=8, rows=2, steps=3).axes[0].images) == 8
    assert len(figure_reenactment(stranger, fall, start=8, steps=3).axes[0].images) == 8


@pytest.mark.parametrize("view", [RealityAgainstDream, figure_unrolling])
def test_who_needs_a_grid_says_so(stranger, fall, view):
    with pytest.raises(UserError, match=f"{view.__name__} needs a tokenizer whose tokens form"):
        view(stranger, fall, start=8)


def test_a_foreign_grid_is_enough(catch, fall):
    stranger = with_parts(catch, GridTokenizer)
    against = RealityAgainstDream(stranger, fall, start=8, steps=4)
    assert not against.voice.wrong and against.film["tokens of the dream"].shape[1:] == [4, 4]
    assert len(figure_unrolling(stranger, fall, steps=2).axes[0].images) == 7

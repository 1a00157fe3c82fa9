"""Every view of dreams with parts that share no base class with ours: 32 tokens a frame, no grid."""

from typing import NamedTuple

import pytest
import torch

from iris_edu.autoencoder import join_patches, patches
from iris_edu.settings import UserError
from iris_edu.views.dream_pad import DreamPad
from iris_edu.views.figures import figure_dreams, figure_reenactment, figure_unrolling
from iris_edu.views.futures import ManyFutures
from iris_edu.views.reenactment import RealityAgainstDream
from iris_edu.views.returns import ReturnExplorer

LEVELS = 8


class TwoTokens:
    "Two tokens for each of 4 x 4 patches: how bright its upper and its lower half are."

    vocabulary, tokens_per_frame = LEVELS, 32

    def encode(self, frames):
        halves = patches(frames, 4).unflatten(-2, (2, -1)).mean((-1, -2, -4))
        return (halves * (LEVELS - 1)).round().long().flatten(-3)

    def decode(self, tokens):
        halves = tokens.unflatten(-1, (4, 4, 1, 2, 1, 1)) / (LEVELS - 1)
        return join_patches(halves.expand(*halves.shape[:-4], 3, 2, 4, 8).flatten(-3, -2))

    def reconstruct(self, frames):
        return self.decode(self.encode(frames))


class Memory(NamedTuple):
    tokens: torch.Tensor
    steps: int
    place: int


class Out(NamedTuple):
    token: torch.Tensor


class NothingMoves:
    "A world model that expects the frame before again, with a context of five actions."

    def _logits(self, memory):
        expected = memory.tokens[:, memory.place % 32]
        return 4.0 * torch.nn.functional.one_hot(expected, LEVELS)

    def begin(self, tokens, actions=None):
        return Memory(tokens[:, -1], tokens.shape[1] - 1, 0)

    def act(self, memory, action):
        memory = Memory(memory.tokens, memory.steps + 1, 0)
        return memory, Out(self._logits(memory))

    def extend(self, memory, token):
        memory = memory._replace(place=memory.place + 1)
        return memory, self._logits(memory)

    def finish(self, memory, last_token):
        return memory

    def room(self, memory):
        return 5 - memory.steps

    def sample_reward(self, out, generator):
        return torch.zeros(len(out.token))

    def sample_ending(self, out, generator):
        return torch.zeros(len(out.token), dtype=torch.bool)


@pytest.fixture(scope="module")
def stranger(catch):
    "The agent for Catch with another tokenizer and another world model."
    return catch._replace(tokenizer=TwoTokens(), world_model=NothingMoves())


def test_the_tokenizer_is_one(stranger, fall):
    frames = torch.rand(2, 3, 32, 32)
    tokens = stranger.tokenizer.encode(frames)
    assert tokens.shape == (2, 32) and stranger.tokenizer.decode(tokens).shape == frames.shape
    again = stranger.tokenizer.encode(stranger.tokenizer.decode(tokens))
    assert again.equal(tokens)


def test_the_pad_plays_a_foreign_dream(stranger, fall):
    pad = DreamPad(stranger, fall, frame=8)
    for _ in range(8):
        pad.controls.step.click()
    assert len(pad.game.steps) == 8 and pad.round.refreshed > 0 and not pad.voice.wrong
    pad.controls.where.value = "real game"
    pad.controls.step.click()
    assert len(pad.game.steps) == 1 and not pad.voice.wrong


def test_futures_and_returns_of_a_foreign_dream(stranger, fall, press):
    tree = ManyFutures(stranger, fall, start=8, steps=3)
    for mode in tree.mode.options:
        tree.mode.value = mode
        assert not tree.voice.wrong
    press(tree.tree, 2)
    assert not tree.voice.wrong and tree.game.tokens.shape[-1] == 32
    explorer = ReturnExplorer(stranger, fall, steps=4)
    assert len(explorer.mixture.targets) == 4 and not explorer.voice.wrong


def test_figures_of_a_foreign_dream(stranger, fall):
    assert len(figure_dreams(stranger, fall, start=8, rows=2, steps=3).axes[0].images) == 8
    assert len(figure_reenactment(stranger, fall, start=8, steps=3).axes[0].images) == 8


@pytest.mark.parametrize("view", [RealityAgainstDream, figure_unrolling])
def test_who_needs_a_grid_says_so(stranger, fall, view):
    with pytest.raises(UserError, match=f"{view.__name__} needs a tokenizer whose tokens form"):
        view(stranger, fall, start=8)

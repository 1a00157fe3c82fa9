"""Forecasts, scores and intervals on cases that can be worked out by hand, and against what was published."""
import numpy as np
import pytest
import torch
from iris_edu.evaluation import k_step_error, shuffle_actions
from iris_edu.imagination import Dream, DreamState
from iris_edu.replay import Batch
from iris_edu.runs import generator
from iris_edu.training import PRESETS, build_agent


class Counter:
    "A world of one number, its frame's brightness and its only token: actions are added, a sum above 9 ends the game, action 2 pays."
    tokenizer = property(lambda self: self)
    encode = staticmethod(lambda frames: (frames[..., 0, 0, 0] * 255).round().long()[..., None])
    decode = staticmethod(lambda tokens: (tokens[..., None, None] / 255).expand(*tokens.shape[:-1], 3, 8, 8))

    def begin(self, frames):
        return DreamState(frames, self.encode(frames), None, None, None)

    def step(self, state, actions, generator):
        tokens = state.tokens + actions[:, None]
        return state._replace(tokens=tokens, frames=self.decode(tokens)), (actions == 2).float() * 5, tokens[:, 0] > 9


def counted(actions, mask=None):
    "The Batch that the world of Counter gives for the actions (B,T), beginning at 1."
    actions = torch.tensor(actions)
    tokens = 1 + torch.nn.functional.pad(actions.cumsum(1)[:, :-1], (1, 0))
    mask = torch.ones_like(actions, dtype=torch.bool) if mask is None else torch.tensor(mask)
    frames = (Counter.decode(tokens[..., None]) * 255).round().byte() * mask[..., None, None, None]
    return Batch(frames, actions * mask, (actions == 2) * 5.0 * mask, (tokens + actions > 9) & mask, mask)


def test_a_perfect_model_makes_no_error():
    errors = k_step_error(Counter(), counted([[1, 2, 0, 7, 0], [0, 0, 2, 1, 1]]), generator(0))
    assert all((errors[name]["world model"] == 0).all() for name in ("token_error", "pixel_error"))
    assert all((errors[name]["world model"] == 1).all() for name in ("reward_accuracy", "ending_accuracy"))
    assert (errors["pixel_error"]["reconstruction"] == 0).all()


def test_nothing_moves_by_hand():
    errors = k_step_error(Counter(), counted([[1, 2, 0, 7, 0], [0, 0, 2, 1, 1]]), generator(0))
    assert errors["token_error"]["copy"].tolist() == [0.5, 0.5, 1, 1]                     # the second game begins to move at its third step
    np.testing.assert_allclose(errors["pixel_error"]["copy"] * 255, [0.5, 1.5, 2.5, 6.5], atol=1e-5)
    assert errors["reward_accuracy"]["copy"].tolist() == [1, 0.5, 0.5, 1]
    assert errors["ending_accuracy"]["copy"].tolist() == [1, 1, 1, 0.5]


def test_padding_does_not_count():
    "The second game ends with its second action: there is no third frame to compare, and a column nobody reaches is nan."
    mask = [[True, True, True, False], [True, True, False, False]]
    errors = k_step_error(Counter(), counted([[1, 0, 0, 0], [2, 9, 0, 0]], mask), generator(0))
    assert errors["token_error"]["copy"][:2].tolist() == [1, 1] and np.isnan(errors["token_error"]["copy"][2])
    assert errors["ending_accuracy"]["copy"].tolist() == [1, 0.5, 1]
    assert errors["reward_accuracy"]["copy"].tolist() == [0.5, 1, 1]


def test_shuffled_actions_are_the_same_actions():
    actions, mask = torch.arange(12).view(3, 4), torch.tensor([[1, 1, 1, 0]] * 3, dtype=torch.bool)
    shuffled = shuffle_actions(actions, mask, generator(0))
    assert sorted(shuffled[mask].tolist()) == sorted(actions[mask].tolist()) and (shuffled != actions).any()
    assert (shuffled[~mask] == actions[~mask]).all()


def test_k_steps_of_a_real_agent():
    "Any Dream will do, beyond its context too; the same generator gives the same numbers."
    agent = build_agent(PRESETS["tiny"], 3).eval()
    frames = torch.randint(256, (4, 14, 3, 64, 64), generator=generator(1), dtype=torch.uint8)
    batch = Batch(frames, torch.ones(4, 14, dtype=torch.long), torch.zeros(4, 14), torch.zeros(4, 14, dtype=torch.bool), torch.ones(4, 14, dtype=torch.bool))
    dream = Dream(agent.tokenizer, agent.world_model)
    first, second = (k_step_error(dream, batch, generator(2)) for _ in range(2))
    for measure, table in first.items():
        for name, values in table.items():
            assert values.shape == (13,) and np.isfinite(values).all() and (values == second[measure][name]).all()

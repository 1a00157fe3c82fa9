"""This package computes what the original IRIS code computed (tests/golden/README.md): all numbers, and five games of the 26."""

from dataclasses import replace
from functools import cache

import golden
import numpy as np
import pytest
import torch
from PIL import Image

from iris_edu import envs
from iris_edu.envs import ATARI_100K

PARTS = [(preset, part) for preset, parts in golden.PARTS.items() for part in parts]


@pytest.fixture(autouse=True)
def one_thread():
    "Batches this small are no faster with more; the tests after these get back what they had."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def compared(preset, part):
    """{quantity: what is wrong with it, or nothing} in float64, where only a real difference is
    larger than rounding; computed once.
    """
    with golden.arithmetic(torch.float64):
        return golden.wrong_numbers(part, preset)


@pytest.mark.parametrize(
    "preset, part", PARTS, ids=[f"{preset}-{part.__name__}" for preset, part in PARTS]
)
def test_numbers(preset, part):
    assert {name: trouble for name, trouble in compared(preset, part).items() if trouble} == {}


@pytest.mark.parametrize("game", golden.FEW)
def test_games(game):
    assert golden.wrong_game(game) == []


def test_nothing_is_left_out():
    "The files hold two presets and 26 games in two forms, and every number of them is compared."
    for preset, golden_numbers in golden.NUMBERS["presets"].items():
        assert golden_numbers["numbers"].keys() == {
            name for part in golden.PARTS[preset] for name in compared(preset, part)
        }
    assert golden.NUMBERS["presets"].keys() == golden.PARTS.keys() == {"atari100k", "atari100k-64"}
    games = golden.TRAJECTORIES["games"]
    assert games.keys() == set(ATARI_100K) and all(
        forms.keys() == {"train", "test"} for forms in games.values()
    )


# --- a drift is noticed


def wrong_names(part, agent=None):
    "The quantities of a part that differ."
    with golden.arithmetic(torch.float64):
        found = golden.wrong_numbers(part, "atari100k", agent)
    return {name for name, trouble in found.items() if trouble}


def test_one_other_weight_is_noticed():
    with golden.arithmetic(torch.float64):
        agent = golden.golden_agent("atari100k")
    with torch.no_grad():
        agent.actor_critic.critic.weight[0, 0] += 1e-6
    found = wrong_names(golden.actor_critic, agent)
    assert "policy values over 5 frames" in found and "policy state h after burn-in" not in found


def test_frames_one_too_late_are_noticed(monkeypatch):
    right = golden.both_games
    monkeypatch.setattr(golden, "both_games", lambda first: right(first + 1))
    assert {"policy state h after burn-in", "actor_critic losses"} <= wrong_names(
        golden.actor_critic
    )


def test_endings_one_too_late_and_another_lambda_are_noticed(monkeypatch):
    right = golden.lambda_returns

    def late(rewards, values, ends, discount, lam):
        return right(rewards, values, ends.roll(1, dims=1), discount, lam)

    def less(rewards, values, ends, discount, lam):
        return right(rewards, values, ends, discount, lam - 1e-6)

    for other in (late, less):
        monkeypatch.setattr(golden, "lambda_returns", other)
        assert wrong_names(golden.returns) == {"lambda returns"}


def test_another_learning_rate_is_noticed(monkeypatch):
    right = golden.build_optimizers
    monkeypatch.setattr(
        golden,
        "build_optimizers",
        lambda agent, training: right(agent, replace(training, learning_rate=2e-4)),
    )
    assert wrong_names(golden.counts) == {"optimisers"}


def test_another_interpolation_changes_only_the_frames(monkeypatch):
    def resize(frame, size):
        return np.array(Image.fromarray(frame).resize((size, size), Image.Resampling.BICUBIC))

    monkeypatch.setattr(envs, "resize", resize)
    assert golden.wrong_game("Pong") == ["train sha256", "test sha256"]


def test_one_emulator_frame_less_an_action_is_noticed(monkeypatch):
    monkeypatch.setattr(
        golden,
        "make_env",
        lambda config, train: envs.make_env(replace(config, frame_skip=3), train=train),
    )
    assert {"train sha256", "train rewards", "test sha256", "test rewards"} <= set(
        golden.wrong_game("Pong")
    )

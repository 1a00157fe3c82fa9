"""Environments: all games, seeds, lives, the two kinds of ending, Catch, and what wrong names are told."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from iris_edu.base.settings import UserError
from iris_edu.envs import (
    ATARI_100K,
    Catch,
    EnvConfig,
    LifeLossEnds,
    SkipFrames,
    catch_returns,
    make_env,
    num_actions,
    resize,
)


def play(env, actions, seed):
    "All that a game says under these actions; after an end it goes on with reset()."
    said = [env.reset(seed=seed)[0].tobytes()]
    for action in actions:
        frame, reward, terminated, truncated, info = env.step(int(action))
        said.append((frame.tobytes(), reward, terminated, truncated, info.get("life_lost")))
        if terminated or truncated:
            said.append(env.reset()[0].tobytes())
    return said


@pytest.mark.parametrize("game", ATARI_100K)
def test_every_game_plays_and_is_seeded(game):
    env, actions = make_env(EnvConfig(game)), np.random.default_rng(0).integers(3, size=25)
    frame, _ = env.reset(seed=1)
    assert env.observation_space.contains(frame) and env.observation_space.shape == (64, 64, 3)
    assert isinstance(env.action_space, spaces.Discrete) and 3 <= num_actions(env) <= 18
    other = make_env(EnvConfig(game))
    assert play(env, actions, 5) == play(other, actions, 5)
    env.close(), other.close()


def test_there_are_26_games_in_order():
    assert len(set(ATARI_100K)) == 26 and list(ATARI_100K) == sorted(ATARI_100K)


def test_a_game_is_repeated_over_lost_lives_and_after_other_games():
    env, actions = make_env(EnvConfig("Breakout")), np.random.default_rng(0).integers(4, size=600)
    first = play(env, actions, 3)
    play(env, actions[:50], 4)
    assert (
        play(env, actions, 3) == first
        and sum(s[4] is True for s in first if isinstance(s, tuple)) > 5
    )


def test_seeds_make_different_games():
    assert play(make_env(EnvConfig("Pong")), [2] * 80, 0) != play(
        make_env(EnvConfig("Pong")), [2] * 80, 1
    )


def test_the_observation_is_the_maximum_of_the_last_two_resized_frames():
    raw, env = gym.make("AlienNoFrameskip-v4"), make_env(EnvConfig("Alien", noop_max=0))
    start, _ = raw.reset(seed=0)

    def small(frame):
        return np.array(Image.fromarray(frame).resize((64, 64), Image.Resampling.BILINEAR))

    assert (env.reset(seed=0)[0] == small(start)).all()
    for action in np.random.default_rng(0).integers(18, size=60):
        steps = [raw.step(action) for _ in range(4)]
        frame, reward, *_ = env.step(action)
        assert (frame == np.maximum(small(steps[2][0]), small(steps[3][0]))).all()
        assert reward == sum(step[1] for step in steps)


def test_evaluation_plays_whole_games_after_one_noop():
    env, rng = make_env(EnvConfig("Breakout"), train=False), np.random.default_rng(0)
    for seed in range(5):
        assert env.reset(seed=seed)[1]["frame_number"] == 1
    lives, done = [], False
    while not done:
        _, _, done, truncated, info = env.step(rng.integers(4))
        lives.append(info["lives"])
    assert set(lives) == {0, 1, 2, 3, 4, 5} and not truncated


def test_a_lost_life_goes_on_and_a_lost_game_starts_again():
    env, rng, ends = make_env(EnvConfig("Breakout", noop_max=0)), np.random.default_rng(0), []
    env.reset(seed=0)
    while len(ends) < 7:
        _, _, terminated, truncated, info = env.step(rng.integers(4))
        if not terminated:
            continue
        _, after = env.reset()
        ends.append((info["lives"], info["life_lost"], after["lives"], after["life_lost"]))
    assert ends == [(n, n > 0, n or 5, False) for n in (4, 3, 2, 1, 0, 4, 3)]


class Lives(gym.Env):
    "A game whose steps are given: (lives, terminated, truncated)."

    action_space, observation_space = spaces.Discrete(2), spaces.Box(0, 255, (64, 64, 3), np.uint8)

    def __init__(self, script):
        self.script, self.games, self.actions = iter(script), 0, []

    def reset(self, *, seed=None, options=None):
        self.games += 1
        return np.zeros((64, 64, 3), np.uint8), {"lives": 3}

    def step(self, action):
        self.actions.append(action)
        lives, terminated, truncated = next(self.script)
        return np.zeros((64, 64, 3), np.uint8), 0.0, terminated, truncated, {"lives": lives}


def test_a_life_lost_on_the_last_frame_of_the_clock_does_not_go_on():
    env = LifeLossEnds(game := Lives([(2, False, True)]))
    env.reset()
    *_, terminated, truncated, info = env.step(1)
    assert (terminated, truncated, info["life_lost"]) == (False, True, False)
    env.reset()
    assert game.games == 2


def test_a_game_that_ends_in_the_noop_after_a_lost_life_starts_again():
    env = LifeLossEnds(game := Lives([(2, False, False), (0, True, False), (3, False, False)]))
    env.reset(), env.step(1)
    assert env.reset()[1]["lives"] == 3 and game.games == 2 and game.actions == [1, 0]
    assert env.step(1)[2:4] == (False, False)


@pytest.mark.parametrize(
    "train, config", [(True, EnvConfig(max_frames=100)), (False, EnvConfig(eval_max_frames=100))]
)
def test_the_cap_counts_emulator_frames_and_truncates(train, config):
    env = make_env(config, train)
    _, info = env.reset(seed=0)
    waited, steps, truncated = info["frame_number"], 0, False
    while not truncated:
        _, _, terminated, truncated, info = env.step(0)
        steps += 1
    assert not terminated and info["frame_number"] == 100 and steps == -(-(100 - waited) // 4)


def test_an_early_end_merges_the_frames_that_were_played():
    env = SkipFrames(Lives([(3, False, False), (3, False, False), (0, True, False)]), skip=4)
    env.reset()
    assert env.step(0)[2] is True


def test_full_ids_get_the_same_pipeline():
    actions = np.random.default_rng(0).integers(6, size=50)
    assert play(make_env(EnvConfig("PongNoFrameskip-v4")), actions, 2) == play(
        make_env(EnvConfig("Pong")), actions, 2
    )
    sticky = make_env(EnvConfig("ALE/Pong-v5"))
    assert play(sticky, actions, 2) == play(make_env(EnvConfig("ALE/Pong-v5")), actions, 2)


class Pictures(gym.Env):
    "Any picture, any actions."

    def __init__(self, shape=(20, 30, 3), dtype=np.uint8, actions=spaces.Discrete(2)):
        self.observation_space, self.action_space = spaces.Box(0, 255, shape, dtype), actions

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.full(self.observation_space.shape, 7, self.observation_space.dtype), {}


@pytest.fixture
def registered():
    ids = []

    def register(**options):
        ids.append(f"iris_edu_test/Pictures{len(ids)}-v0")
        gym.register(ids[-1], entry_point=lambda: Pictures(**options))
        return ids[-1]

    yield register
    for name in ids:
        gym.registry.pop(name)


@pytest.mark.parametrize("shape", [(20, 30, 3), (20, 30, 1), (20, 30), (64, 64, 3)])
def test_any_picture_becomes_rgb(registered, shape):
    env = make_env(EnvConfig(registered(shape=shape)))
    frame, _ = env.reset(seed=0)
    assert (
        frame.shape == env.observation_space.shape == (64, 64, 3)
        and frame.dtype == np.uint8
        and (frame == 7).all()
    )


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(shape=(5,)), "uint8 images.*--env.render"),
        (dict(shape=(4, 20, 30, 3)), "frame-stacking"),
        (dict(shape=(20, 30, 7)), "uint8 images"),
        (dict(actions=spaces.Box(-1, 1, (2,))), "discrete actions.*ActionTable"),
        (dict(actions=spaces.MultiDiscrete([2, 2])), "discrete actions"),
    ],
)
def test_unusable_spaces_are_refused_in_one_sentence(registered, options, words):
    with pytest.raises(UserError, match=words) as error:
        make_env(EnvConfig(registered(**options)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "game, nearest",
    [
        ("Brakeout", "Breakout"),
        ("pong", "Pong"),
        ("catch", "Catch"),
        ("MsPackman", "MsPacman"),
        ("Q*bert", "Qbert"),
        ("CartPol-v1", "CartPole-v1"),
    ],
)
def test_an_unknown_game_is_told_the_nearest_name(game, nearest):
    with pytest.raises(UserError, match=f"nearest name is '{nearest}") as error:
        make_env(EnvConfig(game))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("game", ["nowhere:Game-v0", "CarRacing-v3"])
def test_what_gymnasium_cannot_make_is_one_sentence(game):
    try:
        make_env(EnvConfig(game))
    except UserError as error:
        assert game in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    "field, value", [("size", 0), ("frame_skip", 0), ("noop_max", -1), ("max_frames", 0)]
)
def test_bad_numbers_are_refused(field, value):
    with pytest.raises(UserError, match=f"env.{field}"):
        EnvConfig(**{field: value})


def test_other_sizes():
    for game in ("Pong", "Catch"):
        assert make_env(EnvConfig(game, size=32)).reset(seed=0)[0].shape == (32, 32, 3)
    assert resize(np.zeros((210, 160, 3), np.uint8), 16).shape == (16, 16, 3)


@pytest.mark.filterwarnings("ignore")
def test_gymnasium_accepts_catch():
    check_env(gym.make("iris_edu/Catch-v0", disable_env_checker=True).unwrapped)
    check_env(Catch("rgb_array"), skip_render_check=False)


def follow(env, wanted):
    "The action that brings the basket towards one of the `wanted` positions."
    nearest = min(wanted, key=lambda place: abs(place - env.basket))
    return 1 + int(np.sign(nearest - env.basket))


def perfect(env):
    under = {env.column - 1, env.column} & set(range(7))
    return follow(env, under if env.kind == "apple" else set(range(7)) - under)


def game_return(env, choose, seed):
    env.reset(seed=seed)
    rewards, done = [], False
    while not done:
        _, reward, done, truncated, _ = env.step(choose(env))
        rewards.append(reward)
        assert not truncated
    return rewards


def test_computed_returns_are_the_played_ones():
    env, rng = Catch(), np.random.default_rng(0)
    chance, best = catch_returns()
    assert best == 4 and {sum(game_return(env, perfect, seed)) for seed in range(150)} == {4}
    played = [sum(game_return(env, lambda env: rng.integers(3), seed)) for seed in range(1500)]
    assert abs(np.mean(played) - chance) < 4 * np.std(played) / len(played) ** 0.5


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(0, 2**31))
def test_a_game_of_catch_has_four_apples_and_two_bombs(seed, plays):
    env, rng = Catch(), np.random.default_rng(plays)
    rewards = game_return(env, lambda env: rng.integers(3), seed)
    lost = env.kind == "bomb" and rewards[-1] == -1
    assert set(rewards) <= {-1, 0, 1} and len(rewards) <= 47
    assert lost or (len(rewards) == 47 and env.left == [0, 0] and np.abs(rewards).sum() == 4)


def test_a_frame_of_catch_says_everything():
    seen = {}
    for seed in range(60):
        env, rng = Catch(), np.random.default_rng(seed)
        frame, _ = env.reset(seed=seed)
        done = False
        while not done:
            state = (env.basket, env.kind, env.row, env.column, *env.left)
            if env.row < 7:
                assert seen.setdefault(frame.tobytes(), state) == state
            frame, _, done, _, _ = env.step(rng.integers(3))
    assert len(seen) > 500

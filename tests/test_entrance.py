"""The entrance: pictures in all forms, spaces, answers that break the contract, and names of games of other packages."""

from itertools import product

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from iris_edu.base.settings import UserError
from iris_edu.config import Config, Parts, make_environment
from iris_edu.entrance import ActionTable, Conform, check_actions, check_frames, to_image
from iris_edu.envs import EnvConfig, enter, game_id, make_env, option_values

Box = spaces.Box
RGB = Box(0, 255, (20, 30, 3), np.uint8)


class Game(gym.Env):
    "Answers what it is told to."

    def __init__(
        self,
        space=RGB,
        observation=None,
        reward=0.0,
        actions=spaces.Discrete(3),
        ends=(False, False),
    ):
        self.observation_space, self.action_space, self.reward, self.ends, self.told = (
            space,
            actions,
            reward,
            ends,
            [],
        )
        self.observation = (
            np.zeros(space.shape, space.dtype) if observation is None else observation
        )

    def reset(self, *, seed=None, options=None):
        self.told.append(seed)
        return self.observation, {}

    def step(self, action):
        self.told.append(action)
        return self.observation, self.reward, *self.ends, {}


# --- pictures
@settings(max_examples=60, deadline=None)
@given(
    st.integers(5, 40),
    st.integers(5, 40),
    st.sampled_from([None, 1, 3, 4]),
    st.booleans(),
    st.sampled_from([np.uint8, np.int64, np.float32, np.float64]),
    st.booleans(),
    st.integers(0, 9),
)
def test_every_form_of_a_picture_gives_the_same_bytes(
    height, width, channels, first, kind, boxed, seed
):
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (height, width, channels or 1), np.uint8)
    right = np.broadcast_to(picture[..., :3], (height, width, 3))
    form = picture if channels else picture[..., 0]
    if first and channels:
        form = form.transpose(2, 0, 1)
    form = form / kind(255) if np.issubdtype(kind, np.floating) else form
    form = form.astype(kind)
    found = to_image({"screen": form, "score": np.zeros(3)} if boxed else form)
    assert found.dtype == np.uint8 and np.array_equal(found, right)


def test_the_image_is_a_copy_and_the_observation_stays():
    screen = np.zeros((8, 8, 3), np.uint8)
    image = to_image(screen)
    image[:] = 9
    assert not screen.any() and not np.shares_memory(image, screen)


def test_white_may_be_255_in_floats_if_the_space_says_so():
    floats = np.linspace(0, 255, 8 * 8 * 3, dtype=np.float32).reshape(8, 8, 3)
    env = Conform(Game(Box(0, 255, (8, 8, 3), np.float32), floats))
    assert np.array_equal(env.reset()[0], np.rint(floats).astype(np.uint8))
    with pytest.raises(
        UserError, match="from 0 to 255: an image of float32 holds them from 0 to 1"
    ):
        to_image(floats)


@pytest.mark.parametrize(
    "wrong, words",
    [
        (np.zeros(7), "no image"),
        (np.zeros((0, 5, 3)), "no image"),
        (np.zeros((2, 8, 8, 3)), "no image"),
        (np.zeros((8, 8, 6)), "no image"),
        (3.0, "no image"),
        (np.full((8, 8), -1), "from -1 to"),
        (np.full((8, 8), 300), "to 300"),
        (np.full((8, 8), np.nan), "nan"),
        (np.full((8, 8), "a"), "an image holds numbers"),
        ({}, "holds nothing"),
        ({"a": np.zeros((8, 8)), "b": np.zeros((8, 8))}, "2 are images"),
        ({"a": np.zeros(3)}, "0 are images"),
        (None, "no image"),
    ],
)
def test_what_is_no_picture_is_refused_in_a_sentence(wrong, words):
    with pytest.raises(UserError, match=words) as error:
        to_image(wrong)
    assert "\n" not in str(error.value)


# --- spaces
@pytest.mark.parametrize(
    "space",
    [
        RGB,
        Box(0, 255, (20, 30), np.uint8),
        Box(0, 255, (3, 20, 30), np.uint8),
        Box(0, 1, (20, 30, 4), np.float32),
        Box(0, 1, (20, 30, 1), np.bool_),
        Box(0, 255, (20, 30, 3), np.int64),
        spaces.Dict(image=RGB, text=spaces.Text(5)),
        None,
    ],
)
def test_spaces_of_pictures_are_taken(space):
    check_frames(space, "it")


@pytest.mark.parametrize(
    "space, words",
    [
        (Box(-1, 1, (20, 30, 3), np.float32), "AddRenderObservation"),
        (Box(-np.inf, np.inf, (5, 5), np.float32), "--env.render"),
        (Box(0, 1, (10, 10, 6), np.bool_), "--env.render"),
        (spaces.Discrete(16), "--env.render"),
        (spaces.Dict(a=RGB, b=RGB), "FilterObservation"),
        (spaces.Dict(a=spaces.Discrete(2)), "--env.render"),
        (Box(0, 255, (4, 20, 30, 3), np.uint8), "frame-stacking"),
        (spaces.Tuple((RGB,)), "AddRenderObservation"),
    ],
)
def test_other_spaces_are_refused_with_the_wrapper_that_helps(space, words):
    with pytest.raises(UserError, match=f"^it .*{words}") as error:
        check_frames(space, "it")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "space",
    [
        Box(-1, 1, (2,)),
        spaces.MultiDiscrete([3, 2]),
        spaces.MultiBinary(4),
        spaces.Dict(a=spaces.Discrete(2)),
        spaces.Tuple((spaces.Discrete(2),)),
        None,
    ],
)
def test_other_actions_are_refused_with_the_wrapper_that_helps(space):
    with pytest.raises(UserError, match="^it .*ActionTable") as error:
        check_actions(space, "it")
    assert "\n" not in str(error.value)


def test_a_table_makes_actions_discrete():
    game = Game(actions=spaces.MultiDiscrete([3, 2]))
    env = enter(ActionTable(game, list(product(range(3), range(2)))))
    env.reset(), env.step(5)
    assert env.action_space.n == 6 and game.told[-1] == (2, 1)


# --- answers
@pytest.mark.parametrize("start", [-2, 0, 1, 7])
def test_actions_are_counted_from_zero(start):
    game = Game(actions=spaces.Discrete(3, start=start))
    env = enter(game)
    env.reset()
    for action in range(env.action_space.n):
        env.step(action)
    assert env.action_space == spaces.Discrete(3) and game.told[1:] == [start, start + 1, start + 2]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**63 - 1))
def test_seeds_have_31_bits_and_depend_on_the_seed_alone(seed):
    game = Game()
    for _ in range(2):
        enter(game).reset(seed=seed)
    assert game.told[0] == game.told[1] and 0 <= game.told[0] < 2**31
    np.random.RandomState(game.told[0])


@pytest.mark.parametrize(
    "reward", [np.nan, np.inf, -np.inf, np.float32("nan"), None, "much", np.zeros(2)]
)
def test_rewards_must_be_finite(reward):
    env = enter(Game(reward=reward), name="my game")
    env.reset()
    with pytest.raises(UserError, match="my game gave the reward"):
        env.step(0)


@pytest.mark.parametrize("reward", [1, np.int64(1), np.float32(1), True, np.array(1.0)])
def test_rewards_and_ends_of_numpy_become_plain(reward):
    env = enter(Game(reward=reward, ends=(np.bool_(True), 0)))
    env.reset()
    _, found, terminated, truncated, _ = env.step(0)
    assert found == 1.0 and type(found) is float and terminated is True and truncated is False


@pytest.mark.parametrize("train, cap", [(True, 7), (False, 11)])
def test_every_game_is_cut_at_its_cap(train, cap):
    env = enter(Game(), EnvConfig(max_frames=7, eval_max_frames=11), train)
    for _ in range(2):
        env.reset()
        ends = [env.step(0)[2:4] for _ in range(cap)]
        assert ends == [(False, False)] * (cap - 1) + [(False, True)]


class NoSeed(Game):
    def reset(self):
        return self.observation


class OneValue(Game):
    def reset(self, *, seed=None, options=None):
        return self.observation


class FourValues(Game):
    def step(self, action):
        return self.observation, 0.0, False, {}


@pytest.mark.parametrize(
    "make, words",
    [
        (NoSeed, "takes no seed"),
        (OneValue, "reset gives a ndarray"),
        (FourValues, "step gives 4 values"),
    ],
)
def test_the_old_interface_is_told_what_is_missing(make, words):
    with pytest.raises(UserError, match=f"^mine: .*{words}"):
        env = enter(make(), name="mine")
        env.reset(), env.step(0)


class Broken(Game):
    def step(self, action):
        raise ValueError("two\nlines")

    def reset(self, *, seed=None, options=None):
        return super().reset()[0], None


def test_an_error_of_the_game_is_said_with_its_place():
    env = enter(Broken(), name="mine")
    assert env.reset()[1] == {}
    with pytest.raises(
        UserError,
        match=r"^mine failed in step \(ValueError: two lines in test_entrance.py, line \d+\)",
    ) as error:
        env.step(0)
    assert isinstance(error.value.__cause__, ValueError)


def test_what_is_no_environment_is_said():
    for thing in (None, "Pong", Game):
        with pytest.raises(UserError, match="mine|no environment"):
            enter(thing, name="mine")


# --- names
def test_a_module_and_an_id_make_a_game(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    text = (
        "import gymnasium as gym, numpy as np\nfrom iris_edu.envs import Catch\nimport functools\n"
    )
    (tmp_path / "at_once.py").write_text(text + "gym.register('AtOnce-v0', entry_point=Catch)\n")
    (tmp_path / "when_asked.py").write_text(
        text + "def register_envs(): gym.register('space/Asked-v3', entry_point=Catch)\n"
    )
    (tmp_path / "broken_games.py").write_text("1 / 0\n")
    try:
        for game in ("at_once:AtOnce-v0", "when_asked:space/Asked-v3"):
            assert make_env(EnvConfig(game)).reset(seed=1)[0].shape == (64, 64, 3)
        for game, words in (
            ("at_once:AtOne-v0", "nearest name is 'AtOnce-v0'"),
            ("no_such_module:Game-v0", "install its package"),
            ("broken_games:Game-v0", "ZeroDivisionError"),
        ):
            with pytest.raises(UserError, match=words) as error:
                make_env(EnvConfig(game))
            assert game in str(error.value) and "\n" not in str(error.value)
    finally:
        for name in ("AtOnce-v0", "space/Asked-v3"):
            gym.registry.pop(name, None)


def test_an_id_of_an_unknown_package_is_told_how_it_is_named():
    with pytest.raises(UserError, match="module:Name-v0"):
        game_id("MiniGrid-Empty-5x5-v0")


def test_a_game_without_pictures_is_rendered():
    with pytest.raises(UserError, match="--env.render"):
        make_env(EnvConfig("CartPole-v1"))
    gym.register("Drawn-v0", entry_point=Drawn)
    try:
        frame, _ = make_env(EnvConfig("Drawn-v0", render=True)).reset(seed=0)
    finally:
        gym.registry.pop("Drawn-v0")
    assert frame.shape == (64, 64, 3) and (frame == 55).all()


class Drawn(gym.Env):
    "Says numbers, draws a picture."

    metadata = {"render_modes": ["rgb_array"]}
    observation_space, action_space = Box(-1, 1, (3,)), spaces.Discrete(2)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        return np.zeros(3, np.float32), {}

    def render(self):
        return np.full((10, 10, 3), 55, np.uint8)


def test_an_own_class_is_rendered_too(monkeypatch):
    def environment(make):
        return make_environment(Config(env=EnvConfig(render=True), parts=Parts(environment=make)))

    assert (environment(Drawn).reset(seed=0)[0] == 55).all()
    with pytest.raises(UserError, match="renders no pictures"):
        environment(Blind)


class Blind(Drawn):
    def __init__(self):
        super().__init__()


def with_both(config, train):
    return Drawn("rgb_array") if isinstance(config, EnvConfig) and train is False else None


def with_config(config):
    return Drawn("rgb_array") if isinstance(config, EnvConfig) else None


def with_train(*, train=True):
    return Drawn("rgb_array")


def with_nothing():
    return Drawn("rgb_array")


@pytest.mark.parametrize("make", [with_both, with_config, with_train, with_nothing])
def test_a_function_is_given_what_it_takes(make):
    assert (
        make_environment(
            Config(env=EnvConfig(render=True), parts=Parts(environment=make))
        ).action_space.n
        == 2
    )


# --- options
def test_options_are_read_as_values():
    assert option_values(("a=1", "b=0.5", "c=True", "d=none", 'e={"x": [1]}', "f=false")) == {
        "a": 1,
        "b": 0.5,
        "c": True,
        "d": "none",
        "e": {"x": [1]},
        "f": False,
    }
    assert EnvConfig(options={"mode": 2, "difficulty": 1}).options == ("difficulty=1", "mode=2")


@pytest.mark.parametrize(
    "options", [("mode",), ("=3",), ("mode=",), ("a b=1",), ("mode=1", "mode=2"), 3, ("mode=1", 4)]
)
def test_options_in_another_form_are_refused(options):
    with pytest.raises(UserError, match="env.options"):
        EnvConfig(options=options)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"no_such": 1}, "no_such"),
        ({"frameskip": 4}, "frame-skip"),
        ({"mode": 99}, "mode"),
        ({"repeat_action_probability": 2}, "between 0 and 1"),
        ({"full_action_space": "maybe"}, "true or false"),
    ],
)
def test_options_that_a_game_does_not_know_are_refused_in_a_sentence(options, words):
    with pytest.raises(UserError, match=words) as error:
        make_env(EnvConfig("Pong", options=options)).reset(seed=0)
    assert "\n" not in str(error.value)


def test_sticky_actions_change_the_game_and_replay():
    def frames(config):
        env = make_env(config)
        env.reset(seed=3)
        return np.stack([env.step(2 + t // 3 % 2)[0] for t in range(60)])

    sticky = EnvConfig("Pong", options={"repeat_action_probability": 0.5})
    assert np.array_equal(frames(sticky), frames(sticky)) and not np.array_equal(
        frames(sticky), frames(EnvConfig("Pong"))
    )


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(ends=("False", False)), "terminated = 'False'"),
        (dict(ends=(np.nan, False)), "terminated = nan"),
        (dict(ends=(False, np.zeros(2))), "truncated = array"),
        (dict(reward=1e300), "the reward 1e"),
        (dict(actions=spaces.Discrete(10**12)), "1 to 4096"),
    ],
)
def test_answers_that_would_be_taken_for_others_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        env = enter(Game(**options), name="mine")
        env.reset(), env.step(0)


class Quits(Game):
    def step(self, action):
        raise SystemExit(0)


def test_a_game_cannot_end_the_program():
    env = enter(Quits(), name="mine")
    env.reset()
    with pytest.raises(UserError, match="mine failed in step .SystemExit"):
        env.step(0)


@pytest.mark.parametrize("name", ["game", "obs_type", "sound_obs", "render_mode"])
def test_no_option_makes_another_game_of_an_atari_game(name):
    with pytest.raises(UserError, match=f"{name}, which is no option"):
        make_env(EnvConfig("Pong", options={name: "breakout"}))


@pytest.mark.parametrize("text", ["def broken(:", "1 / 0", "import sys; sys.exit(3)"])
def test_a_module_that_cannot_be_imported_is_a_sentence(text, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "sick_module.py").write_text(text + "\n")
    with pytest.raises(UserError, match="cannot be imported"):
        make_environment(Config(parts=Parts(environment="sick_module:Game")))

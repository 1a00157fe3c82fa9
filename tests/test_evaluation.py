"""Forecasts, scores and intervals on cases that can be worked out by hand, and against the tables of the paper."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from iris_edu.agent import load_run
from iris_edu.apps import cli
from iris_edu.base import settings
from iris_edu.base.rng import generator
from iris_edu.base.settings import UserError
from iris_edu.collect import evaluate_policy
from iris_edu.envs import ATARI_100K, make_env
from iris_edu.evaluation import (
    aggregates,
    bootstrap,
    departures,
    evaluate_run,
    game_name,
    normalise,
    paper_table,
    performance_profile,
    plot_aggregates,
    plot_improvement,
    plot_profiles,
    probability_of_improvement,
    read_evaluation,
)
from iris_edu.imagination import Dream, DreamState
from iris_edu.open_loop import k_step_error, shuffle_actions
from iris_edu.replay import Batch
from iris_edu.run import RunFile, write_run
from iris_edu.training import PRESETS, build_agent, train


class Counter:
    """A world of one number, its frame's brightness and its only token.

    Actions are added, a sum above 9 ends the game, action 2 pays.
    """

    tokenizer = property(lambda self: self)
    encode = staticmethod(lambda frames: (frames[..., 0, 0, 0] * 255).round().long()[..., None])
    decode = staticmethod(
        lambda tokens: (tokens[..., None, None] / 255).expand(*tokens.shape[:-1], 3, 8, 8)
    )

    def begin(self, frames):
        return DreamState(frames, self.encode(frames), None, None, None)

    def step(self, state, actions, generator):
        tokens = state.tokens + actions[:, None]
        return (
            state._replace(tokens=tokens, frames=self.decode(tokens)),
            (actions == 2).float() * 5,
            tokens[:, 0] > 9,
        )


def counted(actions, mask=None):
    "The Batch that the world of Counter gives for the actions (B,T), beginning at 1."
    actions = torch.tensor(actions)
    tokens = 1 + torch.nn.functional.pad(actions.cumsum(1)[:, :-1], (1, 0))
    mask = torch.ones_like(actions, dtype=torch.bool) if mask is None else torch.tensor(mask)
    frames = (Counter.decode(tokens[..., None]) * 255).round().byte() * mask[..., None, None, None]
    return Batch(
        frames, actions * mask, (actions == 2) * 5.0 * mask, (tokens + actions > 9) & mask, mask
    )


def test_a_perfect_model_makes_no_error():
    errors = k_step_error(Counter(), counted([[1, 2, 0, 7, 0], [0, 0, 2, 1, 1]]), generator(0))
    assert all((errors[name]["world model"] == 0).all() for name in ("token_error", "pixel_error"))
    assert all(
        (errors[name]["world model"] == 1).all() for name in ("reward_accuracy", "ending_accuracy")
    )
    assert (errors["pixel_error"]["reconstruction"] == 0).all()


def test_nothing_moves_by_hand():
    errors = k_step_error(Counter(), counted([[1, 2, 0, 7, 0], [0, 0, 2, 1, 1]]), generator(0))
    # the second game begins to move at its third step
    assert errors["token_error"]["copy"].tolist() == [0.5, 0.5, 1, 1]
    np.testing.assert_allclose(errors["pixel_error"]["copy"] * 255, [0.5, 1.5, 2.5, 6.5], atol=1e-5)
    assert errors["reward_accuracy"]["copy"].tolist() == [1, 0.5, 0.5, 1]
    assert errors["ending_accuracy"]["copy"].tolist() == [1, 1, 1, 0.5]


def test_padding_does_not_count():
    """The second game ends with its second action.

    There is no third frame to compare, and a column nobody reaches is nan.
    """
    mask = [[True, True, True, False], [True, True, False, False]]
    errors = k_step_error(Counter(), counted([[1, 0, 0, 0], [2, 9, 0, 0]], mask), generator(0))
    assert errors["token_error"]["copy"][:2].tolist() == [1, 1] and np.isnan(
        errors["token_error"]["copy"][2]
    )
    assert errors["ending_accuracy"]["copy"].tolist() == [1, 0.5, 1]
    assert errors["reward_accuracy"]["copy"].tolist() == [0.5, 1, 1]


def test_shuffled_actions_are_the_same_actions():
    actions, mask = torch.arange(12).view(3, 4), torch.tensor([[1, 1, 1, 0]] * 3, dtype=torch.bool)
    shuffled = shuffle_actions(actions, mask, generator(0))
    assert (
        sorted(shuffled[mask].tolist()) == sorted(actions[mask].tolist())
        and (shuffled != actions).any()
    )
    assert (shuffled[~mask] == actions[~mask]).all()


def test_k_steps_of_a_real_agent():
    "Any Dream will do, beyond its context too; the same generator gives the same numbers."
    agent = build_agent(PRESETS["tiny"], 3).eval()
    frames = torch.randint(256, (4, 14, 3, 64, 64), generator=generator(1), dtype=torch.uint8)
    batch = Batch(
        frames,
        torch.ones(4, 14, dtype=torch.long),
        torch.zeros(4, 14),
        torch.zeros(4, 14, dtype=torch.bool),
        torch.ones(4, 14, dtype=torch.bool),
    )
    dream = Dream(agent.tokenizer, agent.world_model)
    first, second = (k_step_error(dream, batch, generator(2)) for _ in range(2))
    for measure, table in first.items():
        for name, values in table.items():
            assert (
                values.shape == (13,)
                and np.isfinite(values).all()
                and (values == second[measure][name]).all()
            )


# --- scores by hand

# all runs: 0 0 0 1 1 2 4 8
TOY = {"A": np.array([0.0, 0.0, 0.0, 4.0]), "B": np.array([1.0, 1.0, 2.0, 8.0])}


def test_aggregates_by_hand():
    assert aggregates(TOY) == {
        "mean": 2,
        "median": 2,
        "iqm": 1,
        "optimality_gap": 3 / 8,
        "superhuman": 2,
    }
    # runs 0 0 .5 1 1 3: one off each end
    uneven = {"A": np.array([0.5]), "B": np.array([0.0, 1.0, 1.0]), "C": np.array([3.0, 0.0])}
    found = aggregates(uneven)
    np.testing.assert_allclose(
        [found[k] for k in ("mean", "median", "iqm", "optimality_gap", "superhuman")],
        [8 / 9, 2 / 3, 2.5 / 4, 2.5 / 6, 1],
    )


def test_exactly_human_is_superhuman():
    assert aggregates(normalise({"Pong": [14.6], "Boxing": [12.0]}))["superhuman"] == 1


def test_normalise_by_hand():
    found = normalise({"Pong": [-20.7, 14.6], "Breakout": 83.7, "Catch": [1.0]})
    np.testing.assert_allclose(found["Pong"], [0, 1])
    np.testing.assert_allclose(found["Breakout"], [82 / 28.8])
    assert "Catch" not in found


def test_profile_and_improvement_by_hand():
    np.testing.assert_allclose(
        performance_profile(TOY, [-1, 0, 1, 3, 8]), [1, 5 / 8, 3 / 8, 2 / 8, 0]
    )
    ours, theirs = (
        {"A": np.array([1.0, 3.0]), "B": np.array([2.0]), "C": np.array([9.0])},
        {"B": np.array([2.0, 0.0]), "A": np.array([1.0, 2.0])},
    )
    assert probability_of_improvement(ours, theirs) == pytest.approx(
        ((0.5 + 0 + 1 + 1) / 4 + (0.5 + 1) / 2) / 2
    )
    assert probability_of_improvement(theirs, ours) == pytest.approx(
        1 - probability_of_improvement({k: ours[k] for k in "AB"}, theirs)
    )


def test_bootstrap_by_hand():
    """Two runs, 0 and 1: a resample's mean is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4.

    Runs never change the game.
    """

    def mean(scores):
        return scores["A"].mean(-1)

    low, high = bootstrap(mean, {"A": np.array([0.0, 1.0])}, confidence=0.4)
    assert (low, high) == (0.5, 0.5) and tuple(bootstrap(mean, {"A": np.array([0.0, 1.0])})) == (
        0,
        1,
    )
    apart = {"A": np.zeros(3), "B": np.ones(5)}
    assert all(low == high for low, high in bootstrap(aggregates, apart).values())


def test_bootstrap_is_seeded_and_draws_the_methods_apart():
    one, two = {"A": np.array([0.0, 1.0])}, {"A": np.array([0.0, 1.0])}
    assert (
        bootstrap(aggregates, one, seed=3)["mean"] == bootstrap(aggregates, one, seed=3)["mean"]
    ).all()
    low, high = bootstrap(probability_of_improvement, one, two)
    # the same draws for both would always give 1/2
    assert low == 0 and high == 1


# --- the paper's tables


def test_tables_are_complete():
    for number, columns in ((1, 9), (8, 4)):
        table = paper_table(number)
        assert len(table.scores) == columns and all(
            scores.keys() == set(ATARI_100K) for scores in table.scores.values()
        )
    assert (
        list(paper_table(7).scores["IRIS (64 tokens)"].values()) == [570.0, 1890.4, 282.5]
        and paper_table(7).printed["Random"] == {}
    )
    assert (
        paper_table(1).scores["IRIS"] == paper_table(8).scores["IRIS (100k)"]
        and paper_table(1).scores["Human"] == paper_table(8).scores["Human"]
    )


@pytest.mark.parametrize(
    "number, column, exact",
    [
        *(
            (1, column, ("mean", "median", "superhuman"))
            for column in ("MuZero", "EfficientZero", "SimPLe", "CURL", "DrQ", "SPR", "IRIS")
        ),
        (8, "IRIS (100k)", ("mean", "median", "superhuman")),
        (8, "IRIS (10M)", ("mean", "iqm", "optimality_gap", "superhuman")),
    ],
)
def test_printed_aggregates_follow_from_the_rows(number, column, exact):
    """Where they are taken over runs they cannot: the IQM and the gap of Table 1.

    The median of IRIS (10M) is printed as 1.207, its rows give 1.205.
    """
    table = paper_table(number)
    found = aggregates(normalise(table.scores[column]))
    assert {name: float(found[name]) for name in exact} == pytest.approx(
        {name: table.printed[column][name] for name in exact},
        abs=6e-4 if column != "DrQ" else 1.1e-3,
    )


def test_percentages_of_table_7():
    "Appendix E: +36 %, +121 %, +432 %."
    small, large = (paper_table(7).scores[f"IRIS ({n} tokens)"] for n in (16, 64))
    assert [
        round(100 * (large[game] / small[game] - 1)) for game in ("Alien", "Asterix", "BankHeist")
    ] == [36, 121, 432]


def test_missing_or_damaged_table(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "iris_edu.zoo.store.load_settings", lambda: replace(settings.load_settings(), data=tmp_path)
    )
    with pytest.raises(UserError, match="there is no .*table2.csv"):
        paper_table(2)
    (tmp_path / "atari100k").mkdir()
    for text in ("", "game,Random\nPong,many\n", "game,Random\nPong\n"):
        (tmp_path / "atari100k" / "table1.csv").write_text(text)
        with pytest.raises(UserError, match="is damaged"):
            paper_table(1)


# --- intervals against all resamples


def all_resamples(scores):
    "Every way to draw each game's runs again, as {game: (ways, runs)}; all are equally likely."
    drawn = [list(product(runs, repeat=len(runs))) for runs in scores.values()]
    return {game: np.array(column) for game, column in zip(scores, zip(*product(*drawn)))}


def test_intervals_are_those_of_all_resamples():
    """Three games of three runs can be drawn again in 27 ways each.

    The quantiles over all 19,683 are what two thousand draws estimate.
    """
    scores = {
        "A": np.array([0.0, 0.3, 0.9]),
        "B": np.array([0.5, 1.4, 1.5]),
        "C": np.array([2.0, 2.2, 5.0]),
    }
    exact, found = (
        aggregates(all_resamples(scores)),
        bootstrap(aggregates, scores, resamples=20_000),
    )
    for name in ("mean", "median", "iqm", "optimality_gap"):
        steps = np.quantile(exact[name], [0.02, 0.03, 0.97, 0.98])  # the exact end lies between
        assert steps[0] <= found[name][0] <= steps[1] and steps[2] <= found[name][1] <= steps[3], (
            name
        )


def test_a_whole_table_of_runs():
    """Runs that scatter evenly about the rows of Table 1 keep mean, median and count.

    The IQM and the gap are theirs.
    """
    table = paper_table(1)
    scores = normalise(
        {
            game: np.array([0.5, 0.9, 1.0, 1.1, 1.5]) * mean
            for game, mean in table.scores["SPR"].items()
        }
    )
    found, pooled = aggregates(scores), np.sort(np.concatenate([*scores.values()]))
    assert [round(float(found[name]), 2) for name in ("mean", "median")] == [
        round(table.printed["SPR"][name], 2) for name in ("mean", "median")
    ]
    assert found["superhuman"] == table.printed["SPR"]["superhuman"] and len(pooled) == 130
    assert found["iqm"] == pytest.approx(pooled[32:98].mean()) and found[
        "optimality_gap"
    ] == pytest.approx(1 - pooled.clip(max=1).mean())


# --- names of games


@pytest.mark.parametrize(
    "spelling",
    [
        "BankHeist",
        "bank_heist",
        "atari_bank_heist",
        "atari100k_bank_heist",
        "BankHeistNoFrameskip-v4",
        "ALE/BankHeist-v5",
        "BankHeist-v4",
        "ale_py:ALE/BankHeist-v5",
    ],
)
def test_one_game_many_spellings(spelling):
    assert game_name(spelling) == "BankHeist"


@pytest.mark.parametrize(
    "other", ["my_game:Pong", "minatar.gym:MinAtar/Breakout-v1", "Pong-v1", "Catch", "CartPole-v1"]
)
def test_other_games_keep_their_names(other):
    assert game_name(other) == other


# --- run folders

MICRO = replace(
    PRESETS["tiny"],
    device="cpu",
    env=replace(PRESETS["tiny"].env, game="Catch"),
    training=replace(
        PRESETS["tiny"].training,
        epochs=1,
        collect_epochs=1,
        collect_steps=20,
        updates=1,
        tokenizer_after=0,
        world_model_after=0,
        actor_critic_after=0,
        tokenizer_batch=4,
        world_model_batch=2,
        actor_critic_batch=2,
        evaluate_every=0,
    ),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A run of one epoch."
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(MICRO, folder, callbacks=())
    return folder


def evaluated(folder, game, returns, seed=0, **other):
    "A run folder with nothing in it but an evaluation."
    folder.mkdir()
    write_run(folder, RunFile(PRESETS["tiny"]))
    env = dict(frame_skip=4, eval_noop_max=1, eval_max_frames=108_000)
    (folder / "evaluation.json").write_text(
        json.dumps(
            dict(
                game=game,
                returns=returns,
                run_seed=seed,
                seed=0,
                temperature=0.5,
                steps=100_000,
                env=env,
            )
            | other
        )
    )
    return folder


def test_evaluating_a_run(run):
    result = evaluate_run(run, episodes=3, seed=5, device="cpu")
    config, agent = load_run(run, "cpu")
    played = evaluate_policy(agent, lambda: make_env(config.env, train=False), 3, 5, 0.5)
    assert result["returns"] == [e.total for e in played] and result["lengths"] == [
        e.length for e in played
    ]
    assert read_evaluation(run) == result | {
        name: tuple(result[name]) for name in ("returns", "lengths")
    }
    assert (
        result["game"],
        result["epoch"],
        result["steps"],
        result["seed"],
        result["temperature"],
    ) == ("Catch", 1, 20, 5, 0.5)
    assert result["collection_temperature"] == config.training.temperature
    assert result["mean"] == pytest.approx(np.mean(result["returns"])) and departures(result) == [
        "episodes 3 instead of 100"
    ]


def test_no_evaluation_yet_and_a_damaged_one(tmp_path, run, capsys):
    folder = evaluated(tmp_path / "run", "Pong", [1.0])
    assert cli.main(["score", str(folder)]) == 0
    for text in (
        "",
        "{}",
        "[]",
        '{"game": "Pong"}',
        '{"game": "Pong", "returns": [], "temperature": 1}',
        '{"game": "Pong", "returns": ["x"], "temperature": 1}',
    ):
        (folder / "evaluation.json").write_text(text)
        with pytest.raises(UserError, match="is damaged"):
            read_evaluation(folder)
    (folder / "evaluation.json").unlink()
    with pytest.raises(UserError, match=f"iris-edu evaluate {folder}"):
        read_evaluation(folder)


def test_departures_from_the_protocol():
    asked = dict(
        game="Pong",
        returns=[1.0] * 100,
        temperature=0.5,
        steps=100_000,
        env=dict(frame_skip=4, eval_noop_max=1, eval_max_frames=108_000),
    )
    assert departures(asked) == [] and departures(asked | {"game": "Catch", "steps": 5}) == []
    assert departures(asked | {"collection_temperature": 0.01}) == [
        "collection temperature 0.01 instead of 1.0"
    ]
    assert (
        departures(asked | {"collection_temperature": 1.0})
        == departures(asked | {"game": "Freeway", "collection_temperature": 0.01})
        == departures(asked | {"game": "Freeway"})
        == []
    )
    assert departures(asked | {"game": "Freeway", "collection_temperature": 1.0}) == [
        "collection temperature 1.0 instead of 0.01"
    ]
    odd = asked | dict(
        returns=[1.0], temperature=1.0, steps=50, env=asked["env"] | {"eval_max_frames": 2000}
    )
    assert departures(asked | {"game": "ALE/Pong-v5"}) == ["sticky actions 0.25 instead of 0.0"]
    options = ["full_action_space=true", "mode=1", "repeat_action_probability=0.5"]
    assert departures(asked | {"env": asked["env"] | {"options": options}}) == [
        "sticky actions 0.5 instead of 0.0",
        "full action set True instead of False",
        "mode 1 instead of 0",
    ]
    assert departures(odd) == [
        "episodes 1 instead of 100",
        "temperature 1.0 instead of 0.5",
        "environment steps 50 instead of 100000",
        "eval_max_frames 2000 instead of 108000",
    ]


def test_evaluate_command(run, capsys):
    assert cli.main(f"evaluate {run} --episodes 2 --device cpu".split()) == 0
    assert "over 2 episodes" in capsys.readouterr().out


def test_figures():
    methods = {"A": {"Pong": np.array([0.1, 0.4, 0.5])}, "B": {"Pong": np.array([0.2, 0.3, 0.6])}}
    assert [ax.get_title() for ax in plot_aggregates(methods, resamples=20).axes] == [
        "Median",
        "IQM",
        "Mean",
    ]
    assert [
        ax.get_title() for ax in plot_aggregates(methods, ["optimality_gap"], resamples=20).axes
    ] == ["Optimality gap"]
    assert len(plot_profiles(methods, resamples=20).axes[0].lines) == 2
    assert [
        text.get_text()
        for text in plot_improvement("A", methods, resamples=20).axes[0].get_yticklabels()
    ] == ["B"]

"""Score files of three kinds, our runs and theirs in one table, and the figures drawn from it."""

import json

import numpy as np
import pytest
from PIL import Image

from iris_edu.apps import cli
from iris_edu.envs import ATARI_100K
from iris_edu.evaluation import normalise, paper_table
from iris_edu.run import RunFile, write_run
from iris_edu.scores import (
    comparable,
    figures,
    load_scores,
    read_methods,
    score_report,
    write_figures,
)
from iris_edu.training import PRESETS

FIGURES = ["figure-5.png", "figure-6-improvement.png", "figure-6-profiles.png", "figure-8.png"]


def written(folder, name, content):
    "A score file."
    (folder / f"{name}.json").write_text(json.dumps(content))
    return folder / f"{name}.json"


def whole(column, *factors):
    "A file of all 26 games: the paper's score of a method times each factor, one seed a factor."
    return {
        game: [factor * mean for factor in factors]
        for game, mean in paper_table(1).scores[column].items()
    }


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


# --- files


def test_files_of_seeds_and_of_curves(tmp_path):
    curves = [
        dict(task=f"atari_{game}", method=method, seed=seed, xs=[1, 2], ys=[0, seed])
        for method in "AB"
        for game in ("ms_pacman", "up_n_down")
        for seed in (1, 2, 3)
    ]
    plain, curved = (
        load_scores(written(tmp_path, *file))
        for file in (("Ours", {"Pong": [1, 2.5], "Breakout": 3, "Alien": []}), ("curves", curves))
    )
    assert {game: x.tolist() for game, x in plain["Ours"].items()} == {
        "Pong": [1, 2.5],
        "Breakout": [3],
    }
    assert (
        curved.keys() == {"A", "B"}
        and curved["B"]["UpNDown"].tolist() == [1, 2, 3]
        and curved["A"].keys() == {"MsPacman", "UpNDown"}
    )


def test_a_file_of_normalised_records(tmp_path):
    """HNS is turned back by Table 1, Max HNS is not read.

    The records of a game may come in any order.
    """
    shares = {"Alien": [0.05, -0.1], "Boxing": [1.0, 2.5]}
    records = [
        {"game": game, "seed": float(seed), "HNS": shares[game][seed], "Max HNS": 9.0}
        for seed in (0, 1)
        for game in shares
    ]
    found = load_scores(written(tmp_path, "Records", records))["Records"]
    np.testing.assert_allclose(found["Boxing"], [12.1, 0.1 + 2.5 * 12.0])
    for game, runs in normalise(found).items():
        np.testing.assert_allclose(runs, shares[game])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{}",
        "[]",
        "3",
        "null",
        '"Pong"',
        '{"Pong": "many"}',
        '{"Pong": {"seed": 1}}',
        '{"Pong": [[1, 2], [3, 4]]}',
        '{"Pong": [NaN]}',
        "[1, 2]",
        '[{"task": "pong"}]',
        '[{"task": "pong", "method": "A", "seed": 0, "xs": [], "ys": []}]',
        '{"Pong": [1, [2, 3]]}',
        '{"Pong": null}',
        "[{}]",
        '[{"HNS": 1}]',
        '[{"game": "Pong", "HNS": "x"}]',
        '[{"game": "Pong", "HNS": 1}, {"game": "Pong"}]',
        '[{"game": "Chess", "HNS": 1}]',
        '[{"game": 5, "HNS": 1}]',
    ],
)
def test_bad_score_files(text, tmp_path, capsys):
    (tmp_path / "bad.json").write_text(text)
    assert cli.main(["score", str(tmp_path / "bad.json")]) == 2
    error = capsys.readouterr().err
    assert (
        "bad.json holds no scores (" in error
        and "it must be JSON" in error
        and error.count("\n") == 1
    )


# --- one method


def test_report_of_seeds_and_games(tmp_path):
    "Two seeds of Pong, one of Breakout and of Catch: what each number is and what it stands on."
    folders = [
        evaluated(tmp_path / "a", "Pong", [14.6] * 100),
        evaluated(tmp_path / "b", "Pong", [-20.7] * 100, seed=1),
        evaluated(tmp_path / "c", "Breakout", [30.0, 31.0] * 50),
        evaluated(tmp_path / "d", "Catch", [4.0, 4.0]),
        evaluated(tmp_path / "e", "Else-v0", [1.0]),
    ]
    text = score_report(folders)
    pong, breakout, catch = (
        next(line for line in text.splitlines() if line.startswith(game))
        for game in ("Pong", "Breakout", "Catch")
    )
    assert (
        "-3.05 ± 25.0" in pong
        and "0.500" in pong
        and "2 seeds × 100 episodes, ± over seeds" in pong
    )
    assert (
        "30.5 ± 0.50" in breakout
        and "1.000" in breakout
        and "1 seed × 100 episodes, ± over episodes" in breakout
    )
    assert "1.000" in catch and "1 seed × 2 episodes" in catch
    assert (
        "Catch is not in the paper's Table 1" in text
        and "Else-v0 is not in the paper's Table 1" in text
        and "Catch: episodes 2 instead of 100" in text
    )
    # mean of 0.5 and 1
    assert (
        "2 of 26 games" in text
        and "no interval for these runs" in text
        and "(Breakout)" in text
        and "0.750" in text
    )
    assert score_report([folders[0] / "evaluation.json"]) == score_report([folders[0], folders[0]])
    assert "2 of 26 games" not in score_report(folders[:2]) and "same seed" not in text
    assert "Pong: runs of the same seed are counted as different seeds" in score_report(
        [folders[0], evaluated(tmp_path / "f", "Pong", [1.0])]
    )


def test_freeway_says_at_which_temperature_it_was_collected(tmp_path):
    hot, cold = (
        evaluated(tmp_path / f"{t}", "Freeway", [30.0] * 100, collection_temperature=t)
        for t in (1.0, 0.01)
    )
    assert "Freeway: collection temperature 1.0 instead of 0.01" in score_report(
        [hot]
    ) and "collection temperature" not in score_report([cold])


def test_intervals_need_two_seeds_in_every_game(tmp_path):
    runs = [
        evaluated(tmp_path / f"{game}{seed}", game, [float(seed)] * 100, seed)
        for game in ("Pong", "Boxing")
        for seed in (1, 2, 3)
    ]
    assert "95 % interval" in score_report(runs) and "no interval" in score_report(runs[:4])


def test_a_whole_file_reproduces_the_printed_aggregates(tmp_path):
    text = score_report([written(tmp_path, "SPR", whole("SPR", 0.9, 1.0, 1.1))])
    line = next(line.split() for line in text.splitlines() if line.startswith("SPR"))
    # median, mean, superhuman
    assert "26 of 26 games" in text and [line[1], line[3], line[5]] == ["0.396", "0.616", "6"]
    assert (
        all(any(row.startswith(game) for row in text.splitlines()) for game in ATARI_100K)
        and "3 seeds" in text
        and "no interval" not in text
    )


# --- several methods


def test_several_methods_share_one_table(tmp_path):
    "Runs come first; averages are over the games that all have, and what is missing is said."
    runs = [
        evaluated(tmp_path / f"{game}{seed}", game, [score] * 100, seed)
        for game, score in (("Pong", 14.6), ("Boxing", 12.1), ("Alien", 500.0))
        for seed in (0, 1)
    ]
    half = written(tmp_path, "Half", {"Pong": [-20.7, 0.0], "Boxing": [0.1, 0.1]})
    methods, notes = read_methods([half, *runs])
    assert list(methods) == ["these runs", "Half"] and notes == []
    assert {name: list(games) for name, games in comparable(methods).items()} == {
        "these runs": ["Boxing", "Pong"],
        "Half": ["Boxing", "Pong"],
    }
    text = score_report([half, *runs])
    lines = {line.split("  ")[0]: line.split() for line in text.splitlines()}
    assert lines["Alien"][-2:] == ["500.0", "-"] and lines["Boxing"][-2:] == ["12.1", "0.10"]
    assert "2 of 26 games" in text and "not all methods have them: Alien" in text
    chances = text.split("these runs better than")[1].splitlines()
    assert (
        chances[1].split() == ["Half", "1.000", "1.000", "to", "1.000"]
        and "these runs: 2 seeds × 100 episodes" in text
    )


def test_a_method_of_one_game_or_one_seed_spoils_nothing(tmp_path):
    files = [
        written(tmp_path, *file)
        for file in (
            ("A", whole("IRIS", 0.9, 1.1)),
            ("One", {"Pong": [1, 2]}),
            ("Means", whole("MuZero", 1)),
            ("Strange", {"Chess": [1, 2], "Go": [3]}),
        )
    ]
    text = score_report(files)
    assert (
        "26 of 26 games" in text
        and "One is in no average" in text
        and "Strange is in no average" in text
        and "Chess is not in the paper's Table 1" in text
    )
    chances = text.split("A better than")[1].splitlines()
    assert (
        chances[1].split()[0] == "Means"
        and chances[1].split()[-1] == "-"
        and "no interval for Means" in text
    )
    apart = score_report(
        [
            written(tmp_path, "B", {"Pong": [1], "Alien": [2]}),
            written(tmp_path, "C", {"Qbert": [1], "Krull": [2]}),
        ]
    )
    assert "no averages" in apart and "better than" not in apart


def test_two_files_of_one_name_are_two_methods(tmp_path):
    (tmp_path / "x").mkdir(), (tmp_path / "y").mkdir()
    methods, _ = read_methods(
        [written(tmp_path / folder, "Same", {"Pong": [1, 2]}) for folder in "xy"]
    )
    assert list(methods) == ["Same", f"Same ({tmp_path / 'y'})"]


# --- figures


def test_figures_of_two_methods_and_of_one(tmp_path):
    two = {"A": whole("IRIS", 0.9, 1.1), "B": whole("SPR", 0.9, 1.1)}
    one = {"A": two["A"]}
    of_two, of_one = (
        read_methods([written(tmp_path, *file) for file in some.items()])[0] for some in (two, one)
    )
    paths = write_figures(of_two, tmp_path / "new" / "drawn")
    assert (
        sorted(path.name for path in paths)
        == FIGURES
        == sorted(path.name for path in (tmp_path / "new" / "drawn").iterdir())
    )
    assert all(Image.open(path).size > (300, 100) for path in paths)
    assert [ax.get_title() for ax in figures(of_two)["figure-5"].axes] == ["Median", "IQM", "Mean"]
    assert [
        tick.get_text()
        for tick in figures(of_two)["figure-6-improvement"].axes[0].get_yticklabels()
    ] == ["B"]
    assert "figure-6-improvement" not in figures(of_one)


def test_figures_command(tmp_path, capsys):
    ours, one, folder = (
        written(tmp_path, "A", whole("IRIS", 0.9, 1.1)),
        written(tmp_path, "One", {"Pong": [1, 2]}),
        tmp_path / "drawn",
    )
    assert cli.main(["score", str(ours), "--figures", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert (
        shown.count("\ndrawn: ") == 3
        and "figure 6, right, was not drawn" in shown
        and "share of runs above" in shown
    )
    (folder / "figure-5.png").unlink(), (folder / "figure-5.png").mkdir()
    for words, where, sentence in (
        ([one], tmp_path / "other", "at least two games of Table 1"),
        ([ours], one, "in the way"),
        ([ours], one / "below", "is a file and no folder"),
        ([ours], folder, "was not written"),
    ):
        assert cli.main(["score", *map(str, words), "--figures", str(where)]) == 2
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1, error
    assert not list(folder.glob(".*"))


def test_score_command(tmp_path, capsys):
    "A run and a file together; bad paths in one sentence."
    run, ours = (
        evaluated(tmp_path / "run", "Catch", [1.0, 2.0]),
        written(tmp_path, "Ours", {"Pong": [1, 2]}),
    )
    assert cli.main(["score", str(run), str(ours)]) == 0
    shown = capsys.readouterr().out
    assert "these runs" in shown and "Ours" in shown and "Catch: episodes 2 instead of 100" in shown
    for line, words in (
        (["score", str(tmp_path)], "not a run folder"),
        (["score", str(tmp_path / "no.json")], "cannot be read"),
        (["score"], "needs a run"),
    ):
        assert cli.main(line) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    assert cli.main([]) == 0 and "iris-edu score" in capsys.readouterr().out

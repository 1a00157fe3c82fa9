"""The benchmark measures what it says, and adds up the hours of a run."""

import json
from dataclasses import replace

import pytest

from iris_edu import bench
from iris_edu.apps import cli
from iris_edu.training import PRESETS


def test_bench_prints_a_table_and_a_line_of_json(capsys):
    options = (
        "bench --preset tiny --game Catch --device cpu --seconds 0.01 --training.tokenizer-batch 4 --training.world-model-batch 2 "
        "--training.actor-critic-batch 2 --actor-critic.horizon 3"
    )
    assert cli.main(options.split()) == 0
    *table, line = capsys.readouterr().out.strip().splitlines()
    found = json.loads(line)
    assert (
        found["batches"] == [4, 2, 2]
        and found["execution"] == "plain"
        and found["versions"]["torch"]
    )
    assert {
        "tokenizer update",
        "world_model update",
        "actor_critic update",
        "dream, one",
        "dream, batch",
        "environment step",
        "batches",
        "frame, kept",
    } == found["ms"].keys()
    assert all(value > 0 for ms in found["ms"].values() for value in ms.values())
    assert found["run_hours"]["chosen"] > 0 and any("whole run, h" in row for row in table)


@pytest.mark.parametrize(
    "batch, accumulate, shrink, expected",
    [(63, 3, 8, 6), (64, 1, 8, 8), (64, 4, 8, 8), (4, 4, 8, 4)],
)
def test_shrunk_batches_stay_divisible(batch, accumulate, shrink, expected):
    training = replace(
        PRESETS["atari100k"].training,
        tokenizer_batch=batch,
        world_model_batch=batch,
        actor_critic_batch=batch,
        accumulate=accumulate,
    )
    assert (
        bench.shrink_batches(
            replace(PRESETS["atari100k"], training=training), shrink, 8
        ).training.world_model_batch
        == expected
    )


def test_hours_of_a_run_follow_from_its_schedule():
    "One millisecond an update and nothing else: hours are the number of updates."
    config, only = (
        PRESETS["atari100k"],
        {
            "environment step": 0.0,
            "frame, kept": 0.0,
            "tokenizer update": 1.0,
            "world_model update": 1.0,
            "actor_critic update": 1.0,
        },
    )
    epoch, hours = bench.estimate_run(config, only)
    assert epoch == pytest.approx(3 * 200 / 1000)
    assert hours == pytest.approx((595 + 575 + 550) * 200 / 1000 / 3600)
    looks = only | {"frame, kept": 1.0}
    asked = 200 * 64 * (20 + 21)
    assert bench.estimate_run(config, looks)[0] - epoch == pytest.approx(
        100_000 * (1 - 2.718281828 ** (-asked / 100_000)) / 1000, rel=1e-6
    )
    assert bench.estimate_run(config, looks, keeps=False)[0] == epoch


def test_bench_names_a_bad_option(capsys):
    assert cli.main(["bench", "--seconds", "0"]) == 2 and "seconds is 0" in capsys.readouterr().err

"""A run that goes on: with other options, after a loss that blew up, without memory, without a recording, in little memory."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from micro import SIZES, configuration

from iris_edu import training
from iris_edu.apps import cli
from iris_edu.apps.report import write_report
from iris_edu.apps.watch import summary
from iris_edu.base.settings import UserError
from iris_edu.checkpoint import load_checkpoint, read_checkpoint, write_checkpoint
from iris_edu.collect import Collector, Lost, restore_collector
from iris_edu.config import make_environment
from iris_edu.envs import EnvConfig, make_env
from iris_edu.recordings import Recording, load_recording, record, save_recording
from iris_edu.replay import ReplayBuffer, ReplayConfig
from iris_edu.run import append_metrics, lock_run, read_metrics, read_run
from iris_edu.training import train
from iris_edu.views.dashboard import Dashboard

OPTIONS = "--training.epochs 5 --training.collect-epochs 5 --training.collect-steps 25 --training.updates 2 --training.evaluate-every 0".split()
MICRO, WORDS = configuration(*OPTIONS), ["train", *SIZES, *OPTIONS]


def changed(**options):
    "The configuration with other training options."
    return replace(MICRO, training=replace(MICRO.training, **options))


def command(folder, *words, capsys=None):
    "Exit code and errors of the training command with further words."
    code = cli.main([*WORDS, "--run-dir", str(folder), *words])
    return code, capsys.readouterr().err if capsys else ""


# --- other options


def test_what_may_change_is_noted_and_shown(tmp_path):
    run = tmp_path / "run"
    train(MICRO, run, max_epochs=2, callbacks=())
    slower = replace(
        changed(
            learning_rate=1e-4,
            accumulate=2,
            max_grad_norm=1.0,
            epochs=7,
            evaluate_every=7,
            evaluate_episodes=1,
        ),
        execution="compiled",
    )
    trainer = train(slower, run, max_epochs=3, callbacks=())
    assert trainer.optimizers["world_model"].param_groups[0]["lr"] == 1e-4 and trainer.epoch == 3
    noted = {
        change.option: (change.epoch, change.before, change.now) for change in read_run(run).changes
    }
    assert (
        noted["training.learning_rate"] == (2, 2e-3, 1e-4)
        and noted["execution"] == (2, "auto", "compiled")
        and noted["training.epochs"] == (2, 5, 7)
        and len(noted) == 7
    )
    assert (
        "after epoch 2: training.learning_rate 0.002 -> 0.0001" in summary(run)
        and "training.learning_rate 0.002 -> 0.0001" in Dashboard(run).voice.status
    )
    write_report([run], tmp_path / "page.html")
    assert (
        "after epoch 2: training.learning_rate 0.002 -&gt; 0.0001"
        in (tmp_path / "page.html").read_text()
    )
    train(slower, run, max_epochs=4, callbacks=())
    assert len(read_run(run).changes) == 7  # the same options again are no change
    assert load_checkpoint(run)[1].config == slower


def test_a_change_is_only_noted_once_it_is_accepted(tmp_path):
    run = tmp_path / "run"
    train(MICRO, run, max_epochs=1, callbacks=())
    before = (run / "config.json").read_bytes()
    with pytest.raises(UserError, match="started with seed = 0"):
        train(replace(changed(learning_rate=1.0), seed=1), run, callbacks=())
    assert (run / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    "first, then", [("fp32", "bf16"), ("bf16", "fp32"), ("fp16", "fp32"), ("fp32", "fp16")]
)
def test_the_precision_may_change(tmp_path, first, then):
    train(replace(MICRO, precision=first), tmp_path, max_epochs=1, callbacks=())
    assert train(replace(MICRO, precision=then), tmp_path, max_epochs=2, callbacks=()).epoch == 2


def test_a_finished_run_goes_on_with_more_epochs(tmp_path, capsys):
    run = tmp_path / "run"
    train(changed(epochs=2, collect_epochs=2), run, callbacks=())
    more = train(changed(epochs=4, collect_epochs=2), run, callbacks=())
    whole = train(changed(epochs=4, collect_epochs=2), tmp_path / "whole", callbacks=())
    assert more.epoch == 4 and all(
        torch.equal(a, b)
        for a, b in zip(more.agent.state_dict().values(), whole.agent.state_dict().values())
    )


# --- what the sentences advise works


def advised(sentence):
    "The options that a sentence names for the same command, of several ways each."
    return [
        shlex.split(way)
        for way in re.search("run the same command with (.*)", sentence)[1]
        .split(" (")[0]
        .split(" or ")
    ]


def test_after_a_loss_that_is_not_finite_the_advice_works(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    assert command(run, "--max-epochs", "1")[0] == 0
    code, error = command(run, "--training.learning-rate", "1e38", capsys=capsys)
    assert code == 2 and "the checkpoint of epoch" in error and error.count("\n") == 1
    [words] = advised(error)
    assert words[0] == "--training.learning-rate"
    sane = ["--training.learning-rate", "1e-4"]
    assert command(run, *sane)[0] == 0 and [record["epoch"] for record in read_metrics(run)] == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_nan_in_the_first_epoch_says_that_nothing_is_saved(tmp_path, capsys):
    code, error = command(tmp_path / "run", "--training.learning-rate", "1e38", capsys=capsys)
    assert code == 2 and "no epoch is saved yet" in error
    assert command(tmp_path / "run", "--max-epochs", "1")[0] == 0


def test_the_advice_names_the_rate_that_counts(tmp_path):
    own = replace(changed(tokenizer_learning_rate=1e38), precision="bf16")
    with pytest.raises(
        UserError,
        match=r"run the same command with --training.tokenizer-learning-rate 1e\+37 --precision fp32",
    ):
        train(own, tmp_path, callbacks=())


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    class Spoil:
        def __init__(self, run_dir, config):
            pass

        def on_epoch_end(self, trainer, epoch, record):
            if epoch == 2:
                next(trainer.agent.world_model.parameters()).data.fill_(float("nan"))

    with pytest.raises(
        UserError,
        match="agent.world_model.* not finite at the end of epoch 2: training stopped, the checkpoint of epoch 1 is kept",
    ):
        train(MICRO, tmp_path, callbacks=(Spoil,))
    assert train(MICRO, tmp_path, callbacks=()).epoch == 5


OOM = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    ),
]


@pytest.mark.parametrize("error", OOM, ids=lambda error: type(error).__name__)
def test_out_of_memory_names_ways_that_work(tmp_path, capsys, monkeypatch, error):
    run = tmp_path / "run"
    command(run, "--max-epochs", "1")
    losses = training.LOSSES["world_model"]

    def full(trainer, batch, rng):
        if trainer.config.training.accumulate < 2:
            raise error
        return losses(trainer, batch, rng)

    monkeypatch.setitem(training.LOSSES, "world_model", full)
    code, said = command(run, capsys=capsys)
    assert (
        code == 2
        and "out of memory in epoch 2: the checkpoint of epoch 1 is kept" in said
        and said.count("\n") == 1
    )
    ways = advised(said)
    assert ["--training.accumulate", "2"] in ways
    assert command(run, "--training.accumulate", "2", "--max-epochs", "2")[0] == 0


def test_a_replay_that_does_not_fit_says_how_much_it_takes(tmp_path, capsys):
    code, said = command(tmp_path / "run", "--replay.capacity", "10000000000", capsys=capsys)
    assert code == 2 and "replay.capacity smaller than 10000000000, which takes 7.68e+03 GB" in said


# --- a recording is lost


def test_a_damaged_recording_can_be_left_out_at_the_users_word(tmp_path, capsys):
    run = tmp_path / "run"
    command(run, "--max-epochs", "3")
    path = run / "replay" / "epoch_0002.npz"
    path.write_bytes(path.read_bytes()[:100])
    code, said = command(run, capsys=capsys)
    assert (
        code == 2
        and str(path) in said
        and "go on without its 25 steps: run the same command with --leave-out 2" in said
        and said.count("\n") == 1
    )
    assert command(run, "--leave-out", "2", "--max-epochs", "4")[0] == 0
    assert read_run(run).left_out == (
        2,
    ) and "the recording of epoch 2 was damaged and is left out" in summary(run)
    assert command(run)[0] == 0  # the word was heard once and is remembered
    assert [record["epoch"] for record in read_metrics(run)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("lost", [1, 2, 3])
@pytest.mark.parametrize("storage", ["frames", "actions"])
def test_without_one_recording_the_others_are_all_there(tmp_path, lost, storage):
    config = replace(MICRO, replay=replace(MICRO.replay, storage=storage))
    train(config, tmp_path, max_epochs=3, callbacks=())
    (tmp_path / "replay" / f"epoch_{lost:04d}.npz").unlink()
    with pytest.raises(UserError, match=f"--leave-out {lost}"):
        train(config, tmp_path, callbacks=())
    trainer = train(config, tmp_path, max_epochs=3, callbacks=(), leave_out=(lost,))
    held = trainer.replay.num_steps
    # without frames, what follows the gap is lost up to the next game
    assert held == 50 if storage == "frames" else 0 < held <= 50

    def seeds(epochs):
        return [
            seed
            for epoch in epochs
            for seed in load_recording(
                tmp_path / "replay" / f"epoch_{epoch:04d}.npz"
            ).seeds.tolist()
        ]

    train(config, tmp_path, max_epochs=4, callbacks=())
    known = seeds(epoch for epoch in (1, 2, 3) if epoch != lost)
    assert not set(seeds([4])) & set(known)
    assert train(config, tmp_path, callbacks=()).epoch == 5


def test_a_gap_ends_the_episode_before_it():
    env = make_environment(MICRO, train=True)
    one, two = (record(env, lambda frame: 1, 12, seed) for seed in (1, 2))
    collector = Collector(env, ReplayBuffer(ReplayConfig(capacity=100), MICRO.env.size), 0)
    restore_collector(collector, [one, Lost(12), two])
    assert (
        collector.replay.lengths.tolist() == [12, 12]
        and collector.games == 1 + 12 + 1
        and collector.frame is not None
    )
    restore_collector(collector, [one, Lost(12)])
    assert collector.frame is None


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda r: replace(r, actions=r.actions + 100), "is not the recording of this epoch"),
        (lambda r: replace(r, frames=None), "frames None"),
        (
            lambda r: Recording(
                r.seeds,
                r.starts,
                *(x[:-1] for x in (r.actions, r.rewards, r.terminated, r.truncated, r.frames)),
            ),
            "24 steps",
        ),
        (lambda r: replace(r, frames=r.frames[:, ::2, ::2]), "frames"),
        (lambda r: replace(r, frames=r.frames[:-1]), "25 actions and 24 frames"),
        (lambda r: replace(r, seeds=r.seeds - 2**62 - 2**62), "negative"),
        (lambda r: replace(r, starts=r.starts + 100), "begins outside"),
        (lambda r: replace(r, seeds=np.append(r.seeds, 1)), "seeds and"),
        (lambda r: replace(r, rewards=r.rewards * np.nan), "not finite"),
        (lambda r: replace(r, rewards=r.rewards[None]), "dimensions"),
        (lambda r: replace(r, terminated=r.terminated.astype(np.int8)), "holds int8"),
    ],
)
def test_recordings_that_mean_nothing_are_refused(tmp_path, change, words):
    "Each has a sum that is right."
    train(MICRO, tmp_path, max_epochs=1, callbacks=())
    path = tmp_path / "replay" / "epoch_0001.npz"
    save_recording(path, change(load_recording(path)))
    with pytest.raises(UserError, match=words) as error:
        train(MICRO, tmp_path, callbacks=())
    assert "\n" not in str(error.value) and "--leave-out 1" in str(error.value)


# --- memory

PEAK = "import resource, sys; from iris_edu.apps import cli; code = cli.main(sys.argv[1:]); print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, code)"


def peak(*words):
    "Largest memory of a command in a process of its own in MB, after it succeeded."
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *words],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    _, megabytes, code = done.stdout.splitlines()[-1].split()
    assert code == "0", done.stderr
    return int(megabytes)


def test_a_resume_holds_one_recording_at_a_time(tmp_path):
    "Six recordings of 25 MB each, and a replay that holds 12 MB."
    steps, epochs, run = 2_000, 6, tmp_path / "run"
    words = (
        f"train --preset tiny --game Catch --device cpu --training.epochs 40 --training.collect-epochs 40 --training.collect-steps {steps} --training.updates 1 --training.tokenizer-after 39 "
        f"--training.world-model-after 39 --training.actor-critic-after 39 --training.evaluate-every 0 --replay.capacity 1000 --run-dir {run}"
    ).split()
    play = record(make_env(EnvConfig("Catch")), lambda frame: int(frame.sum() % 3), steps, 5)
    cli.main([*words, "--max-epochs", "1"])
    few = peak(*words, "--max-epochs", "1")
    for epoch in range(2, epochs + 1):
        save_recording(
            run / "replay" / f"epoch_{epoch:04d}.npz", play
        ) if epoch == 2 else shutil.copy(
            run / "replay/epoch_0002.npz", run / f"replay/epoch_{epoch:04d}.npz"
        )
    tensors, header = read_checkpoint(run / "checkpoint.safetensors")
    write_checkpoint(run / "checkpoint.safetensors", tensors, replace(header, epoch=epochs))
    for epoch in range(2, epochs + 1):
        append_metrics(run, {"epoch": epoch, "steps": steps * epoch})
    many = peak(*words, "--max-epochs", str(epochs))
    assert many < few + 2.5 * 25, f"{few} MB with one recording, {many} MB with {epochs}"


# --- what lies in the folder


def test_what_a_killed_writer_left_is_swept_when_the_run_goes_on(tmp_path):
    train(MICRO, tmp_path, max_epochs=1, callbacks=())
    before = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    for name in (
        ".checkpoint.next.safetensors.0123abcd.tmp",
        "replay/.epoch_0002.npz.0123abcd.tmp",
        ".config.json.0123abcd.tmp",
        ".metrics.jsonl.0123abcd",
    ):
        (tmp_path / name).write_bytes(b"x")
    train(MICRO, tmp_path, max_epochs=1, callbacks=())
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == before


def test_a_lock_is_given_back_and_a_second_process_waits_for_nothing(tmp_path):
    held = lock_run(tmp_path)
    code = f"from iris_edu.run import lock_run; lock_run({str(tmp_path)!r})"
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "is in use by another iris-edu process" in second.stderr
    held.release()
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    "line, words",
    [
        (b"\xff\n", "UTF-8"),
        (b"5\n", "a table"),
        (b'{"steps": 3}\n', "no epoch"),
        (b'{"epoch": 1}\n', "no epoch and steps"),
        (b'{"epoch": 1, "steps": "x"}\n', "steps"),
        (b"[" * 100_000 + b"\n", "deep"),
        (b'{"epoch": 1, "steps": 2\n', "not JSON"),
    ],
)
def test_a_damaged_line_is_named_and_taking_it_out_helps(tmp_path, line, words):
    train(MICRO, tmp_path, max_epochs=1, callbacks=())
    good = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(good + line)
    with pytest.raises(UserError, match=f"line 2 of .*{words}.*take that line out") as error:
        train(MICRO, tmp_path, callbacks=())
    assert "\n" not in str(error.value)
    (tmp_path / "metrics.jsonl").write_bytes(good)
    assert train(MICRO, tmp_path, max_epochs=2, callbacks=()).epoch == 2


def test_losses_that_are_not_finite_can_be_read_and_drawn(tmp_path):
    train(MICRO, tmp_path, max_epochs=1, callbacks=())
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"epoch": 2, "steps": 50, "evaluate/return": float("nan")}) + "\n")
    assert "nan" in summary(tmp_path)

"""A run killed at any moment resumes with the same command and ends in the same weights, bit for bit."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
from micro import SIZES

from iris_edu.checkpoint import CHECKPOINT, load_checkpoint
from iris_edu.run import read_metrics

KILLS = 50
MICRO = [
    "train",
    *SIZES,
    *(
        "--training.epochs 6 --training.collect-epochs 5 --training.collect-steps 20 --training.updates 2 --training.evaluate-every 3 "
        "--training.evaluate-episodes 1"
    ).split(),
]

# The forkserver imports the package once, then each life of a run is a fork of it: starting one
# takes milliseconds.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["iris_edu.apps.commands", "iris_edu.apps.report"])


def run(folder, die_at=None, words=()):
    """One life of a run in `folder`, with further option `words`.

    `die_at` = (function name in iris_edu.run or os, which call) kills it inside a checkpoint
    write.
    """
    import torch

    from iris_edu.apps import cli

    torch.set_num_threads(1)
    if die_at:
        _kill_inside_write(*die_at)
    raise SystemExit(cli.main([*MICRO, "--run-dir", str(folder), *words]))


def _kill_inside_write(name, call):
    "Make the process kill itself in the middle of the `call`-th os.fsync or os.replace."
    original, count = getattr(os, name), [0]

    def wrapped(*args):
        count[0] += 1
        if count[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args)

    setattr(os, name, wrapped)


def live(folder, seconds=None, die_at=None, number=signal.SIGKILL):
    "Start a life of the run, send it a signal after `seconds` if given, and return its exit code."
    process = processes.Process(target=run, args=(folder, die_at))
    process.start()
    process.join(seconds)
    if process.is_alive():
        os.kill(process.pid, number)
    process.join()
    return process.exitcode


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    "An uninterrupted run: its folder, its final tensors, and how long one life takes."
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    live(folder.with_name("warm-up"), seconds=20)
    start = time.perf_counter()
    assert live(folder) == 0
    return folder, load_checkpoint(folder)[0], time.perf_counter() - start


def same_end(folder, undisturbed):
    """The run in `folder` ended like the undisturbed one.

    Equal weights and optimiser states, equal metrics but for seconds.
    """
    reference, tensors, _ = undisturbed
    final, header = load_checkpoint(folder)
    assert header.epoch == 6 and final.keys() == tensors.keys()
    assert all(final[name].equal(tensors[name]) for name in tensors)

    def clean(records):
        return [{k: v for k, v in r.items() if not k.endswith("seconds")} for r in records]

    assert clean(read_metrics(folder)) == clean(read_metrics(reference))


def contents(folder):
    "The names of everything in a folder, but the lock, which a system may leave or not."
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != ".lock"
    )


# 1: before the command has begun
ENDS = {
    signal.SIGKILL: {-signal.SIGKILL},
    signal.SIGTERM: {143, -signal.SIGTERM},
    signal.SIGINT: {130, -signal.SIGINT, 1},
}


@pytest.mark.parametrize(
    "number, least", [(signal.SIGKILL, KILLS), (signal.SIGTERM, 12), (signal.SIGINT, 12)]
)
def test_stopped_at_random_moments(undisturbed, tmp_path, number, least):
    """Runs are stopped and resumed until enough signals have hit.

    Every run that gets through ends like the undisturbed one, with nothing else in its folder.
    """
    moments, hits, ended = random.Random(0), 0, 0
    while hits < least:
        folder = tmp_path / f"run{ended}"
        for life in range(1000):
            # a run of many short lives would never get through: lives grow until an epoch fits in
            code = live(
                folder,
                seconds=moments.uniform(0, undisturbed[2]) * (0.3 + 0.1 * life),
                number=number,
            )
            if code == 0:
                break
            assert code in ENDS[number]
            hits += 1
        ended += 1
        same_end(folder, undisturbed)
        assert contents(folder) == contents(undisturbed[0])
    assert hits >= least


@pytest.mark.parametrize("name", ["fsync", "replace"])
@pytest.mark.parametrize("call", [2, 4, 5, 6, 8, 9])
def test_killed_inside_a_write(name, call, undisturbed, tmp_path):
    """The process dies exactly before the file reaches the disk, or before or between the renames
    of a checkpoint.
    """
    folder = tmp_path / "run"
    assert live(folder, die_at=(name, call)) == -signal.SIGKILL
    assert live(folder) == 0
    same_end(folder, undisturbed)
    assert contents(folder) == contents(undisturbed[0])


def judges(folder):
    "Process ids of the background evaluations of a run, from the command lines of all processes."
    lines = (
        (path.parent.name, path.read_bytes())
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.exists()
    )
    return [
        int(name)
        for name, line in lines
        if b"evaluate_checkpoint" in line and str(folder).encode() in line
    ]


def until(condition, seconds=60):
    "Wait for a condition to hold."
    end = time.perf_counter() + seconds
    while not condition():
        assert time.perf_counter() < end, "waited in vain"
        time.sleep(0.02)


BUSY = ("--training.evaluate-in-background",)
needs_proc = pytest.mark.skipif(
    not Path("/proc/self/cmdline").exists(), reason="needs /proc to list processes"
)


def kill_while_judged(folder, words):
    "One life of a run that is killed as soon as a second process evaluates it."
    process = processes.Process(target=run, args=(folder, None, words))
    process.start()
    until(lambda: judges(folder))
    os.kill(process.pid, signal.SIGKILL)
    process.join()


@needs_proc
def test_the_second_process_dies_with_the_first(tmp_path):
    "Even one that would play for hours."
    folder = tmp_path / "run"
    kill_while_judged(
        folder, (*BUSY, "--training.evaluate-every", "1", "--training.evaluate-episodes", "1000000")
    )
    try:
        until(lambda: not judges(folder))
    finally:
        [os.kill(judge, signal.SIGKILL) for judge in judges(folder)]


@needs_proc
def test_killed_while_a_second_process_evaluates(undisturbed, tmp_path):
    "The run ends like one that nobody killed, in a folder that holds what it always holds."
    folders = [tmp_path / "quiet", tmp_path / "killed"]
    kill_while_judged(folders[1], BUSY)
    for folder in folders:
        life = processes.Process(target=run, args=(folder, None, BUSY))
        life.start()
        life.join()
        assert life.exitcode == 0 and not judges(folder)
    same_end(folders[1], (folders[0], load_checkpoint(undisturbed[0])[0], None))

    def names(folder):
        return sorted(path.name for path in folder.iterdir())

    assert names(folders[0]) == names(folders[1]) == names(undisturbed[0])


def test_finished_run_says_so(undisturbed, capsys):
    from iris_edu.apps import cli

    folder, _, _ = undisturbed
    before = (folder / CHECKPOINT).read_bytes()
    assert cli.main([*MICRO, "--run-dir", str(folder)]) == 0
    assert "is finished" in capsys.readouterr().out
    assert (folder / CHECKPOINT).read_bytes() == before

"A run seen from outside: its folder as text, `iris-edu watch`, and the dashboard without a browser."

import asyncio
import dataclasses
import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from iris_edu.apps import watch
from iris_edu.apps.cli import main
from iris_edu.apps.watch import (
    SHOWN,
    clock,
    pictures,
    progress,
    sparkline,
    summary,
    time_left,
)
from iris_edu.base.settings import UserError
from iris_edu.resume import begin
from iris_edu.run import append_metrics, read_metrics
from iris_edu.training import PRESETS
from iris_edu.views.dashboard import Dashboard, charts

SMALL = PRESETS["small"]
ROOT = Path(__file__).resolve().parent.parent


def record(epoch):
    "What an epoch of `small` writes, with round numbers."
    values = {"epoch": epoch}
    if epoch <= 16:
        values |= {"collect/return": -3.0 + epoch / 10, "collect/seconds": 1.0}
    if epoch <= 6:
        values |= {
            "tokenizer/reconstruction": 0.07 / epoch,
            "tokenizer/commitment": 0.01,
            "tokenizer/seconds": 3.0,
        }
    if epoch > 5:
        values |= {"world_model/transition": 3.0 / epoch, "world_model/seconds": 12.0}
    if epoch > 10:
        values |= {"actor_critic/values": 1.0, "actor_critic/seconds": 35.0}
    if epoch % 2 == 0:
        values |= {
            "evaluate/return": epoch / 2,
            "evaluate/codebook_used": 0.25,
            "evaluate/seconds": 0.5,
        }
    return values | {"steps": 400 * min(epoch, 16)}


@pytest.fixture
def run(tmp_path):
    "A run folder and a function that lets it go on to an epoch."
    begin(SMALL, tmp_path)

    def until(last):
        for epoch in range(len(read_metrics(tmp_path)) + 1, last + 1):
            append_metrics(tmp_path, record(epoch))

    return tmp_path, until


def paint(folder, epoch, colour="red"):
    (folder / "pictures").mkdir(exist_ok=True)
    Image.new("RGB", (60, 20), colour).save(folder / f"pictures/epoch_{epoch:04d}.png")


def test_summary_of_a_run_that_has_just_begun(run):
    assert "epoch 0 of 20: no epoch is finished yet" in summary(
        run[0]
    ) and "no picture yet" in summary(run[0])


def test_summary_of_a_live_run(run):
    folder, until = run
    until(12)
    text = summary(folder)
    assert "epoch 12 of 20, 4,800 environment steps" in text and "evaluate/codebook_used" in text
    assert (
        "the last epoch took 48 s (collect 1.0, world_model 12.0, actor_critic 35.0, evaluate 0.5 s)"
        in text
    )
    assert "6 min left" in text and re.search(r"world_model/transition +0\.25  ▁?", text)


def test_summary_of_a_finished_run(run):
    folder, until = run
    until(20)
    paint(folder, 20)
    assert (
        ": finished" in summary(folder)
        and " left" not in summary(folder)
        and "epoch_0020.png" in summary(folder)
    )


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_half_a_line_disturbs_nobody(run, cut):
    folder, until = run
    until(8)
    before, path = table(folder), folder / "metrics.jsonl"
    line = path.read_text().splitlines()[-1]
    with open(path, "a") as file:
        file.write(line[:cut])
    assert table(folder) == before
    Dashboard(folder).refresh()
    with open(path, "a") as file:
        file.write(line[cut:] + "\n")
    assert len(read_metrics(folder)) == 9


def table(folder):
    "The summary without the line that says how old it is."
    return [line for line in summary(folder).splitlines() if not line.startswith("written")]


def test_time_left_counts_the_epochs_of_each_phase(run):
    folder, until = run
    until(12)
    assert time_left(SMALL, read_metrics(folder)) == (4 * 1.0 + 8 * 47.0 + 4 * 0.5, [])


def test_time_left_names_what_it_cannot_know(run):
    folder, until = run
    until(4)
    seconds, unknown = time_left(SMALL, read_metrics(folder))
    assert (seconds, unknown) == (12 * 1.0 + 2 * 3.0 + 8 * 0.5, ["world_model", "actor_critic"])
    assert (
        progress(SMALL, read_metrics(folder))[-1]
        == "more than 22 s left, world_model and actor_critic not counted"
    )


def test_time_left_without_evaluation(run):
    folder, until = run
    until(12)
    never = dataclasses.replace(
        SMALL, training=dataclasses.replace(SMALL.training, evaluate_every=0)
    )
    assert time_left(never, read_metrics(folder))[0] == 4 * 1.0 + 8 * 47.0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=60))
def test_a_sparkline_draws_anything(values):
    line = sparkline(values)
    assert len(line) == min(20, len(values)) and set(line) <= set("▁▂▃▄▅▆▇█·")


def test_words_for_durations():
    assert [clock(x) for x in (0.4, 89, 90, 3600, 100_000)] == [
        "0 s",
        "89 s",
        "2 min",
        "60 min",
        "27 h 47 min",
    ]


def test_charts_have_one_size_and_words(run):
    folder, until = run
    until(12)
    drawn = charts(read_metrics(folder))
    assert len(drawn) == 5 and len({picture.shape for _, picture, _ in drawn}) == 1
    assert {title: words for title, _, words in drawn}[
        "Codebook: share of codes used"
    ] == "evaluate codebook used 0.25, at first 0.25"
    assert charts([]) == []


def test_a_chart_bears_what_is_not_a_number():
    assert charts(
        [
            {"epoch": 1, "world_model/transition": math.nan},
            {"epoch": 2, "world_model/transition": math.inf},
        ]
    )


# The command


def test_watch_once(run, capsys):
    folder, until = run
    until(3)
    assert main(["watch", str(folder), "--once"]) == 0
    assert capsys.readouterr().out.startswith(f"{folder}: Catch, seed 0\nepoch 3 of 20")


def test_watch_leaves_when_the_run_is_finished(run, capsys):
    folder, until = run
    until(20)
    assert main(["watch", str(folder)]) == 0 and "finished" in capsys.readouterr().out


def test_watch_looks_again(run, capsys, monkeypatch):
    folder, until = run
    until(19)
    monkeypatch.setattr(watch.time, "sleep", lambda seconds: until(20))
    assert main(["watch", str(folder), "--seconds", "0.1"]) == 0
    assert capsys.readouterr().out.count("Catch, seed 0") == 2


@pytest.mark.parametrize(
    "words, sentence",
    [("nowhere", "not a run folder"), ("{folder} --seconds 0", "must be greater than 0")],
)
def test_watch_ends_with_a_sentence(run, capsys, words, sentence):
    assert main(["watch", *words.format(folder=run[0]).split()]) == 2
    assert sentence in capsys.readouterr().err


def test_ctrl_c_ends_with_130(run):
    code = f"import sys; from iris_edu.apps.cli import main; sys.exit(main(['watch', {str(run[0])!r}, '--seconds', '60']))"

    # tests that run in the background inherit that Ctrl-C is ignored
    def heed():
        return signal.signal(signal.SIGINT, signal.default_int_handler)

    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed,
    )
    assert "Catch" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "interrupted" in errors and "Traceback" not in errors


def test_watch_needs_no_notebook_packages(run):
    run[1](2)
    hide = "import sys; sys.modules.update(dict.fromkeys(['anywidget', 'ipywidgets', 'traitlets', 'IPython', 'matplotlib']));"
    code = (
        hide
        + f"from iris_edu.apps.cli import main; main(['watch', {str(run[0])!r}, '--once']); from iris_edu.views.dashboard import Dashboard; Dashboard({str(run[0])!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (
        "epoch 2 of 20" in done.stdout
        and "UserError: The dashboard needs the notebook packages" in done.stderr
    )


# The widget


def test_dashboard_shows_what_there_is(run):
    folder, until = run
    board = Dashboard(folder)
    assert (
        "no epoch is finished yet" in board.voice.status
        and "No picture yet" in board.pictures.gallery.status
        and board.snapshot()
    )
    until(12)
    for epoch in (2, 4):
        paint(folder, epoch)
    board.button.click()
    assert (
        "epoch 12 of 20" in board.voice.status
        and "return 6" in board.voice.status
        and "25% of the codes in use" in board.voice.status
    )
    assert (
        board.curves.shape[0] == len(board.curves.labels) == 5
        and board.pictures.epoch.options == (2, 4)
        and board.pictures.epoch.value == 4
    )


def test_dashboard_keeps_the_picture_that_was_chosen(run):
    folder, until = run
    until(6)
    for epoch in (2, 4):
        paint(folder, epoch)
    board = Dashboard(folder)
    board.pictures.epoch.value = 2
    assert "epoch 2" in board.pictures.gallery.title
    paint(folder, 6)
    board.refresh()
    assert board.pictures.epoch.value == 2 and board.pictures.epoch.options == (2, 4, 6)
    board.pictures.epoch.value = 6
    paint(folder, 8)
    board.refresh()
    assert board.pictures.epoch.value == 8


def test_nobody_follows_without_a_loop(run):
    board = Dashboard(run[0])
    board.following.value = True
    assert board.voice.wrong and "no event loop" in board.voice.status and not board.following.value


async def until_true(condition, seconds=10):
    "Wait until the condition holds."
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.02)


def test_dashboard_follows_until_the_end(run):
    folder, until = run

    async def go():
        board = Dashboard(folder, seconds=0.02)
        board.following.value = True
        until(2)
        await until_true(lambda: "epoch 2 of 20" in board.voice.status)
        read = board.folder.seen
        await asyncio.sleep(0.2)
        assert board.folder.seen is read, "it reads only when something was written"
        until(20)
        await until_true(lambda: not board.following.value)
        assert "finished" in board.voice.status and board.follower.task is None

    asyncio.run(go())


def test_following_stops_when_asked_closed_or_made_again(run):
    folder, until = run

    async def go():
        for end in (
            lambda board: setattr(board.following, "value", False),
            lambda board: board.close(),
            lambda board: Dashboard(folder),
        ):
            board = Dashboard(folder, seconds=0.02)
            board.following.value = True
            task = board.follower.task
            assert not task.done()
            end(board)
            await until_true(task.done)
            assert not board.following.value

    asyncio.run(go())


def test_an_error_while_following_is_a_sentence(run):
    folder, until = run

    async def go():
        board = Dashboard(folder, seconds=0.02)
        board.following.value = True
        (folder / "pictures").mkdir()
        (folder / "pictures/epoch_0002.png").write_text("no picture")
        await until_true(lambda: not board.following.value)
        assert board.voice.wrong

    asyncio.run(go())


def test_a_missing_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        Dashboard(tmp_path)
    assert pictures(tmp_path) == {}


def test_the_losses_the_returns_and_the_codebook_are_shown():
    shown = {key for keys in SHOWN.values() for key in keys}
    assert {"world_model/transition", "evaluate/return", "evaluate/codebook_used"} <= shown


def test_snapshot_is_small(run):
    folder, until = run
    until(12)
    board = Dashboard(folder)
    assert len(board.curves.pixels) < 2_000_000 and board.snapshot().width < 1600

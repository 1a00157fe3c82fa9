"""The door before the commands: signals, pipes, encodings, empty words, failures of the system, other people's settings."""

import errno
import io
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from iris_edu.apps import cli, commands
from iris_edu.config import PRESETS
from iris_edu.run import RunFile, append_metrics, write_run

EXE = Path(sys.executable).with_name("iris-edu")
QUICK = (
    "train --preset tiny --game Catch --device cpu --training.collect-steps 5 --training.tokenizer-after 999 --training.world-model-after 999 --training.actor-critic-after 999 "
    "--training.evaluate-every 0"
).split()


def start(*words, **options):
    "The command as a user starts it, with pipes."
    return subprocess.Popen(
        [EXE, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        **options,
    )


def run(*words, **options):
    "(exit code, output, errors) of the command."
    with start(*words, **options) as process:
        out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def long(folder):
    "A training of many short epochs."
    return [
        *QUICK,
        "--training.epochs",
        "9999",
        "--training.collect-epochs",
        "9999",
        "--run-dir",
        folder,
    ]


@pytest.fixture
def folder(tmp_path):
    "A run folder with two epochs of numbers and no checkpoint."
    write_run(tmp_path / "run", RunFile(PRESETS["tiny"], actions=6))
    for epoch in (1, 2):
        append_metrics(
            tmp_path / "run",
            {
                "epoch": epoch,
                "steps": 20 * epoch,
                "tokenizer/reconstruction": 0.5 / epoch,
                "tokenizer/seconds": 1.0,
            },
        )
    return tmp_path / "run"


# --- signals


@pytest.mark.parametrize("seconds", [0.15, 0.4, 0.8, 1.5])
def test_ctrl_c_while_everything_is_loaded_is_one_sentence(tmp_path, seconds):
    with start(*long(tmp_path / "run")) as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.count("\n") == 1 and err.startswith("iris-edu: "), err


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_training_says_what_is_saved(tmp_path, number, code):
    with start(*long(tmp_path / "run")) as process:
        for line in process.stdout:
            if "epoch   3" in line:
                break
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert (
        process.returncode == code
        and err.count("\n") == 1
        and "the checkpoint of epoch" in err
        and "the same command goes on" in err
    )
    epoch = int(err.split("checkpoint of epoch ")[1].split()[0])
    assert (
        f"epoch {epoch} of 9999" in run("watch", tmp_path / "run", "--once")[1]
        or f"epoch {epoch + 1} of" in run("watch", tmp_path / "run", "--once")[1]
    )


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_that_c_code_swallows_is_no_damage(number, code, monkeypatch, capsys):
    """PyTorch, asking an object for its length, drops what a signal raises there and fails with a
    sentence of its own.
    """

    def watch(words):
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            raise commands.UserError("the checkpoint is damaged") from None

    monkeypatch.setattr(commands, "watch", watch)
    assert cli.main(["watch", "somewhere"]) == code
    assert "damaged" not in capsys.readouterr().err


def test_an_interrupt_before_the_first_checkpoint_does_not_claim_one(tmp_path, monkeypatch):
    from iris_edu import training

    def stop(trainer):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "collect_epoch", stop)
    with pytest.raises(KeyboardInterrupt, match="no epoch is saved yet"):
        training.train(PRESETS["tiny"], tmp_path, callbacks=())


def test_play_ended_by_a_signal_leaves_nothing_on_its_port(tmp_path):
    pytest.importorskip("voila")
    # of a downloaded folder
    for name in ("voila", "jupyter_config", "ipywidgets"):
        (tmp_path / f"{name}.py").write_text("open('mark', 'w')\n")
    for number in (signal.SIGTERM, signal.SIGKILL):
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]

        def answers():
            return not socket.socket().connect_ex(("127.0.0.1", port))

        with start("play", "catch-small", "--port", port, "--no-browser", cwd=tmp_path) as process:
            end = time.monotonic() + 90
            while not answers() and time.monotonic() < end:
                time.sleep(0.2)
            assert answers()
            process.send_signal(number)
            process.stdout.close(), process.stderr.close()
            process.wait(30)
        end = time.monotonic() + 15
        while answers() and time.monotonic() < end:
            time.sleep(0.2)
        assert not answers(), number.name
    assert not (tmp_path / "mark").exists()


# --- output


def test_each_line_arrives_while_the_run_goes_on(tmp_path):
    with (
        open(tmp_path / "log", "w") as log,
        subprocess.Popen(
            [EXE, *map(str, long(tmp_path / "run"))], stdout=log, stderr=log
        ) as process,
    ):
        end = time.monotonic() + 60
        while (tmp_path / "log").read_text().count("epoch ") < 3 and time.monotonic() < end:
            time.sleep(0.1)
        assert process.poll() is None and (tmp_path / "log").read_text().count("epoch ") >= 3
        process.kill()


def test_a_pipe_that_closes_ends_no_training(tmp_path):
    words = [
        *QUICK,
        "--training.epochs",
        "4",
        "--training.collect-epochs",
        "4",
        "--run-dir",
        tmp_path / "run",
    ]
    with start(*words) as process:
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 0 and not err
    assert "is finished" in run(*words)[1]


def test_a_pipe_that_closes_ends_a_look_without_a_word(folder):
    with start("watch", folder, "--seconds", "0.1") as process:
        process.stdout.readline()
        process.stdout.close()
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        err = process.stderr.read()
    assert "Traceback" not in err and "Error" not in err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
@pytest.mark.parametrize(
    "words",
    [
        ["watch", "RUN", "--once"],
        ["train", "--preset", "tiny", "--help"],
        ["--help"],
        ["watch", "nobody-ä-ж", "--once"],
        ["info"],
    ],
)
def test_no_terminal_is_too_poor(folder, encoding, words):
    code, out, err = run(
        *[folder if word == "RUN" else word for word in words],
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )
    assert code == (2 if "nobody-ä-ж" in words else 0) and "Traceback" not in err and (out or err)


def test_bars_are_plain_where_the_encoding_has_none(folder):
    assert (
        "_"
        in run("watch", folder, "--once", env=os.environ | {"PYTHONIOENCODING": "ascii"})[1]
        .split("tokenizer/reconstruction")[1]
        .splitlines()[0]
    )
    assert "▁" in run("watch", folder, "--once", env=os.environ | {"PYTHONIOENCODING": "utf-8"})[1]


# --- words


@pytest.mark.parametrize(
    "line",
    [
        "train --game=",
        "train --preset tiny --run-dir=",
        "evaluate RUN --device=",
        "train --training.learning-rate=",
        "watch RUN --seconds=",
        "score ''",
        "report RUN --out=",
        "play --port=",
        "bench --game=",
    ],
)
def test_empty_words_are_refused_by_name(line, capsys):
    words = [word if word != "''" else "" for word in line.split()]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert "is empty: give it a value" in error and error.count("\n") == 1
    if words[-1].endswith("="):
        assert (
            cli.main([*words[:-1], words[-1][:-1], ""]) == 2
            and f"{words[-1][:-1]} is empty" in capsys.readouterr().err
        )


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "line",
    [
        "train --preset tiny --training.learning-rate X",
        "train --preset tiny --training.epsilon X",
        "train --preset tiny --imagination.temperature X",
        "evaluate nobody --temperature X",
        "watch nobody --seconds X",
        "bench --seconds X",
        "train --preset tiny --actor-critic.entropy X",
        "train --preset tiny --replay.capacity X",
    ],
)
def test_no_option_takes_a_number_that_is_none(line, number, capsys):
    try:
        code = cli.main([*line.replace(" X", f"={number}").split()])
    except SystemExit as stop:
        code = stop.code  # a whole number is asked for, and tyro says so
    assert code == 2 and "Traceback" not in capsys.readouterr().err


# --- the system


@pytest.mark.parametrize(
    "code, words",
    [
        (errno.ENOSPC, "disk"),
        (errno.EACCES, "permission"),
        (errno.EROFS, "read-only"),
        (errno.ENAMETOOLONG, "too long"),
        (errno.EDQUOT, "quota"),
        (errno.EMFILE, "open files|too many files"),
        (errno.EIO, "disk reports"),
    ],
)
@pytest.mark.parametrize(
    "command", ["train", "evaluate", "report", "watch", "score", "make", "info", "bench", "play"]
)
def test_no_failure_of_the_system_escapes(command, code, words, monkeypatch, capsys):
    import re

    from iris_edu.apps import commands

    def fail(arguments):
        raise OSError(code, os.strerror(code), "some/file")

    monkeypatch.setattr(commands, command, fail)
    assert cli.main([command]) == 2
    error = capsys.readouterr().err
    assert "some/file" in error and re.search(words, error) and error.count("\n") == 1


def test_memory_that_is_used_up_is_a_sentence(monkeypatch, capsys):
    from iris_edu.apps import commands

    def fail(arguments):
        raise MemoryError

    monkeypatch.setattr(commands, "report", fail)
    assert cli.main(["report"]) == 2 and "out of memory" in capsys.readouterr().err


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    from iris_edu.apps import commands

    def fail(arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(commands, "info", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["info"])


@pytest.mark.parametrize(
    "line",
    [
        "train --preset tiny --game Catch --run-dir LONG",
        "train --preset tiny --game Catch --run-dir FILE",
        "train --preset tiny --game Catch --run-dir FILE/below",
        "evaluate FOLDER",
        "report FOLDER",
        "watch FOLDER",
        "score FOLDER",
        "watch LONG",
        "evaluate LONG",
        "score LONG.json",
        "score FOLDER.json",
    ],
)
def test_paths_that_cannot_be(line, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.json").mkdir()
    places = {
        "LONG": tmp_path / ("x" * 300),
        "FILE": tmp_path / "file",
        "FOLDER": tmp_path / "folder",
    }
    for name, path in places.items():
        line = line.replace(name, str(path))
    assert cli.main(line.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("iris-edu: ") and error.count("\n") == 1


# --- settings of others


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00binary", b"[DEFAULT]\nlib = other\n", b"", b"[other\n", b"\x00" * 100]
)
def test_a_foreign_settings_file_above_stops_nothing(tmp_path, monkeypatch, capsys, content):
    (tmp_path / "settings.ini").write_bytes(content)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert (
        cli.main(
            [*QUICK, "--training.epochs", "1", "--training.collect-epochs", "1", "--run-dir", "run"]
        )
        == 0
    )
    assert cli.main(["info"]) == 0 and cli.main(["watch", "run", "--once"]) == 0


@pytest.mark.parametrize(
    "content",
    [
        b"[iris_edu]\npreset\n",
        b"[iris_edu]\ncolour = red\n",
        b"[iris_edu]\nruns = \xff\n",
        b"[iris_edu]\nruns = a\x00b\n",
        b"[iris_edu]\nrepository = x\n",
    ],
)
def test_a_damaged_one_of_ours_stops_only_what_needs_it(tmp_path, monkeypatch, capsys, content):
    (tmp_path / "settings.ini").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    assert (
        cli.main(
            [*QUICK, "--training.epochs", "1", "--training.collect-epochs", "1", "--run-dir", "run"]
        )
        == 0
    )
    assert cli.main(["info"]) == 0 and "settings" in capsys.readouterr().out
    assert cli.main(["make"]) == 2
    error = capsys.readouterr().err
    assert "settings.ini" in error and error.count("\n") == 1


def test_a_settings_file_that_names_no_preset_of_ours(tmp_path, monkeypatch, capsys):
    (tmp_path / "settings.ini").write_text("[iris_edu]\npreset = os:system\n")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train"]) == 2 and "preset 'os:system' is unknown" in capsys.readouterr().err


def test_main_can_be_called_where_output_is_no_file(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert cli.main(["--help"]) == 0 and "iris-edu COMMAND" in sys.stdout.getvalue()


# --- Freeway


def test_freeway_at_another_temperature_is_told_once(tmp_path, capsys):
    """At the start, not when the run goes on.

    And not with the paper's temperature, nor for another game.
    """

    def said(name, *words):
        assert (
            cli.main(
                [
                    *QUICK,
                    "--training.collect-epochs",
                    "9",
                    "--run-dir",
                    str(tmp_path / name),
                    *words,
                ]
            )
            == 0
        )
        return capsys.readouterr().out.count("--preset freeway")

    assert [said("hot", "--game", "Freeway", "--max-epochs", epochs) for epochs in ("1", "2")] == [
        1,
        0,
    ]
    assert (
        said(
            "cold",
            "--game",
            "ALE/Freeway-v5",
            "--training.temperature",
            "0.01",
            "--max-epochs",
            "1",
        )
        == said("catch", "--max-epochs", "1")
        == 0
    )
    assert said("long-name", "--game", "ALE/Freeway-v5", "--max-epochs", "1") == 1

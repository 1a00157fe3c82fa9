"""Own recordings: every kind of source becomes the same recordings, what does not fit is refused in one sentence and leaves nothing, and a run learns from them without a game."""

import csv
import io
import json
import shutil

import gymnasium
import h5py
import imageio_ffmpeg
import numpy as np
import pyarrow.dataset
import pytest
import torch
from micro import configuration
from PIL import Image

from iris_edu.apps import cli
from iris_edu.base.settings import UserError
from iris_edu.config import make_environment
from iris_edu.evaluation import evaluate_run
from iris_edu.recordings import concatenate
from iris_edu.replay import ReplayBuffer, ReplayConfig
from iris_edu.run import read_metrics, read_run
from iris_edu.sharing.own_data import (
    DATASET,
    Recorded,
    cut,
    first_held_out,
    held_out_part,
    import_recordings,
    load_recordings,
)
from iris_edu.sharing.sources import frames_before, read_steps
from iris_edu.training import train
from iris_edu.views.gallery import action_names
from iris_edu.views.game import Game, opened

SCHEDULE = "--training.epochs 3 --training.collect-epochs 3 --training.collect-steps 8 --training.updates 1 --training.evaluate-every 2".split()


def game(steps=60, size=24, length=20):
    """A recording in the layout of the page.

    Frames that tell their number, three actions, games of `length` steps.
    """
    rng, step = np.random.default_rng(0), np.arange(steps)
    frames = np.broadcast_to(
        (4 * step % 256).astype(np.uint8)[:, None, None, None], (steps, size, size, 3)
    ).copy()
    return dict(
        observations=frames,
        actions=rng.integers(3, size=steps),
        rewards=rng.integers(2, size=steps).astype(np.float32),
        terminations=step % length == length - 1,
        truncations=np.zeros(steps, bool),
    )


def imported(source, tmp_path, **options):
    "All recordings that an import makes, as one, and what dataset.json says."
    dataset = import_recordings(source, tmp_path / "made", **options)
    return concatenate(list(load_recordings(tmp_path / "made"))), dataset


def npz(path, **arrays):
    "Writes a .npz file."
    np.savez(path, **arrays)
    return path


def table(path, arrays, columns=("action", "reward", "terminated", "truncated")):
    "Writes the steps of a recording as CSV."
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows(
            zip(
                *(
                    arrays[name].tolist()
                    for name in ("actions", "rewards", "terminations", "truncations")
                )
            )
        )
    return path


def pictures(folder, arrays):
    "Writes a recording as PNG files, whose numbers are not padded, and a CSV file."
    folder.mkdir()
    for number, frame in enumerate(arrays["observations"]):
        Image.fromarray(frame).save(folder / f"frame-{number}.png")
    table(folder / "steps.csv", arrays)
    return folder


def film(path, frames):
    "Writes a video without loss."
    writer = imageio_ffmpeg.write_frames(
        str(path), frames.shape[1:3], codec="ffv1", pix_fmt_out="bgr0", macro_block_size=1, fps=7
    )
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()


def minari(folder, arrays, encode=False, start=0):
    """Writes a recording as a Minari data set.

    A group for each episode, with one frame more than actions.
    """
    (folder / "data").mkdir(parents=True)
    ends = np.flatnonzero(arrays["terminations"]) + 1
    with h5py.File(folder / "data" / "main_data.hdf5", "w") as file:
        for number, (first, last) in enumerate(zip([0, *ends], ends)):
            group, frames = (
                file.create_group(f"episode_{number}"),
                arrays["observations"][[*range(first, last), 0]],
            )
            group["actions"] = arrays["actions"][first:last] + start
            for name in ("rewards", "terminations", "truncations"):
                group[name] = arrays[name][first:last]
            if not encode:
                group["observations"] = frames
            else:
                column = group.create_dataset(
                    "observations", len(frames), h5py.vlen_dtype(np.uint8)
                )
                for row, frame in enumerate(frames):
                    column[row] = np.frombuffer(as_jpeg(frame), np.uint8)
    space = json.dumps(dict(type="Discrete", n=5, start=start))
    (folder / "data" / "metadata.json").write_text(
        json.dumps(dict(action_space=space, data_format="hdf5"))
    )
    return folder


def as_tables(folder, arrays, form):
    """Writes a recording as a Minari data set in its format arrow or parquet.

    A table for each episode, of one row more than actions.
    """
    space = dict(type="Box", shape=arrays["observations"].shape[1:])
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "metadata.json").write_text(
        json.dumps(
            dict(
                data_format=form,
                observation_space=json.dumps(space),
                action_space=json.dumps(dict(type="Discrete", n=5)),
            )
        )
    )
    ends = np.flatnonzero(arrays["terminations"]) + 1
    for number, (first, last) in enumerate(zip([0, *ends], ends)):
        columns = {
            name: [*arrays[name][first:last].tolist(), 0]
            for name in ("actions", "rewards", "terminations", "truncations")
        }
        columns = {
            name: pyarrow.array(values if name in ("actions", "rewards") else [*map(bool, values)])
            for name, values in columns.items()
        }
        frames = arrays["observations"][[*range(first, last), 0]].reshape(last - first + 1, -1)
        columns["observations"] = pyarrow.FixedSizeListArray.from_arrays(
            pyarrow.array(frames.reshape(-1)), frames.shape[1]
        )
        pyarrow.dataset.write_dataset(
            pyarrow.table(columns), folder / "data" / str(number), format=form
        )
    return folder


def as_jpeg(frame):
    "A frame as the bytes of a JPEG file."
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="JPEG", quality=100)
    return buffer.getvalue()


def run(capsys, *words):
    "The exit code of a command, and what it said."
    status = cli.main([str(word) for word in words])
    said = capsys.readouterr()
    return status, said.out + said.err


# --- from a source to recordings


def check_game(found, arrays, size=24, tolerance=0):
    "Asserts that a recording is the game, with frames of `size` pixels."
    for name, theirs in (
        ("actions", "actions"),
        ("rewards", "rewards"),
        ("terminated", "terminations"),
        ("truncated", "truncations"),
    ):
        assert np.array_equal(getattr(found, name), arrays[theirs]), name
    assert found.starts.tolist() == [0, *(np.flatnonzero(arrays["terminations"])[:-1] + 1)]
    assert found.frames.shape == (len(found), size, size, 3) and found.frames.dtype == np.uint8
    assert (
        np.abs(found.frames[:, 0, 0].astype(int) - arrays["observations"][:, 0, 0]).max()
        <= tolerance
    )


@pytest.mark.parametrize(
    "form",
    [
        "rgb",
        "grey",
        "one channel",
        "channels first",
        "alpha",
        "floats",
        "bright floats",
        "our names",
    ],
)
def test_arrays_in_every_form_give_the_same_recording(tmp_path, form):
    arrays = game()
    frames = arrays["observations"]
    shown = {
        "grey": frames[..., 0],
        "one channel": frames[..., :1],
        "channels first": frames.transpose(0, 3, 1, 2),
        "floats": frames / np.float32(255),
        "bright floats": frames.astype(np.float64),
        "alpha": np.concatenate([frames, np.full_like(frames[..., :1], 9)], -1),
    }
    given = dict(arrays, observations=shown.get(form, frames))
    if form == "our names":
        given = dict(
            frames=frames,
            actions=arrays["actions"],
            rewards=arrays["rewards"],
            terminated=arrays["terminations"],
            truncated=arrays["truncations"],
        )
    found, dataset = imported(npz(tmp_path / "game.npz", **given), tmp_path, size=24)
    check_game(found, arrays)
    assert (dataset.actions, dataset.steps, dataset.episodes, dataset.size, dataset.held_out) == (
        3,
        60,
        3,
        24,
        40,
    )


@pytest.mark.parametrize(
    "kind",
    [
        "folder of npz",
        "pictures",
        "avi",
        "gif",
        "minari",
        "minari with jpeg",
        "minari from 2",
        "minari's file",
        "minari, arrow",
        "minari, parquet",
    ],
)
def test_every_kind_of_source_gives_the_same_recording(tmp_path, kind):
    arrays, source = game(), tmp_path / "source"
    if kind == "folder of npz":
        source.mkdir()
        for number, (first, last) in enumerate(((0, 20), (20, 60)), 9):
            npz(
                source / f"part{number}.npz",
                **{name: values[first:last] for name, values in arrays.items()},
            )
    elif kind == "pictures":
        pictures(source, arrays)
    elif kind in ("avi", "gif"):
        source = tmp_path / f"film.{kind}"
        table(source.with_suffix(".csv"), arrays)
        if kind == "avi":
            film(source, arrays["observations"])
        else:
            images = [Image.fromarray(frame) for frame in arrays["observations"]]
            images[0].save(source, save_all=True, append_images=images[1:])
    elif ", " in kind:
        as_tables(source, arrays, kind.partition(", ")[2])
    else:
        minari(source, arrays, encode="jpeg" in kind, start=2 * ("2" in kind))
        if kind == "minari's file":
            source = source / "data" / "main_data.hdf5"
    found, dataset = imported(source, tmp_path, size=24)
    check_game(found, arrays, tolerance=2 if kind == "minari with jpeg" else 0)
    assert dataset.actions == (5 if "minari" in kind else 3)


def test_frames_of_other_sizes_are_brought_to_the_one_asked_for(tmp_path):
    found, dataset = imported(npz(tmp_path / "game.npz", **game(size=50)), tmp_path)
    assert found.frames.shape[1:] == (64, 64, 3) and dataset.size == 64
    assert next(load_recordings(tmp_path / "made", 16)).frames.shape[1:] == (16, 16, 3)


def test_floats_are_as_bright_as_the_brightest_of_them_says(tmp_path):
    frames = np.full((20, 8, 8), 0.5)
    frames[10:] = 200.0
    found, _ = imported(
        npz(tmp_path / "game.npz", **dict(game(20, 8), observations=frames)), tmp_path, size=8
    )
    assert set(found.frames[:10].flat) <= {0, 1} and set(found.frames[10:].flat) == {200}


def test_long_recordings_become_several_files_that_go_on_with_the_game(tmp_path, monkeypatch):
    monkeypatch.setattr("iris_edu.sharing.own_data.BYTES_A_FILE", 1000 * 3 * 8 * 8)
    source = npz(tmp_path / "long.npz", **game(2300, 8, 1500))
    dataset = import_recordings(source, tmp_path / "made", 8)
    assert len(dataset.files) == 3 and dataset.episodes == 2
    assert [recording.starts.tolist() for recording in load_recordings(tmp_path / "made")] == [
        [0],
        [500],
        [],
    ]
    replay = ReplayBuffer(ReplayConfig(capacity=3000), 8)
    for recording in load_recordings(tmp_path / "made"):
        replay.extend(recording)
    assert replay.lengths.tolist() == [1500, 800]


def test_frames_are_those_before_the_actions():
    done = np.array([0, 1, 0, 0, 1, 0], bool)  # three games, the last one open
    assert frames_before(6, done).tolist() == frames_before(7, done).tolist() == [0, 1, 2, 3, 4, 5]
    assert frames_before(9, done).tolist() == [0, 1, 3, 4, 5, 7]
    for count in (0, 5, 8, 10):
        with pytest.raises(UserError, match="6 actions"):
            frames_before(count, done)


@pytest.mark.parametrize("more", [1, 3])
def test_frames_after_the_last_action_are_left_out(tmp_path, more):
    arrays = game()
    before = [*range(60)] if more == 1 else [0, *range(1, 20), 0, *range(20, 40), 0, *range(40, 60)]
    shown = arrays["observations"][[*before, 0]]
    check_game(
        imported(npz(tmp_path / "game.npz", **dict(arrays, observations=shown)), tmp_path, size=24)[
            0
        ],
        arrays,
    )


# --- what does not fit

ARRAYS = {
    "as many frames": dict(observations=np.zeros((50, 8, 8, 3), np.uint8)),
    "as many rewards": dict(rewards=np.zeros(59)),
    "float actions": dict(actions=np.linspace(0, 2, 60)),
    "one-hot actions": dict(actions=np.eye(60, dtype=int)),
    "negative action": dict(actions=np.arange(60) - 1),
    "huge action": dict(actions=np.arange(60) * 10**12),
    "words": dict(actions=np.array(["up"] * 60)),
    "nan reward": dict(rewards=np.full(60, np.nan)),
    "infinite reward": dict(rewards=np.full(60, 1e300)),
    "odd flag": dict(terminations=np.full(60, 2)),
    "objects": dict(rewards=np.array([None] * 60)),
    "no image": dict(observations=np.zeros((60, 17), np.uint8)),
    "volumes": dict(observations=np.zeros((60, 2, 8, 8, 3), np.uint8)),
    "seven channels": dict(observations=np.zeros((60, 8, 8, 7), np.uint8)),
    "nan frame": dict(observations=np.full((60, 8, 8), np.nan)),
    "dark below zero": dict(observations=np.full((60, 8, 8), -1)),
    "empty": dict(
        observations=np.zeros((0, 8, 8, 3), np.uint8),
        actions=np.zeros(0, int),
        rewards=np.zeros(0),
        terminations=np.zeros(0, bool),
        truncations=np.zeros(0, bool),
    ),
    "short": {name: values[:5] for name, values in game().items()},
    **{f"no {name}": {name: None} for name in game()},
}


def refused(capsys, tmp_path, source, *words):
    """Asserts that an import is refused in one sentence which names the source, and leaves nothing.

    Returns the sentence.
    """
    before = sorted(tmp_path.rglob("*"))
    status, said = run(capsys, "import", source, "--to", tmp_path / "made", *words)
    assert (
        status == 2 and said.count("\n") == 1 and "Traceback" not in said and source.name in said
    ), said
    assert sorted(tmp_path.rglob("*")) == before
    return said


@pytest.mark.parametrize("change", ARRAYS)
def test_arrays_that_do_not_fit_are_refused(tmp_path, capsys, change):
    given = {
        name: values for name, values in (game() | ARRAYS[change]).items() if values is not None
    }
    said = refused(capsys, tmp_path, npz(tmp_path / "bad.npz", **given))
    if change.startswith("no ") and change[3:] in game():
        assert change[3:] in said


CELLS = {
    "action": ["1.5", "-1", "x", "", "9" * 30],
    "reward": ["nan", "inf", "high"],
    "terminated": ["maybe", "2", ""],
}


@pytest.mark.parametrize(
    "column, cell", [(column, cell) for column, cells in CELLS.items() for cell in cells]
)
def test_cells_that_do_not_fit_are_refused(tmp_path, capsys, column, cell):
    folder = pictures(tmp_path / "shots", game(12, 8))
    lines = (folder / "steps.csv").read_text().split("\n")
    cells = lines[4].strip().split(",")
    cells[["action", "reward", "terminated"].index(column)] = cell
    lines[4] = ",".join(cells)
    (folder / "steps.csv").write_text("\n".join(lines))
    refused(capsys, tmp_path, folder)


def spoil_tables():
    "Ways to spoil a folder of pictures."

    def rewrite(text):
        return lambda folder: (folder / "steps.csv").write_bytes(text)

    return {
        "no table": lambda folder: (folder / "steps.csv").unlink(),
        "two tables": lambda folder: shutil.copy(folder / "steps.csv", folder / "more.csv"),
        "no rows": rewrite(b"action,reward,terminated,truncated\n"),
        "empty": rewrite(b""),
        "no column": rewrite(b"action,reward,terminated\n" + b"1,0,0\n" * 12),
        "a short row": rewrite(b"action,reward,terminated,truncated\n1,0\n"),
        "no text": rewrite(bytes(range(256))),
        "nul": rewrite(b"action,reward,terminated,truncated\n\0,0,0,0\n"),
        "a picture less": lambda folder: (folder / "frame-3.png").unlink(),
        "no picture": lambda folder: (folder / "frame-3.png").write_text("nothing"),
        "half a picture": lambda folder: (folder / "frame-3.png").write_bytes(
            (folder / "frame-4.png").read_bytes()[:45]
        ),
        "16 bits": lambda folder: Image.new("I;16", (8, 8)).save(folder / "frame-3.png"),
    }


@pytest.mark.parametrize("damage", spoil_tables())
def test_pictures_that_do_not_fit_are_refused(tmp_path, capsys, damage):
    folder = pictures(tmp_path / "shots", game(12, 8))
    spoil_tables()[damage](folder)
    refused(capsys, tmp_path, folder)


def spoil_minari():
    "Ways to spoil a Minari data set."

    def inside(change):
        def spoil(folder):
            with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
                change(file["episode_0"])

        return spoil

    def put(name, values):
        return inside(lambda group: (group.pop(name), group.create_dataset(name, data=values)))

    return {
        "no file": lambda folder: (folder / "data" / "main_data.hdf5").write_bytes(b"nothing"),
        "no episodes": lambda folder: h5py.File(folder / "data" / "main_data.hdf5", "w").close(),
        "no rewards": inside(lambda group: group.pop("rewards")),
        "vectors": put("observations", np.zeros((21, 6))),
        "a table of actions": put("actions", np.zeros((20, 2))),
        "a length": put("observations", np.zeros((23, 8, 8, 3), np.uint8)),
        "no picture": put("observations", np.zeros((21, 30), np.uint8)),
        "several images": inside(
            lambda group: (
                group.pop("observations"),
                [
                    group.create_dataset(
                        f"observations/{eye}", data=np.zeros((21, 8, 8, 3), np.uint8)
                    )
                    for eye in ("left", "right")
                ],
            )
        ),
        "continuous": lambda folder: (folder / "data" / "metadata.json").write_text(
            json.dumps(dict(action_space=json.dumps(dict(type="Box"))))
        ),
        "half a description": lambda folder: (folder / "data" / "metadata.json").write_text(
            '{"action_space": "{"}'
        ),
    }


@pytest.mark.parametrize("damage", spoil_minari())
def test_minari_data_that_does_not_fit_is_refused(tmp_path, capsys, damage):
    folder = minari(tmp_path / "set", game(size=8))
    spoil_minari()[damage](folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    status, said = run(capsys, "import", folder, "--to", tmp_path / "made")
    assert (
        status == 2 and said.count("\n") == 1 and "set" in said and not (tmp_path / "made").exists()
    ), said
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_of_no_known_kind_are_refused(tmp_path, capsys):
    for name, content in (
        ("game.npz", b"nothing"),
        ("film.mp4", b"nothing"),
        ("film.gif", b"nothing"),
        ("game.txt", b"1"),
        ("main_data.hdf5", b"nothing"),
    ):
        (tmp_path / name).write_bytes(content)
        if name.startswith("film"):
            table((tmp_path / name).with_suffix(".csv"), game(12, 8))
        refused(capsys, tmp_path, tmp_path / name)
    (tmp_path / "nothing").mkdir()
    refused(capsys, tmp_path, tmp_path / "nothing")
    refused(capsys, tmp_path, tmp_path / "nowhere")
    (tmp_path / "film.csv").unlink()
    assert "--table" in refused(capsys, tmp_path, tmp_path / "film.gif")


def test_nothing_is_overwritten_and_a_failure_on_the_way_leaves_nothing(
    tmp_path, capsys, monkeypatch
):
    source = npz(tmp_path / "game.npz", **game())
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "mine.txt").write_text("mine")
    status, said = run(capsys, "import", source, "--to", tmp_path / "made")
    assert (
        status == 2
        and "nothing is overwritten" in said
        and (tmp_path / "made" / "mine.txt").read_text() == "mine"
    )
    shutil.rmtree(tmp_path / "made")
    assert "give a larger number" in refused(capsys, tmp_path, source, "--actions", 2)
    monkeypatch.setattr(
        "iris_edu.sharing.own_data.write_json",
        lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt()),
    )
    with pytest.raises(KeyboardInterrupt):
        import_recordings(source, tmp_path / "made")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["game.npz"]


def test_more_actions_than_occur_can_be_declared(tmp_path):
    assert (
        import_recordings(
            npz(tmp_path / "game.npz", **game()), tmp_path / "made", actions=7
        ).actions
        == 7
    )


# --- the folder


@pytest.mark.parametrize(
    "begins, steps, first",
    [([0], 50, 45), ([0], 10, 8), ([0, 30], 50, 30), ([*range(0, 200, 10)], 200, 180)],
)
def test_the_last_tenth_is_held_out(begins, steps, first):
    assert first_held_out(begins, steps) == first


def test_no_step_is_learnt_from_and_held_out(tmp_path):
    arrays = game(200, 16, 10)
    import_recordings(npz(tmp_path / "game.npz", **arrays), tmp_path / "made", 16)
    replay = ReplayBuffer(ReplayConfig(capacity=300), 16)
    recorded = Recorded(tmp_path / "made", replay, 16)
    assert (replay.num_steps, recorded.held_out.num_steps, recorded.actions) == (180, 20, 3)
    assert (replay.num_episodes, recorded.held_out.num_episodes) == (18, 2)
    assert np.array_equal(recorded.held_out.actions, arrays["actions"][180:]) and np.array_equal(
        replay.actions[:180], arrays["actions"][:180]
    )
    part = held_out_part(tmp_path / "made", 16, most=15)
    assert np.array_equal(part.actions, arrays["actions"][180:195]) and part.starts.tolist() == [
        0,
        10,
    ]


def test_a_cut_keeps_the_games_that_begin_in_it(tmp_path):
    found, _ = imported(npz(tmp_path / "game.npz", **game(size=8)), tmp_path, size=8)
    assert cut(found, 10, 45).starts.tolist() == [10, 30] and len(cut(found, 10, 45)) == 35
    assert (
        len(cut(found, -5, 3)) == 3
        and cut(found, -5, 3).starts.tolist() == [0]
        and len(cut(found, 70, 60)) == 0
    )


def spoil_folder():
    "Ways to spoil a folder of recordings."

    def say(**change):
        return lambda folder: (folder / DATASET).write_text(
            json.dumps(json.loads((folder / DATASET).read_text()) | change)
        )

    return {
        "no description": lambda folder: (folder / DATASET).unlink(),
        "half a description": lambda folder: (folder / DATASET).write_text("{"),
        "a file less": lambda folder: (folder / "recording_00001.npz").unlink(),
        "half a file": lambda folder: (folder / "recording_00001.npz").write_bytes(b"PK"),
        "fewer actions": say(actions=1),
        "other steps": say(steps=61),
        "nothing held out": say(held_out=60),
        "a file elsewhere": say(files={"../recording_00001.npz": "0"}),
        "another sum": say(files={"recording_00001.npz": "0"}),
    }


@pytest.mark.parametrize("damage", spoil_folder())
def test_a_damaged_folder_is_refused(tmp_path, damage):
    import_recordings(npz(tmp_path / "game.npz", **game(size=16)), tmp_path / "made", 16)
    spoil_folder()[damage](tmp_path / "made")
    with pytest.raises(UserError, match="iris-edu import"):
        Recorded(tmp_path / "made", ReplayBuffer(ReplayConfig(capacity=100), 16), 16)


# --- a run


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    "A folder of own recordings of 60 steps."
    folder = tmp_path_factory.mktemp("own")
    import_recordings(npz(folder / "game.npz", **game()), folder / "ball", 24)
    return folder / "ball"


@pytest.fixture(scope="module")
def whole(recordings, tmp_path_factory):
    "A run of three epochs on them, during which no game can be opened, and its trainer."
    folder, make = tmp_path_factory.mktemp("runs") / "run", gymnasium.make
    gymnasium.make = lambda *names, **options: pytest.fail("a game was opened")
    try:
        return folder, train(configured(recordings), folder, callbacks=())
    finally:
        gymnasium.make = make


def configured(folder, *words):
    "The smallest configuration that learns from a folder."
    return configuration(*SCHEDULE, "--data", str(folder), *words)


def test_all_three_learn_and_the_held_out_part_is_foreseen(whole):
    folder, trainer = whole
    records = read_metrics(folder)
    assert [record["steps"] for record in records] == [40, 40, 40] and not any(
        "collect/seconds" in record for record in records
    )
    assert all(
        f"{name}/seconds" in record
        for record in records
        for name in ("tokenizer", "world_model", "actor_critic")
    )
    for name in ("token_error_1", "token_error_10", "copy_error_1", "transition", "reconstruction"):
        assert np.isfinite(records[1][f"evaluate/{name}"]), name
    assert "evaluate/return" not in records[1] and (folder / "pictures" / "epoch_0002.png").exists()
    run = read_run(folder)
    assert run.actions == 3 and run.data == trainer.collector.dataset.sum


def test_a_run_that_was_stopped_ends_bit_for_bit_where_it_would_have(whole, recordings, tmp_path):
    train(configured(recordings), tmp_path / "run", max_epochs=1, callbacks=())
    moved = shutil.copytree(recordings, tmp_path / "elsewhere")
    again = train(configured(moved), tmp_path / "run", callbacks=())
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            again.agent.state_dict().values(), whole[1].agent.state_dict().values(), strict=True
        )
    )


def test_a_run_goes_on_with_its_own_recordings_only(recordings, tmp_path):
    train(configured(recordings), tmp_path / "run", max_epochs=1, callbacks=())
    import_recordings(npz(tmp_path / "other.npz", **game(80)), tmp_path / "other", 24)
    for config, words in (
        (configured(tmp_path / "other"), "the same content"),
        (configured(tmp_path / "nowhere"), "iris-edu import"),
        (configuration(*SCHEDULE), "the same content"),
    ):
        with pytest.raises(UserError, match=words):
            train(config, tmp_path / "run", callbacks=())
    train(configuration(*SCHEDULE), tmp_path / "game", max_epochs=1, callbacks=())
    with pytest.raises(UserError, match="leave --data out"):
        train(configured(recordings), tmp_path / "game", callbacks=())


def test_recordings_larger_than_the_replay_are_said_to_be(recordings, tmp_path, capsys):
    train(
        configured(recordings, "--replay.capacity", "30"),
        tmp_path / "run",
        max_epochs=1,
        callbacks=(),
    )
    assert "--replay.capacity 40" in capsys.readouterr().out


def test_commands_on_such_a_run(whole, tmp_path, capsys):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    status, said = run(capsys, "evaluate", folder)
    assert status == 0 and "token error, copy" in said and "ball" in said
    errors = json.loads((folder / "k_step_error.json").read_text())["k_step_error"]
    assert (
        len(errors["token_error"]["world model"]) == 10
        and errors == evaluate_run(folder)["k_step_error"]
    )
    for words, expected, code in (
        (("watch", folder, "--once"), "evaluate/token_error_1", 0),
        (("report", folder), "report.html", 0),
        (("score", folder), "has no score", 2),
        (("bench", "--data", folder), "leave --data out", 2),
    ):
        status, said = run(capsys, *words)
        assert (status, expected in said) == (code, True), said
    assert "nobody learnt from" in (folder / "report.html").read_text()


def test_play_dreams_from_the_recordings_and_has_no_real_game(whole):
    trained, recording = opened(whole[0])
    assert len(recording) == 20 and action_names(trained.config) == [
        "action 0",
        "action 1",
        "action 2",
    ]
    game = Game(trained, recording)
    game.start(frame=3)
    assert game.step(1).frame.shape == (16, 16, 3)
    with pytest.raises(UserError, match="no real game"):
        game.start(dreamt=False)
    assert game.dreamt and len(game.steps) == 1  # the dream is still there
    with pytest.raises(UserError, match="no real game"):
        make_environment(trained.config)


def test_the_command_line_from_a_file_to_a_run(tmp_path, capsys, monkeypatch):
    from micro import SIZES

    monkeypatch.chdir(tmp_path)
    npz(tmp_path / "mine.npz", **game())
    assert run(capsys, "import", "mine.npz", "--to", "own", "--size", 16)[0] == 0
    words = ["train", *SIZES, *SCHEDULE, "--data", "own", "--run-dir", "run"]
    assert run(capsys, *words, "--max-epochs", 1)[0] == 0
    status, said = run(capsys, *words)
    assert status == 0 and "own" in said and "finished" in said
    assert "is finished" in run(capsys, *words)[1]
    assert read_run("run").config.data == str(tmp_path / "own")


@pytest.mark.parametrize(
    "header",
    [
        "x,x,action,reward,terminated,truncated",
        "action,action,reward,terminated,truncated,",
        ",,action,reward,terminated,truncated",
    ],
)
def test_a_column_that_stands_twice_shifts_nothing(tmp_path, header):
    (tmp_path / "steps.csv").write_text(
        header + "\n" + ",".join("0" for _ in header.split(",")) + "\n"
    )
    with pytest.raises(UserError, match="two columns"):
        read_steps(tmp_path / "steps.csv")


def test_an_hdf5_file_shows_no_other_file(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(960))
    with h5py.File(tmp_path / "main_data.hdf5", "w") as file:
        group = file.create_group("episode_0")
        group.create_dataset(
            "observations", shape=(5, 8, 8, 3), dtype="uint8", external=[(str(secret), 0, 960)]
        )
        for name in ("actions", "rewards", "terminations", "truncations"):
            group[name] = np.zeros(4)
    (tmp_path / "metadata.json").write_text("{}")
    with pytest.raises(UserError, match="another place"):
        import_recordings(tmp_path, tmp_path / "out")
    with h5py.File(tmp_path / "main_data.hdf5", "a") as file:
        del file["episode_0/observations"]
        file["episode_0/observations"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "frames")
    with pytest.raises(UserError, match="another place"):
        import_recordings(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()

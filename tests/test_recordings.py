"""Recordings: games rebuilt from seeds and actions, and files that are whole or old."""

import dataclasses
import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from iris_edu.base.files import atomic_write
from iris_edu.base.settings import UserError
from iris_edu.envs import Catch, EnvConfig, make_env
from iris_edu.recordings import (
    Recording,
    ReplayError,
    check_recording,
    concatenate,
    frames_digest,
    load_recording,
    rebuild,
    record,
    replays,
    save_recording,
)


def test_a_missing_recording_gets_a_sentence():
    with pytest.raises(UserError, match="nowhere.npz is not a recording that can be used") as error:
        load_recording("nowhere.npz")
    assert "(there is no such file" in str(error.value) and "\n" not in str(error.value)


def same(a, b):
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(Recording)]
    return all(x is y or np.array_equal(x, y) and x.dtype == y.dtype for x, y in pairs)


@pytest.mark.parametrize(
    "config, steps",
    [
        (EnvConfig("Pong"), 1000),
        (EnvConfig("Breakout"), 700),
        (EnvConfig("Catch"), 200),
        (EnvConfig("Breakout", max_frames=300), 200),
        (EnvConfig("ALE/Pong-v5"), 100),
    ],
)
def test_seeds_and_actions_rebuild_the_frames_bit_for_bit(config, steps, tmp_path):
    env, rng = make_env(config), np.random.default_rng(0)
    played = record(env, lambda frame: rng.integers(env.action_space.n), steps, seed=4)
    if config.game == "Breakout" and config.max_frames > 300:  # lives were lost without a new game
        assert played.terminated.sum() > len(played.seeds) + 5
    save_recording(tmp_path / "a.npz", played, frames=False)
    save_recording(tmp_path / "f.npz", played)
    assert (tmp_path / "a.npz").stat().st_size < 5 * steps + 2000
    fresh = make_env(config)
    again = rebuild(load_recording(tmp_path / "a.npz"), fresh)
    assert same(again, played) and same(load_recording(tmp_path / "f.npz"), played)
    # both stand at the same place of the same game
    if not (played.terminated[-1] or played.truncated[-1]):
        for action in rng.integers(3, size=20):
            one, two = env.step(int(action)), fresh.step(int(action))
            assert np.array_equal(one[0], two[0]) and one[1:4] == two[1:4]
            if one[2] or one[3]:
                break


def test_a_game_begun_in_the_middle_of_another_is_rebuilt():
    env, rng = make_env(EnvConfig("Catch")), np.random.default_rng(0)
    two = concatenate(
        [
            record(env, lambda frame: rng.integers(3), 17, seed=1),
            record(env, lambda frame: rng.integers(3), 60, seed=9),
        ]
    )
    assert two.starts[1] == 17 and same(rebuild(two, make_env(EnvConfig("Catch"))), two)


def test_rebuild_notices_another_game():
    env = make_env(EnvConfig("Catch"))
    played = record(env, lambda frame: 1, 60, seed=0)
    for change in (
        dict(rewards=played.rewards + 1),
        dict(terminated=~played.terminated),
        dict(truncated=~played.truncated),
    ):
        with pytest.raises(UserError, match="went differently"):
            rebuild(dataclasses.replace(played, **change), env)
    with pytest.raises(UserError, match="middle of a game"):
        rebuild(dataclasses.replace(played, starts=played.starts + 1), env)


def test_a_broken_file_is_no_recording(tmp_path):
    path = tmp_path / "x.npz"
    for content in (b"", b"PK\x03\x04 broken", b"text"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a recording"):
            load_recording(path)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(UserError, match="not a recording"):
        load_recording(path)
    np.savez(path, actions=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="not a recording"):
        load_recording(path)


def test_files_are_the_same_byte_for_byte(tmp_path):
    played = record(make_env(EnvConfig("Catch")), lambda frame: 0, 30)
    for name in "ab":
        save_recording(tmp_path / name, played)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_empty_recording_can_be_saved(tmp_path):
    empty = Recording(
        *[np.zeros(0, t) for t in (np.int64, np.int64, np.int64, np.float32, bool, bool)]
    )
    save_recording(tmp_path / "e.npz", empty)
    assert len(load_recording(tmp_path / "e.npz")) == 0


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("place", ["write", "fsync", "replace", "mkdir"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, place):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    if place == "fsync":
        monkeypatch.setattr(os, "fsync", full_disk)
    if place == "replace":
        monkeypatch.setattr(os, "replace", full_disk)
    if place == "mkdir":
        monkeypatch.setattr("pathlib.Path.mkdir", full_disk)
    with pytest.raises(UserError, match="disk is full") as error:
        atomic_write(path, full_disk if place == "write" else b"new")
    assert (
        path.read_bytes() == b"old"
        and os.listdir(tmp_path) == ["file"]
        and "\n" not in str(error.value)
    )


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are a Unix thing")
def test_a_real_limit_on_file_size_leaves_the_old_recording(tmp_path):
    code = (
        "import resource, signal, sys, numpy as np; from iris_edu.recordings import *; from iris_edu.base.settings import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "noise = np.random.default_rng(0).integers(256, size=(20, 64, 64, 3), dtype=np.uint8); z = np.zeros(20)\n"
        "try: save_recording(sys.argv[1], Recording(z[:0], z[:0], z, z, z, z, noise))\n"
        "except UserError as error: print(error)"
    )
    path = tmp_path / "r.npz"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert (
        "disk is full" in done.stdout
        and path.read_bytes() == b"old"
        and os.listdir(tmp_path) == ["r.npz"]
    ), done.stderr


def test_an_interrupt_leaves_the_old_file(tmp_path):
    def interrupted(file):
        file.write(b"half")
        raise KeyboardInterrupt

    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "file", interrupted)
    assert (tmp_path / "file").read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_a_missing_folder_is_made_and_a_file_in_its_place_is_named(tmp_path):
    atomic_write(tmp_path / "a" / "b" / "file", b"new")
    assert (tmp_path / "a/b/file").read_bytes() == b"new"
    with pytest.raises(UserError, match="was not written"):
        atomic_write(tmp_path / "a/b/file/x", b"new")


class Screen(Catch):
    "Catch that draws into one array, again and again."

    def __init__(self):
        super().__init__()
        self.screen = np.zeros((64, 64, 3), np.uint8)

    def render(self):
        self.screen[:] = super().render()
        return self.screen


def test_a_screen_that_is_drawn_into_again_is_recorded_as_it_was():
    plain, reused = (
        record(make(), lambda frame: int(frame.sum() % 3), 60, seed=2) for make in (Catch, Screen)
    )
    assert same(plain, reused) and same(rebuild(reused, Screen()), plain)


def test_a_digest_tells_other_frames_under_the_same_rewards(tmp_path):
    played = record(make_env(EnvConfig("Catch")), lambda frame: 1, 60, seed=0)
    noted = dataclasses.replace(played, digest=frames_digest(played.frames))
    save_recording(tmp_path / "a.npz", noted, frames=False)
    again = rebuild(load_recording(tmp_path / "a.npz"), make_env(EnvConfig("Catch")))
    assert np.array_equal(again.frames, played.frames)

    class Paler(Catch):
        def render(self):
            return super().render() // 2

    with pytest.raises(ReplayError, match="frames went differently"):
        rebuild(load_recording(tmp_path / "a.npz"), Paler())
    with pytest.raises(UserError, match="32 bytes"):
        check_recording(
            {name: array for name, array in vars(noted).items() if array is not None}
            | {"digest": noted.digest[:3]}
        )


class Lucky(Catch):
    "Draws one pixel from a generator that no seed reaches."

    def render(self):
        frame = super().render()
        frame[0, 0] = np.random.default_rng().integers(256)
        return frame


class Older(Catch):
    "The third game of an environment is another one than the first."

    games = 0

    def reset(self, *, seed=None, options=None):
        self.games += 1
        return super().reset(seed=None if seed is None else seed + self.games)


@pytest.mark.parametrize(
    "make, does",
    [
        (Catch, True),
        (lambda: make_env(EnvConfig("Breakout")), True),
        (lambda: make_env(EnvConfig("ALE/Pong-v5")), True),
        (Screen, True),
        (Lucky, False),
        (Older, False),
    ],
)
def test_a_trial_tells_whether_games_replay(make, does):
    assert replays(make) is does

"""Replay: segments and their padding, the ring, recordings that rebuild games, and files that are whole or old."""

import dataclasses
import errno
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iris_edu.envs import Catch, EnvConfig, make_env
from iris_edu.files import atomic_write
from iris_edu.replay import (
    Recording,
    Replay,
    ReplayConfig,
    ReplayError,
    UniformSegments,
    check_recording,
    concatenate,
    frames_digest,
    load_recording,
    rebuild,
    record,
    replays,
    save_recording,
    to_float,
)
from iris_edu.settings import UserError

SIZE = 2
episodes = st.lists(st.integers(1, 12), min_size=1, max_size=8)


def step_number(frames):
    return frames[..., 0, 0, 0].long() + 256 * frames[..., 1, 0, 0].long()


def fill(lengths, capacity=200, closed=True, **options):
    """A replay of episodes of these lengths.

    The colours and the reward of a step are its number, counted from 1.
    """
    replay, number = Replay(ReplayConfig(capacity=capacity), SIZE, **options), 0
    for episode, length in enumerate(lengths):
        for t in range(length):
            number += 1
            frame = np.zeros((SIZE, SIZE, 3), np.uint8)
            frame[..., 0], frame[..., 1] = number % 256, number // 256
            last = t == length - 1 and (closed or episode < len(lengths) - 1)
            replay.add(frame, number % 5, float(number), last)
    return replay


@settings(deadline=None)
@given(episodes, st.integers(1, 15), st.sampled_from(["start", "end"]), st.integers(0, 2**31))
def test_segments_are_consecutive_steps_of_one_episode_and_zeros(lengths, length, anchor, seed):
    replay = fill(lengths)
    batch = replay.sample(32, length, torch.Generator().manual_seed(seed), anchor)
    assert batch.frames.shape == (32, length, 3, SIZE, SIZE) and batch.frames.dtype == torch.uint8
    assert [x.dtype for x in batch[1:]] == [
        torch.int64,
        torch.float32,
        torch.bool,
        torch.bool,
        torch.int64,
    ]
    bounds = np.cumsum([0, *lengths])
    for frames, actions, rewards, ends, mask, slots in zip(*batch):
        number = step_number(frames)[mask]
        held = step_number(replay.frames[slots].permute(0, 3, 1, 2))
        assert (held[mask] == number).all() and held.min() == number[0] and held.max() == number[-1]
        assert (
            (number.diff() == 1).all()
            and (rewards[mask] == number).all()
            and (actions[mask] == number % 5).all()
        )
        first, last = int(number[0]) - 1, int(number[-1]) - 1
        assert np.searchsorted(bounds, first, side="right") == np.searchsorted(
            bounds, last, side="right"
        )
        assert (ends[mask] == torch.from_numpy(np.isin(number.numpy(), bounds[1:]))).all()
        assert (
            not frames[~mask].any()
            and not actions[~mask].any()
            and not rewards[~mask].any()
            and not ends[~mask].any()
        )
        real = mask.int().diff()
        assert mask.any() and (
            (real <= 0).all() and mask[0] if anchor == "start" else (real >= 0).all() and mask[-1]
        )


@settings(deadline=None)
@given(episodes, st.integers(1, 15), st.sampled_from(["start", "end"]))
def test_the_anchor_is_uniform_over_all_steps_of_an_episode(lengths, length, anchor):
    episode, start = UniformSegments()(
        torch.tensor(lengths), 3000, length, anchor, torch.Generator().manual_seed(0)
    )
    step = start if anchor == "start" else start + length - 1
    assert (step >= 0).all() and (step < torch.tensor(lengths)[episode]).all()
    assert set(episode.tolist()) == set(range(len(lengths)))
    assert (episode.bincount() / 3000 - 1 / len(lengths)).abs().max() < 0.06
    counts = step[episode == 0].bincount(minlength=lengths[0]) / (episode == 0).sum()
    assert (counts - 1 / lengths[0]).abs().max() < 0.12


@pytest.mark.parametrize("steps, share", [(20, 0.525), (50, 0.81), (100, 0.905), (200, 0.9525)])
def test_the_real_share_of_a_segment(steps, share):
    mask = fill([steps], capacity=256).sample(4000, 20, torch.Generator().manual_seed(0)).mask
    assert abs(mask.float().mean() - share) < 0.015


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=20),
    st.integers(1, 15),
)
def test_the_ring_drops_whole_oldest_episodes(played, capacity):
    replay, kept, number = Replay(ReplayConfig(capacity=capacity), SIZE), [], 0
    for length, terminated in played:
        for t in range(length):
            if sum(map(len, kept)) == capacity:
                oldest = kept.pop(0)
                if t and not kept:
                    kept.append(oldest[1:])
            if not t:
                kept.append([])
            number += 1
            kept[-1].append(number)
            last = t == length - 1
            replay.add(
                np.full((SIZE, SIZE, 3), number % 256, np.uint8),
                0,
                number,
                last and terminated,
                last and not terminated,
            )
            assert replay.lengths.tolist() == [len(e) for e in kept if e]
            assert replay.num_steps == sum(
                map(len, kept)
            ) <= capacity and replay.num_episodes == len(replay.lengths)
    every = torch.arange(replay.num_episodes)
    batch = replay.gather(every, torch.zeros_like(every), int(replay.lengths.max()))
    assert [row[mask].tolist() for row, mask in zip(batch.rewards, batch.mask)] == kept


@settings(deadline=None)
@given(episodes, st.integers(1, 15), st.booleans())
def test_recent_is_the_end_of_the_open_episode(lengths, length, closed):
    frames, mask = fill(lengths, closed=closed).recent(length)
    real = 0 if closed else min(length, lengths[-1])
    assert mask.tolist() == [[False] * (length - real) + [True] * real]
    total = sum(lengths)
    assert step_number(frames)[0].tolist() == [0] * (length - real) + list(
        range(total - real + 1, total + 1)
    )


def test_recent_of_an_empty_replay_is_padding():
    frames, mask = Replay(ReplayConfig(capacity=4), SIZE).recent(3)
    assert frames.shape == (1, 3, 3, SIZE, SIZE) and not frames.any() and not mask.any()


def test_the_same_seed_draws_the_same_batch():
    replay = fill([5, 9, 2])
    one, two, other = (
        replay.sample(8, 4, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(one, two)) and not torch.equal(
        one.frames, other.frames
    )


def test_a_batch_is_independent_of_the_ring():
    replay = fill([5])
    before = replay.frames.clone()
    replay.sample(4, 8, torch.Generator().manual_seed(0)).frames.fill_(9)
    assert torch.equal(replay.frames[:5], before[:5])


def test_one_gather_whatever_the_batch():
    "The number of tensor operations must not grow with the number of segments or steps."
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            calls.append(str(function))
            return function(*args, **(kwargs or {}))

    replay, counts = fill([30, 40, 50]), []
    replay.sample(1, 1)
    for n, length in ((1, 1), (64, 21), (256, 50)):
        calls = []
        with Count():
            replay.sample(n, length, torch.Generator().manual_seed(0))
        counts.append((len(calls), sum("index_select" in call for call in calls)))
    assert len(set(counts)) == 1 and counts[0][1] == 1


def test_memory_of_100_000_frames():
    code = (
        "import resource; from iris_edu.replay import Replay; peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "before = peak(); r = Replay(); print(sum(f.nbytes for f in (r.frames, r.actions, r.rewards, r.dones)), peak() - before)"
    )
    total, resident = map(
        int,
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split(),
    )
    assert 1_228_800_000 < total < 1_232_000_000
    # kilobytes: nothing is touched before it is written
    if sys.platform == "linux":
        assert resident < 100_000


def test_whether_a_truncation_ends():
    for choice in (True, False):
        replay = Replay(ReplayConfig(capacity=9, truncation_ends=choice), SIZE)
        for terminated, truncated in ((False, True), (True, False), (True, True), (False, False)):
            replay.add(np.zeros((SIZE, SIZE, 3), np.uint8), 0, 0.0, terminated, truncated)
        assert (
            replay.dones[:4].tolist() == [choice, True, True, False]
            and replay.num_episodes == 4
            and replay.open
        )


def test_to_float():
    x = torch.arange(256, dtype=torch.uint8)
    assert to_float(x).dtype == torch.float32 and torch.equal(
        (to_float(x) * 255).round().to(torch.uint8), x
    )
    assert to_float(x).min() == 0 and to_float(x).max() == 1


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: ReplayConfig(capacity=0), "capacity"),
        (lambda: ReplayConfig(storage="video"), "one of frames, actions"),
        (lambda: Replay(ReplayConfig(capacity=3), SIZE).sample(1, 1), "empty"),
        (lambda: fill([3]).sample(1, 1, anchor="middle"), "'start' or 'end'"),
        (lambda: fill([3]).sample(0, 1), "at least 1"),
        (lambda: fill([3]).add(np.zeros((3, 3, 3), np.uint8), 0, 0.0, False), "uint8"),
        (lambda: fill([3]).add(np.zeros((SIZE, SIZE, 3)), 0, 0.0, False), "float64"),
        (
            lambda: load_recording("nowhere.npz"),
            "nowhere.npz is not a recording that can be used .there is no such file",
        ),
        (lambda: fill([3]).extend(Recording(*[np.zeros(0)] * 6)), "no frames"),
    ],
)
def test_mistakes_get_a_sentence(call, words):
    with pytest.raises(UserError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


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
        "import resource, signal, sys, numpy as np; from iris_edu.replay import *; from iris_edu.settings import UserError\n"
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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_ring_on_a_gpu_gives_the_same_batches():
    one, two = fill([5, 9, 2]), fill([5, 9, 2], device="cuda")
    a, b = (r.sample(16, 6, torch.Generator().manual_seed(0), "end") for r in (one, two))
    assert (
        all(torch.equal(x, y.cpu()) for x, y in zip(a, b))
        and b.frames.is_cuda
        and two.recent(3)[0].is_cuda
    )


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

"""Replay: segments and their padding, the ring, and batches with and without frames."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iris_edu.base.settings import UserError
from iris_edu.recordings import Recording
from iris_edu.replay import ReplayBuffer, ReplayConfig, UniformSegments, to_float

SIZE = 2
episodes = st.lists(st.integers(1, 12), min_size=1, max_size=8)


def step_number(frames):
    return frames[..., 0, 0, 0].long() + 256 * frames[..., 1, 0, 0].long()


def fill(lengths, capacity=200, closed=True, **options):
    """A replay of episodes of these lengths.

    The colours and the reward of a step are its number, counted from 1.
    """
    replay, number = ReplayBuffer(ReplayConfig(capacity=capacity), SIZE, **options), 0
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
    replay, kept, number = ReplayBuffer(ReplayConfig(capacity=capacity), SIZE), [], 0
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
    frames, mask = ReplayBuffer(ReplayConfig(capacity=4), SIZE).recent(3)
    assert frames.shape == (1, 3, 3, SIZE, SIZE) and not frames.any() and not mask.any()


def test_the_same_seed_draws_the_same_batch():
    replay = fill([5, 9, 2])
    one, two, other = (
        replay.sample(8, 4, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(one, two)) and not torch.equal(
        one.frames, other.frames
    )


@settings(deadline=None)
@given(episodes, st.integers(1, 15), st.sampled_from(["start", "end"]), st.integers(0, 2**31))
def test_a_batch_without_frames_is_the_same_batch(lengths, length, anchor, seed):
    replay, batches = fill(lengths), []
    for frames in (True, False):
        draw = torch.Generator().manual_seed(seed)
        batches.append(replay.sample(16, length, draw, anchor, frames))
    whole, lean = (batch._asdict() for batch in batches)
    assert whole.pop("frames") is not None and lean.pop("frames") is None
    assert all(torch.equal(whole[name], lean[name]) for name in whole)


def test_a_batch_without_frames_reads_no_frame():
    replay = fill([5, 9])
    replay.frames = replay.frames[:, :0]  # no pixels at all, only a shape
    batch = replay.sample(4, 6, torch.Generator().manual_seed(0), frames=False)
    assert batch.frames is None and batch.slots.shape == (4, 6)


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
        "import resource; from iris_edu.replay import ReplayBuffer; peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "before = peak(); r = ReplayBuffer(); print(sum(f.nbytes for f in (r.frames, r.actions, r.rewards, r.dones)), peak() - before)"
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
        replay = ReplayBuffer(ReplayConfig(capacity=9, truncation_ends=choice), SIZE)
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
        (lambda: ReplayBuffer(ReplayConfig(capacity=3), SIZE).sample(1, 1), "empty"),
        (lambda: fill([3]).sample(1, 1, anchor="middle"), "'start' or 'end'"),
        (lambda: fill([3]).sample(0, 1), "at least 1"),
        (lambda: fill([3]).add(np.zeros((3, 3, 3), np.uint8), 0, 0.0, False), "uint8"),
        (lambda: fill([3]).add(np.zeros((SIZE, SIZE, 3)), 0, 0.0, False), "float64"),
        (lambda: fill([3]).extend(Recording(*[np.zeros(0)] * 6)), "no frames"),
    ],
)
def test_mistakes_get_a_sentence(call, words):
    with pytest.raises(UserError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_ring_on_a_gpu_gives_the_same_batches():
    one, two = fill([5, 9, 2]), fill([5, 9, 2], device="cuda")
    a, b = (r.sample(16, 6, torch.Generator().manual_seed(0), "end") for r in (one, two))
    assert (
        all(torch.equal(x, y.cpu()) for x, y in zip(a, b))
        and b.frames.is_cuda
        and two.recent(3)[0].is_cuda
    )

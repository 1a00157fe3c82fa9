"""Training a world model on recorded frames: what the notebook does not show."""

import numpy as np
import torch

from iris_edu.recordings import Recording
from iris_edu.zoo.dreams import token_segments


def test_segments_of_a_recording_stay_inside_their_game():
    """Two games of 3 and 5 steps: tokens count the steps, so every row must go up by one.

    What lies beyond the end is masked.
    """
    numbers = np.arange(8)
    recording = Recording(
        np.array([1, 2]),
        np.array([0, 3]),
        numbers,
        numbers.astype(np.float32),
        numbers == 2,
        numbers < 0,
    )
    tokens = torch.arange(8)[:, None].expand(8, 4)
    read, actions, rewards, ends, mask = token_segments(
        recording, tokens, 50, 4, torch.Generator().manual_seed(0)
    )
    assert read.shape == (
        50,
        4,
        4,
    ) and actions.shape == rewards.shape == ends.shape == mask.shape == (50, 4)
    first = actions[:, :1]
    assert torch.equal(mask, (first + torch.arange(4) < torch.where(first < 3, 3, 8)))
    assert torch.equal(actions[mask], (first + torch.arange(4))[mask]) and torch.equal(
        read[..., 0], actions
    )
    assert torch.equal(ends[mask], actions[mask] == 2) and {0, 1, 2, 3, 7} <= set(
        first.flatten().tolist()
    )

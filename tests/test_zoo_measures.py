"""What a tokenizer gets wrong: what the notebook does not show."""

import pytest
import torch

from iris_edu.zoo.measures import background, ball_found, moving_error


def test_a_ball_is_found_where_it_is_and_nowhere_else():
    frames = torch.zeros(4, 3, 16, 16)
    # the fourth frame has no ball
    for t in range(3):
        frames[t, :, 5 + t, 6] = 0.5
    still, court = torch.zeros(3, 16, 16), (2, 14, 2, 14)

    def found(drawn):
        return ball_found(drawn, frames, still, court)

    assert found(frames) == 1 and found(frames.roll(2, 3)) == 1 and found(frames.roll(3, 3)) == 0
    assert (
        found(0.4 * frames) == 1
        and found(0.3 * frames) == 0
        and found(torch.zeros_like(frames)) == 0
    )


def test_the_error_of_moving_pixels_ignores_the_rest():
    still = torch.zeros(3, 4, 4)
    frames = torch.zeros(2, 3, 4, 4)
    frames[0, :, 1, 2] = 0.8
    drawn = torch.full_like(frames, 0.3)
    assert moving_error(drawn, frames, still) == pytest.approx(0.5)
    assert moving_error(still.expand_as(frames), frames, still) == pytest.approx(0.8)
    pictures = torch.zeros(5, 3, 4, 4, dtype=torch.uint8)
    pictures[0] = 255
    assert background(pictures).max() == 0

"""The codebook of patches: what the notebook does not show."""

import pytest
import torch

from iris_edu.replay import to_float
from iris_edu.zoo.codebook import (
    blur,
    code_vectors,
    decode_patches,
    encode_patches,
    medoids,
    patch_codebook,
    unique_patches,
)


def test_a_code_is_the_most_seen_of_the_patches_it_stands_for():
    miss = torch.tensor([[0, 0.1, 0.1, 1], [0.1, 0, 0.2, 1], [0.1, 0.2, 0, 1], [1, 1, 1, 0]])
    seen = torch.tensor([1.0, 50, 1, 1])
    assert medoids(miss, torch.tensor([0, 3]), seen).tolist() == [1, 3]
    # the second stands for nothing and stays
    assert medoids(torch.zeros(2, 2), torch.tensor([0, 1]), seen[:2]).tolist() == [0, 1]


def test_a_codebook_finds_the_patches_that_occur():
    """Frames made of five different squares need five entries.

    A smaller codebook holds some of them.
    """
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randint(256, (5, 3, 4, 4), generator=rng, dtype=torch.uint8)
    frames = (
        tokens[torch.randint(5, (30, 2, 2), generator=rng)]
        .permute(0, 3, 1, 4, 2, 5)
        .reshape(30, 3, 8, 8)
    )
    codebook = patch_codebook(frames, 5, 2, rng)
    assert sorted(map(tuple, (codebook * 255).round().byte().tolist())) == sorted(
        map(tuple, tokens.flatten(1).tolist())
    )
    few = patch_codebook(frames, 2, 2, rng)
    assert few.shape == (2, 48) and set(map(tuple, (few * 255).round().byte().tolist())) <= set(
        map(tuple, tokens.flatten(1).tolist())
    )
    assert torch.equal(
        decode_patches(encode_patches(to_float(frames), 2, codebook), codebook), to_float(frames)
    )
    # more entries than different squares
    assert torch.isfinite(patch_codebook(frames[:, :, :4, :4], 9, 1, rng)).all()


def test_a_codebook_is_the_one_that_recomputing_every_gain_would_choose():
    """Old gains are upper bounds, so looking at the 64 highest finds the same squares as looking at
    all 300.
    """
    frames = torch.randint(
        256, (300, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    codebook = patch_codebook(frames, 20, 1, torch.Generator().manual_seed(0))
    pictures, votes = unique_patches(frames, 1, torch.Generator().manual_seed(0), 10_000)
    far = torch.cdist(blur(pictures), blur(pictures)).square()
    miss, left, chosen = far / (far + 0.1), torch.ones(300), []
    for _ in range(20):
        chosen.append(((left - miss).clamp(min=0) @ votes.pow(0.3)).argmax().item())
        left = torch.minimum(left, miss[chosen[-1]])
    assert torch.equal(codebook, pictures[chosen])


def test_a_codebook_is_chosen_from_a_bounded_number_of_different_patches():
    noise = torch.randint(
        256, (50, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    pictures, seen = unique_patches(
        noise.repeat(3, 1, 1, 1), 1, torch.Generator().manual_seed(0), 10
    )
    assert pictures.shape == (10, 48) and seen.tolist() == [3] * 10


def test_a_patch_is_blurred_the_more_the_larger_it_is():
    for side, reach in ((2, 1), (8, 2), (16, 4)):
        square = torch.zeros(1, 3, side, side)
        square[0, :, 0, 0] = 1
        spread = blur(square.flatten(1)).view(3, side, side)[0, 0] > 0
        assert spread[: reach + 1].all() and not spread[reach + 1 :].any()


def test_a_shifted_ball_is_nearer_than_no_ball_once_blurred():
    ball, shifted, none = (torch.zeros(3 * 8 * 8) for _ in range(3))
    ball.view(3, 8, 8)[:, 4, 4], shifted.view(3, 8, 8)[:, 4, 5] = 1, 1

    def gap(a, b):
        return (a - b).square().sum()

    assert gap(ball, shifted) > gap(ball, none)
    assert gap(*map(blur, (ball, shifted))) < gap(*map(blur, (ball, none)))


def test_tokens_are_found_in_full_precision_under_autocast():
    frames, codebook = (
        torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
        torch.rand(64, 192, generator=torch.Generator().manual_seed(1)),
    )
    exact = encode_patches(frames, 4, codebook)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encode_patches(frames, 4, codebook), exact)


def test_codes_of_like_patches_are_alike():
    codebook = torch.rand(20, 192, generator=torch.Generator().manual_seed(0))
    codebook[1] = codebook[0] + 0.01
    for dim in (8, 32):
        codes = code_vectors(codebook, dim, torch.Generator().manual_seed(0))
        assert codes.shape == (20, dim) and codes.square().mean().item() == pytest.approx(
            1, rel=1e-4
        )
        gaps = torch.cdist(codes[:1], codes)[0]
        assert gaps[1] == gaps[1:].min()

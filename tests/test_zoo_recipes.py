"""Recipes and `iris-edu make`: what the notebook does not show."""

import dataclasses
from functools import partial
from pathlib import Path

import pytest
import torch

from iris_edu.agent import load_run, load_trained
from iris_edu.apps import cli
from iris_edu.base.settings import UserError, load_settings
from iris_edu.config import PRESETS
from iris_edu.evaluation import evaluate_run
from iris_edu.training import train
from iris_edu.zoo import recipes
from iris_edu.zoo.dreams import DreamRecipe
from iris_edu.zoo.episodes import SPLITS, load_episodes
from iris_edu.zoo.learning import load_learning
from iris_edu.zoo.recipes import RECIPES
from iris_edu.zoo.store import name_of, read_manifest
from iris_edu.zoo.tokenizers import TokenizerRecipe

ROOT = Path(__file__).resolve().parent.parent

DATA = ROOT / "data"

SMALL = PRESETS["small"]


def test_every_name_has_its_files():
    files = {file for name in RECIPES for file in RECIPES[name].files}
    assert files == set(read_manifest(DATA))
    assert all(name_of(file) in RECIPES for file in files)


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


def run(capsys, *tokens):
    "Exit code, output and errors of the command line."
    code = cli.main(list(tokens))
    return code, *capsys.readouterr()


def test_make_alone_lists_every_name_and_its_state(zoo_folder, capsys):
    (zoo_folder / "checkpoints/small.safetensors").write_bytes(b"half")
    code, out, _ = run(capsys, "make")
    lines = {line.split()[1]: line.split()[-1] for line in out.splitlines()}
    assert code == 0 and lines["episodes/Pong.npz"] == "whole"
    assert (
        lines["episodes/Boxing.npz"] == "missing"
        and lines["checkpoints/small.safetensors"] == "damaged"
    )


def test_make_makes_and_mends(zoo_folder, capsys, monkeypatch):
    monkeypatch.setitem(SPLITS, "held-out", SPLITS["held-out"]._replace(steps=30))
    monkeypatch.setitem(SPLITS, "train", SPLITS["train"]._replace(steps=40))
    (zoo_folder / "episodes/Pong.npz").write_bytes(b"half")
    code, out, err = run(capsys, "make", "episodes/Pong")
    assert code == 0 and not err and out.count("whole") == 2
    assert len(load_episodes("Pong")) == 30
    assert load_episodes("Pong", "train").frames.shape == (40, 64, 64, 3)


def test_an_unknown_name_stops_before_anything_is_made(zoo_folder, capsys):
    code, out, err = run(capsys, "make", "episodes/Boxing", "episodes/Pnog")
    assert code == 2 and "did you mean episodes/Pong?" in err and err.count("\n") == 1
    assert not (zoo_folder / "episodes/Boxing.npz").exists()


def test_a_made_tokenizer_carries_its_facts(zoo_folder, monkeypatch):
    monkeypatch.setitem(SPLITS, "train", SPLITS["train"]._replace(steps=40))
    recipes.make("episodes/Pong")
    config = PRESETS["tiny"]
    recipes.make_tokenizer("pong", config, recipe=TokenizerRecipe(2, 2, perceptual_every=0))
    found = load_trained("pong")
    assert (
        found.world_model is None
        and found.facts["updates"] == 2
        and found.facts["command"] == "iris-edu make checkpoints/pong"
    )
    assert 0 < found.facts["held_out"]["error"] < 1 and 0 <= found.facts["held_out"]["ball"] <= 1


def test_a_made_dream_names_its_tokenizer_and_its_errors(zoo_folder, monkeypatch):
    for part in ("train", "held-out"):
        monkeypatch.setitem(SPLITS, part, SPLITS[part]._replace(steps=60))
    recipes.make("episodes/Pong")
    config = PRESETS["tiny"]
    recipes.make_tokenizer("tokens", config, recipe=TokenizerRecipe(2, 2, perceptual_every=0))
    recipes.make_dream("night", "tokens", config, recipe=DreamRecipe(2, 2))
    dream = load_trained("night")
    assert (
        same(dream.tokenizer.state_dict(), load_trained("tokens").tokenizer.state_dict())
        and dream.actor_critic is None
    )
    assert (
        dream.facts["tokenizer"] == "tokens"
        and len(dream.facts["held_out"]["token_error"]["copy"]) == 3
    )
    recipes.make_tokenizer("tokens", config, recipe=TokenizerRecipe(1, 2, perceptual_every=0))
    with pytest.raises(UserError, match="of another tokens"):
        load_trained("night")
    (zoo_folder / "checkpoints/tokens.safetensors").unlink()
    with pytest.raises(UserError, match="There is no data/checkpoints/tokens.safetensors"):
        load_trained("night")


def test_a_made_agent_carries_what_its_run_measured_and_goes_on_where_it_stopped(zoo_folder):
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
    train(config, zoo_folder.parent / "runs/zoo-mini", max_epochs=1)
    recipes.make_agent("mini", config)
    found = load_trained("mini")
    assert (
        found.facts["last"]["epoch"] == 2
        and "evaluate/return" in found.facts["last"]
        and found.facts["versions"]["torch"]
    )
    assert (
        read_manifest()["checkpoints/mini.safetensors"].about
        == "agent for Catch, 2 epochs, 30 steps"
    )
    _, agent = load_run(zoo_folder.parent / "runs/zoo-mini", "cpu")
    assert torch.equal(
        found.agent.actor_critic.state_dict()[(key := next(iter(agent.actor_critic.state_dict())))],
        agent.actor_critic.state_dict()[key].half().float(),
    )


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
        recipes,
        "load_settings",
        lambda: dataclasses.replace(load_settings(), runs=tmp_path / "runs"),
    )
    monkeypatch.setattr(recipes, "evaluate_run", partial(evaluate_run, episodes=2))
    recipes.make_learning("micro", {"seed 0": micro}, folder=tmp_path)
    table = (tmp_path / "learning" / "micro.csv").read_bytes()
    runs = load_learning("micro", tmp_path)
    assert list(runs) == ["seed 0"]
    assert [(row["epoch"], row["episodes"]) for row in runs["seed 0"]] == [(1, 1), (2, 1), (2, 2)]
    recipes.make_learning("micro", {"seed 0": micro}, folder=tmp_path)
    assert (tmp_path / "learning" / "micro.csv").read_bytes() == table

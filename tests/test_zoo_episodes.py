"""Recorded episodes: what the notebook does not show."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from iris_edu.base.settings import UserError
from iris_edu.envs import EnvConfig, make_env
from iris_edu.recordings import load_recording, rebuild
from iris_edu.zoo.episodes import GAMES, SPLITS, episodes_file, load_episodes, record_game

ROOT = Path(__file__).resolve().parent.parent

DATA = ROOT / "data"


@pytest.mark.parametrize("part", SPLITS)
@pytest.mark.parametrize("game", GAMES)
def test_recordings_have_their_length_and_seeds(game, part):
    recording = load_recording(DATA / episodes_file(game, part))
    assert (
        len(recording) == SPLITS[part].steps
        and (recording.frames is not None) == SPLITS[part].frames
    )
    assert recording.seeds.tolist() == list(
        range(SPLITS[part].seed, SPLITS[part].seed + len(recording.seeds))
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
        load_recording(DATA / episodes_file(game, "train")),
        record_game(game, "train", 150),
    )
    assert np.array_equal(again.actions, stored.actions[:150]) and np.array_equal(
        again.rewards, stored.rewards[:150]
    )


def test_without_a_data_folder_the_sentence_names_the_repository(tmp_path, monkeypatch):
    (tmp_path / "settings.ini").write_text("[iris_edu]\nrepository = me/course\ndata = nowhere\n")
    monkeypatch.chdir(tmp_path)
    for load in (lambda: load_episodes("Pong"), lambda: load_episodes("Pong", "train")):
        with pytest.raises(UserError) as error:
            load()
        text = str(error.value)
        assert "github.com/me/course" in text and "\n" not in text and text[-1] in ".?"


def test_nothing_is_pickled():
    for path in (DATA / "episodes").glob("*.npz"):
        with np.load(path, allow_pickle=False) as file:
            assert all(file[name].dtype != object for name in file.files)
    assert not list(DATA.rglob("*.pt")) + list(DATA.rglob("*.pth")) + list(DATA.rglob("*.pkl"))

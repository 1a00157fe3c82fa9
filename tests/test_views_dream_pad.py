"""The pad without a browser: sessions that play again, files that are none, keys, and what the command line says."""

import asyncio
import json
import socket
from types import SimpleNamespace

import ipywidgets
import pytest
import torch

from iris_edu.apps.cli import main
from iris_edu.base.settings import UserError
from iris_edu.views import dream_pad
from iris_edu.views import game as play
from iris_edu.views.dream_pad import DreamPad, Sketching


@pytest.fixture(scope="module")
def played():
    "The shipped agent for Catch, and frames to start from."
    return play.opened("catch-small")


def same(one, other):
    "Whether two observations say the same of all but the picture."
    names = ("reward", "total", "ended", "room")
    return all(getattr(one, name) == getattr(other, name) for name in names)


@pytest.mark.parametrize("dreamt", [True, False])
def test_a_session_plays_again(played, tmp_path, dreamt):
    game = play.Game(*played)
    seen = [game.start(dreamt, frame=3, seed=7)] + [
        game.step(t % 3, 0.5 + 0.1 * t) for t in range(6)
    ]
    play.save_session(game, tmp_path / "one.json")
    _, again = play.load_session(tmp_path / "one.json", *played)
    assert all(same(a, b) for a, b in zip(seen, again, strict=True))
    assert all((a.frame == b.frame).all() for a, b in zip(seen, again))


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(game="Pong"), "session of Pong"),
        (dict(total=99.0), "another model"),
        (dict(frame=10**6), "no frame 1000000"),
        (dict(steps="no"), "it must be a list"),
        (dict(steps=[[0]]), "it must be a list of 2"),
        (dict(steps=[[9, 1.0]]), "the action 9"),
        (dict(steps=[[0, -1.0]]), "it must be greater than 0"),
    ],
)
def test_another_session_is_refused(played, tmp_path, change, says):
    game = play.Game(*played)
    game.start()
    game.step(1)
    play.save_session(game, tmp_path / "one.json")
    kept = json.loads((tmp_path / "one.json").read_text())
    (tmp_path / "one.json").write_text(json.dumps(kept | change))
    with pytest.raises(UserError, match=says):
        play.load_session(tmp_path / "one.json", *played)
    (tmp_path / "one.json").write_bytes(b"\x80")
    with pytest.raises(UserError, match="is damaged .*: save a session with the pad"):
        play.load_session(tmp_path / "one.json", *played)


def test_a_game_that_is_over_stays_over(played):
    game = play.Game(*played)
    game.start(dreamt=False)
    for _ in range(200):
        if game.step(1).ended:
            break
    with pytest.raises(UserError, match="start again"):
        game.step(1)


def test_the_sessions_of_before_play_again(played, tmp_path):
    "Written by the pad of version 0.1, before its game had a module of its own."
    steps = [[action % 3, 1.5 - 0.1 * (action % 4)] for action in range(12)]
    old = dict(game="Catch", dreamt=True, frame=10, seed=3, steps=steps, total=-1.0)
    (tmp_path / "old.json").write_text(json.dumps(old | {"iris_edu": "session"}))
    game, seen = play.load_session(tmp_path / "old.json", *played)
    assert len(seen) == 13 and game.seed == 3 and game.dreamt


def test_the_context_is_refreshed_and_counted(played):
    pad = DreamPad(*played)
    rooms = []
    for _ in range(12):
        if pad.game.now.ended:
            break
        rooms.append(pad.game.now.room)
        pad.controls.step.click()
    later = [*rooms[1:], pad.game.now.room]
    assert pad.round.refreshed == sum(b > a for a, b in zip(rooms, later)) > 0
    assert len(pad.round.frames) == len(pad.game.steps) + 1


def test_a_tap_counts_once_and_nothing_queues(played):
    pad = DreamPad(*played)
    for key in ("ArrowLeft", "ArrowRight", "ArrowLeft"):
        for down in (True, False):
            pad.key({"key": key, "down": down})
    # the last tap, then nothing is held
    assert [pad.round.action(False) for _ in range(3)] == [0, 1, 1]
    pad.key({"key": "ArrowRight", "down": True})
    pad.screen.heard["released"]({})
    pad.round.keyboard.forget()
    assert pad.round.action(False) == 1


def test_without_a_loop_play_says_so(played):
    pad = DreamPad(*played)
    pad.controls.play.click()
    assert pad.voice.wrong and "JupyterLab" in pad.voice.status and not pad.playing


@pytest.mark.parametrize("view", [DreamPad])
def test_no_widget_hides_what_ipywidgets_needs(view):
    needed = {
        "open",
        "close",
        "send",
        "send_state",
        "get_state",
        "set_state",
        "hold_sync",
        "keys",
        "comm",
        "observe",
    }
    own = {
        name
        for kind in view.__mro__
        if kind.__module__.startswith("iris_edu")
        for name in vars(kind)
    }
    assert not needed & own and issubclass(view, ipywidgets.VBox)


def test_a_snapshot_stays_in_the_notebook_and_no_state(played):
    bundle = DreamPad(*played)._repr_mimebundle_()
    assert bundle["image/png"].startswith("iVBOR") and set(bundle) == {
        "text/plain",
        "image/png",
        "application/vnd.jupyter.widget-view+json",
    }


def test_a_port_in_use_is_refused(capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert main(["play", "catch-small", "--port", str(other.getsockname()[1])]) == 2
    assert "in use" in capsys.readouterr().err


def test_who_starts_again_gets_other_dice(played):
    pad = DreamPad(*played)
    first = pad.game.seed
    pad.controls.again.click()
    assert pad.game.seed != first and pad.game.steps == [] and len(pad.round.frames) == 1


@pytest.mark.parametrize(
    "words", [["play", "nobody"], ["play", "catch-small", "--port", "70000"], ["play", "pong-16"]]
)
def test_play_refuses_in_a_sentence(words, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_sketch_changes_the_picture_a_little_and_the_dream_not_at_all(played):
    """Same dice, same actions: the same words, rewards and endings.

    Frames that differ by less than a grey level on average.
    """
    trained, recording = played
    games = [
        play.Game(trained, recording),
        play.Game(trained._replace(tokenizer=Sketching(trained.tokenizer)), recording),
    ]
    for one in games:
        one.start(True, 10)
    for t in range(8):
        exact, sketch = (one.step(t % 3) for one in games)
        tokens = (one.worlds[True].state.tokens for one in games)
        assert same(exact, sketch) and torch.equal(*tokens)
        assert 0 < abs(exact.frame.astype(float) - sketch.frame).mean() < 1


@pytest.mark.parametrize("sketch, taken", [(1.0, True), (1.9, False), (3.0, False)])
def test_the_pad_sketches_only_where_that_is_faster(played, monkeypatch, sketch, taken):
    monkeypatch.setattr(
        dream_pad,
        "side_by_side",
        lambda calls, *args, **options: (
            [call() for call in calls.values()] and {"exact": 2.0, "sketch": sketch}
        ),
    )
    pad = DreamPad(*played)
    assert isinstance(pad.game.trained.tokenizer, Sketching) == taken
    pad.controls.step.click()
    assert len(pad.game.steps) == 1 and not pad.voice.wrong


def test_a_picture_drawn_before_the_first_play_is_no_news(played):
    pad = DreamPad(*played)
    pad.screen.heard["drawn"]({})
    assert not pad.playing and not pad.voice.wrong


def test_the_browser_is_asked_at_every_third_picture(played):
    pad = DreamPad(*played)
    beats = [pad.screen.beat]
    for _ in range(6):
        pad.advance()
        beats.append(pad.screen.beat)
    assert [beat - beats[0] for beat in beats] == [0, 0, 1, 1, 1, 2, 2]


def test_a_key_ends_the_rest_between_two_steps(played):
    """At a picture every ten seconds a key is answered long before the next one is due.

    A key that goes up is not.
    """

    async def play_on():
        pad, steps = DreamPad(*played, rate=1), []
        pad.controls = pad.controls._replace(rate=SimpleNamespace(value=0.1))
        pad.toggle()
        for down in (None, False, True):
            if down is not None:
                pad.key({"key": "ArrowRight", "down": down})
            await asyncio.sleep(0.5)
            steps.append(len(pad.game.steps))
        pad.pause()
        return steps, pad.game.steps[-1][0], pad.voice.wrong

    assert asyncio.run(play_on()) == ([1, 1, 2], 2, False)

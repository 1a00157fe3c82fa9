"""The pad without a browser: sessions that play again, files that are none, keys, and what the command line says."""

import asyncio
import json
import socket
from types import SimpleNamespace

import ipywidgets
import pytest
import torch

from iris_edu import play
from iris_edu.cli import main
from iris_edu.settings import UserError


@pytest.fixture(scope="module")
def catch():
    return play.opened("catch-small")


@pytest.mark.parametrize("dreamt", [True, False])
def test_a_session_plays_again(catch, tmp_path, dreamt):
    game = play.Game(*catch)
    seen = [game.start(dreamt, frame=3, seed=7)] + [
        game.step(t % 3, 0.5 + 0.1 * t) for t in range(6)
    ]
    play.save_session(game, tmp_path / "one.json")
    _, again = play.load_session(tmp_path / "one.json", *catch)
    assert all(
        (a.frame == b.frame).all() and a[1:] == b[1:] for a, b in zip(seen, again, strict=True)
    )


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
def test_another_session_is_refused(catch, tmp_path, change, says):
    game = play.Game(*catch)
    game.start()
    game.step(1)
    play.save_session(game, tmp_path / "one.json")
    kept = json.loads((tmp_path / "one.json").read_text())
    (tmp_path / "one.json").write_text(json.dumps(kept | change))
    with pytest.raises(UserError, match=says):
        play.load_session(tmp_path / "one.json", *catch)
    (tmp_path / "one.json").write_bytes(b"\x80")
    with pytest.raises(UserError, match="is damaged .*: save a session with the pad"):
        play.load_session(tmp_path / "one.json", *catch)


def test_a_game_that_is_over_stays_over(catch):
    game = play.Game(*catch)
    game.start(dreamt=False)
    for _ in range(200):
        if game.step(1).ended:
            break
    with pytest.raises(UserError, match="start again"):
        game.step(1)


def test_the_context_is_refreshed_and_counted(catch):
    pad = play.DreamPad(*catch)
    rooms = []
    for _ in range(12):
        if pad.game.now.ended:
            break
        rooms.append(pad.game.now.room)
        pad.once.click()
    assert (
        pad.refreshed == sum(b > a for a, b in zip(rooms, [*rooms[1:], pad.game.now.room]))
        and len(pad.frames) == len(pad.game.steps) + 1
    )


def test_a_tap_counts_once_and_nothing_queues(catch):
    pad = play.DreamPad(*catch)
    for key in ("ArrowLeft", "ArrowRight", "ArrowLeft"):
        for down in (True, False):
            pad.key({"key": key, "down": down})
    assert [pad.act() for _ in range(3)] == [0, 1, 1]  # the last tap, then nothing is held
    pad.key({"key": "ArrowRight", "down": True})
    pad.screen.heard["released"]({})
    pad.tapped = None
    assert pad.act() == 1


def test_without_a_loop_play_says_so(catch):
    pad = play.DreamPad(*catch)
    pad.go.click()
    assert pad.voice.wrong and "JupyterLab" in pad.voice.status and pad.playing is None


@pytest.mark.parametrize("view", [play.DreamPad])
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


def test_a_snapshot_stays_in_the_notebook_and_no_state(catch):
    bundle = play.DreamPad(*catch)._repr_mimebundle_()
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


def test_who_starts_again_gets_other_dice(catch):
    pad = play.DreamPad(*catch)
    first = pad.game.seed
    pad.again.click()
    assert pad.game.seed != first and pad.game.steps == [] and len(pad.frames) == 1


@pytest.mark.parametrize(
    "words", [["play", "nobody"], ["play", "catch-small", "--port", "70000"], ["play", "pong-16"]]
)
def test_play_refuses_in_a_sentence(words, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_sketch_changes_the_picture_a_little_and_the_dream_not_at_all(catch):
    """Same dice, same actions: the same words, rewards and endings.

    Frames that differ by less than a grey level on average.
    """
    trained, recording = catch
    games = [
        play.Game(trained, recording),
        play.Game(trained._replace(tokenizer=play.Sketching(trained.tokenizer)), recording),
    ]
    for one in games:
        one.start(True, 10)
    for t in range(8):
        exact, sketch = (one.step(t % 3) for one in games)
        assert exact[1:] == sketch[1:] and torch.equal(games[0].state.tokens, games[1].state.tokens)
        assert 0 < abs(exact.frame.astype(float) - sketch.frame).mean() < 1


@pytest.mark.parametrize("sketch, taken", [(1.0, True), (1.9, False), (3.0, False)])
def test_the_pad_sketches_only_where_that_is_faster(catch, monkeypatch, sketch, taken):
    monkeypatch.setattr(
        play,
        "side_by_side",
        lambda calls, *args, **options: (
            [call() for call in calls.values()] and {"exact": 2.0, "sketch": sketch}
        ),
    )
    pad = play.DreamPad(*catch)
    assert isinstance(pad.game.trained.tokenizer, play.Sketching) == taken
    pad.once.click()
    assert len(pad.game.steps) == 1 and not pad.voice.wrong


def test_a_picture_drawn_before_the_first_play_is_no_news(catch):
    pad = play.DreamPad(*catch)
    pad.screen.heard["drawn"]({})
    assert pad.playing is None and not pad.voice.wrong


def test_the_browser_is_asked_at_every_third_picture(catch):
    pad = play.DreamPad(*catch)
    beats = [pad.screen.beat]
    for _ in range(6):
        pad.advance()
        beats.append(pad.screen.beat)
    assert [beat - beats[0] for beat in beats] == [0, 0, 1, 1, 1, 2, 2]


def test_a_key_ends_the_rest_between_two_steps(catch):
    """At a picture every ten seconds a key is answered long before the next one is due.

    A key that goes up is not.
    """

    async def play_on():
        pad, steps = play.DreamPad(*catch, rate=1), []
        pad.rate = SimpleNamespace(value=0.1)
        pad.toggle()
        for down in (None, False, True):
            if down is not None:
                pad.key({"key": "ArrowRight", "down": down})
            await asyncio.sleep(0.5)
            steps.append(len(pad.game.steps))
        pad.pause()
        return steps, pad.game.steps[-1][0], pad.voice.wrong

    assert asyncio.run(play_on()) == ([1, 1, 2], 2, False)

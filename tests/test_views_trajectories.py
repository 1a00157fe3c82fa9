"""Games as trajectories, read and dreamt, without a widget."""

import numpy as np
import pytest
import torch

from iris_edu.base.settings import UserError
from iris_edu.recordings import Recording
from iris_edu.views import trajectories as t


def blank(ends, length=10):
    "A recording without pictures whose games end at these steps."
    ended = np.isin(np.arange(length), ends)
    return Recording(
        np.zeros(1, int),
        np.zeros(1, int),
        np.zeros(length, int),
        np.zeros(length, np.float32),
        ended,
        ended & False,
    )


def equal(one, other):
    "Whether two trajectories without frames hold the same."
    names = ("tokens", "actions", "rewards", "dones")
    return all(getattr(one, name).equal(getattr(other, name)) for name in names)


def lengths(game):
    return [column.shape[1] for column in (game.tokens, game.actions, game.rewards, game.dones)]


@pytest.mark.parametrize(
    "step, part", [(0, (0, 3)), (3, (0, 3)), (4, (4, 6)), (6, (4, 6)), (7, (7, 9)), (9, (7, 9))]
)
def test_a_life_lies_between_endings(step, part):
    assert t.episode_bounds(blank([3, 6]), step) == part


def test_steps_outside_a_recording_are_refused():
    for step in (-1, 10):
        with pytest.raises(UserError, match="0 to 9"):
            t.episode_bounds(blank([3]), step)


def test_a_game_is_cut_and_goes_on(catch, fall):
    game = t.read_trajectory(catch.tokenizer, fall, 4, 9)
    assert lengths(t.cut(game, 2)) == [2, 1, 1, 1]
    held = torch.tensor([[0, 0, 0], [2, 2, 2]])
    futures = t.futures_of(catch.dream, game, held, 2, 3)
    longer = t.joined(game, t.cut(futures, 3, which=1))
    assert lengths(longer) == [8, 7, 7, 7]
    assert longer.tokens[0, -1].equal(futures.tokens[1, 2])
    assert longer.actions[0, -2:].tolist() == [2, 2]


def test_the_same_seed_gives_the_same_dream(catch, fall):
    game = t.read_trajectory(catch.tokenizer, fall, 4, 9)

    def dream(seed):
        return t.futures_of(catch.dream, game, t.random_actions(6, 5, 3, seed), 6, 5, seed)

    assert equal(dream(0), dream(0)) and not dream(0).tokens.equal(dream(1).tokens)


def test_futures_begin_where_the_game_stands(catch, fall):
    game = t.read_trajectory(catch.tokenizer, fall, 4, 4)
    futures = t.futures_of(catch.dream, game, t.random_actions(3, 2, 3), 3, 2)
    assert futures.tokens[:, 0].equal(game.tokens[0].expand(3, -1)) and futures.frames is None


def test_branching_leaves_the_game_alone(catch, fall):
    game = t.read_trajectory(catch.tokenizer, fall, 4, 9)
    before = t.cut(game, 6)
    before = before._replace(tokens=game.tokens.clone(), actions=game.actions.clone())
    for _ in range(2):
        t.futures_of(catch.dream, game, t.random_actions(4, 6, 3), 4, 6)
    assert equal(before, game)


def test_a_cached_decoder_decodes_each_picture_once(catch, fall):
    decoded = []

    class Counting:
        def decode(self, tokens):
            decoded.append(len(tokens))
            return catch.tokenizer.decode(tokens)

    game = t.read_trajectory(catch.tokenizer, fall, 4, 9)
    decode = t.cached_decoder(Counting())
    assert decode(torch.cat([game.tokens, game.tokens], 1)).shape[:2] == (1, 12)
    torch.testing.assert_close(
        decode(game.tokens), catch.tokenizer.decode(game.tokens).detach(), atol=1e-5, rtol=0
    )
    assert sum(decoded) == len(game.tokens[0].unique(dim=0))


def test_events_in_words():
    assert [t.event(*what) for what in ((0, False), (1.0, False), (-1.0, True), (0, True))] == [
        "",
        "+1",
        "-1 end",
        "end",
    ]
    assert t.events(torch.tensor([0.0, 1.0]), torch.tensor([False, True])) == ["", "", "+1 end"]


def test_a_border_does_not_change_the_frame():
    frame = torch.rand(3, 64, 64)
    bordered = t.framed(frame, t.GAIN)
    assert tuple(bordered[0, 0]) == t.rgb(t.GAIN) == tuple(bordered[-1, -1])
    assert (bordered[2:-2, 2:-2] == t.framed(frame)[2:-2, 2:-2]).all()


def test_the_values_of_futures_are_the_policys_own(catch, fall):
    game, decode = t.read_trajectory(catch.tokenizer, fall, 6, 9), t.cached_decoder(catch.tokenizer)
    policy = catch.actor_critic
    output = t.policy_output(policy, decode, game)
    acting = t.policy_actions(policy, decode, output, 2)
    futures = t.futures_of(catch.dream, game, acting, 2, 3)
    found = t.future_values(policy, decode, output, futures)
    longer = t.joined(game, t.cut(futures, 4, which=1))
    with torch.no_grad():
        _, values, _ = policy.unroll(decode(longer.tokens), policy.initial_state(1))
    torch.testing.assert_close(
        values[0, -4:], torch.cat([torch.tensor([output.value]), found[1]]), atol=1e-4, rtol=0
    )


def test_a_policy_of_tokens_reads_them_and_nothing_is_decoded(catch, fall):
    class Reader:
        reads = "tokens"

    def decode(tokens):
        raise AssertionError("decoded")

    tokens = t.read_trajectory(catch.tokenizer, fall, 6, 9).tokens
    assert t.policy_input(Reader(), decode, tokens) is tokens

"""The world model: sizes of the paper, labels against brute force, and dreaming equal to the full pass."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from iris_edu.base.settings import UserError
from iris_edu.transformer import TransformerConfig
from iris_edu.world_model import (
    FrameActionLayout,
    Heads,
    Prediction,
    WorldModel,
    WorldModelConfig,
    parameter_groups,
    sample_categorical,
)

N, A, STEPS = 11, 3, 5
SMALL = TransformerConfig(layers=2, heads=2, width=16)


def build(tokens_per_frame=4, reward="sign", **parts):
    "A small world model with weights large enough that every token matters."
    torch.manual_seed(0)
    model = WorldModel(
        WorldModelConfig(STEPS, reward), SMALL, N, A, tokens_per_frame, **parts
    ).eval()
    for p in model.parameters():
        p.data.add_(0.2 * torch.randn_like(p))
    return model


def segment(batch=2, steps=STEPS, tokens_per_frame=4):
    "Random tokens, actions, rewards, dones and a full mask."
    return (
        torch.randint(N, (batch, steps, tokens_per_frame)),
        torch.randint(A, (batch, steps)),
        torch.randn(batch, steps).mul(2).round(),
        torch.rand(batch, steps) < 0.3,
        torch.ones(batch, steps).bool(),
    )


@pytest.mark.parametrize("actions,expected", [(4, 8_447_493), (18, 8_451_077)])
def test_sizes_of_the_paper(actions, expected):
    model = WorldModel(WorldModelConfig(), TransformerConfig(), 512, actions, 16)
    assert sum(p.numel() for p in model.parameters()) == expected
    assert model.transformer.context == 340


def test_weight_decay_groups():
    model = WorldModel(WorldModelConfig(), TransformerConfig(), 512, 4, 16)
    decayed, free = parameter_groups(model, 0.01)
    assert (len(decayed["params"]), len(free["params"])) == (66, 111)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.01, 0)
    assert {p.ndim for p in decayed["params"]} == {2}
    assert {id(p) for g in (decayed, free) for p in g["params"]} == {
        id(p) for p in model.parameters()
    }


def test_frozen_parameters_are_not_optimised():
    model = build()
    model.layout.token_table.weight.requires_grad_(False)
    groups = parameter_groups(model, 0.01)
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters())) - 1


@settings(max_examples=40, deadline=None)
@given(st.integers(1, STEPS), st.integers(1, 5), st.data())
def test_labels_against_brute_force(steps, per_frame, data):
    layout = FrameActionLayout(WorldModelConfig(STEPS), 8, N, A, per_frame)
    tokens = torch.randint(N, (1, steps, per_frame))
    real = data.draw(st.integers(0, steps))
    mask = torch.arange(steps)[None] < real
    # k = per_frame is the action
    sequence = [(t, k) for t in range(steps) for k in range(per_frame + 1)]
    expected = []
    for (_, k), after in zip(sequence, sequence[1:] + [None]):
        if k == per_frame - 1:
            continue  # the action follows: nothing to predict
        expected.append(-100 if after is None or after[0] >= real else tokens[0][after].item())
    assert layout.labels(tokens, mask)[0].tolist() == expected
    positions = [i for i, (t, k) in enumerate(sequence) if k != per_frame - 1]
    assert layout.token_positions(steps).tolist() == positions
    assert layout.action_positions(steps).tolist() == [
        i for i, (t, k) in enumerate(sequence) if k == per_frame
    ]


def test_interleaving():
    layout = FrameActionLayout(WorldModelConfig(STEPS), 8, N, A, 4)
    tokens, actions, *_ = segment()
    x = layout.interleave(tokens, actions)
    assert x.shape == (2, layout.context, 8)
    assert torch.equal(x[:, 5:9], layout.token_table(tokens[:, 1]))
    assert torch.equal(x[:, 9], layout.action_table(actions[:, 1]))
    assert torch.equal(layout.interleave(tokens, actions[:, :-1]), x[:, :-1])


@pytest.mark.parametrize(
    "tokens,actions", [((2, 3, 5), (2, 3)), ((2, 3, 4), (2, 4)), ((2, 3, 4), (2, 1))]
)
def test_shapes_that_do_not_interleave(tokens, actions):
    layout = FrameActionLayout(WorldModelConfig(STEPS), 8, N, A, 4)
    with pytest.raises(UserError, match="do not interleave"):
        layout.interleave(
            torch.zeros(tokens, dtype=torch.long), torch.zeros(actions, dtype=torch.long)
        )


def test_loss_against_brute_force():
    "Every prediction of every real position, one by one."
    model, (tokens, actions, rewards, dones, mask) = build(), segment()
    mask[1, 3:] = False
    logits, reward, ending = model(tokens, actions)
    terms = dict(transition=[], reward=[], ending=[])
    for b, t in mask.nonzero().tolist():
        terms["reward"].append(F.cross_entropy(reward[b, t], rewards[b, t].sign().long() + 1))
        terms["ending"].append(F.cross_entropy(ending[b, t], dones[b, t].long()))
        for k in range(4):
            if (t, k) == (0, 0):
                continue
            terms["transition"].append(F.cross_entropy(logits[b, t * 4 + k - 1], tokens[b, t, k]))
    losses = model.loss(tokens, actions, rewards, dones, mask)
    for name, parts in terms.items():
        assert_close(losses[name], torch.stack(parts).mean())


@pytest.mark.parametrize("reward", ["sign", "mse"])
def test_padding_changes_nothing(reward):
    model, (tokens, actions, rewards, dones, mask) = build(reward=reward), segment()
    mask[:, 3:] = False
    losses = model.loss(tokens, actions, rewards, dones, mask)
    tokens[:, 3:], actions[:, 3:], rewards[:, 3:], dones[:, 3:] = 0, 0, 7.0, True
    for name, value in model.loss(tokens, actions, rewards, dones, mask).items():
        assert_close(value, losses[name])
    short = model.loss(tokens[:, :3], actions[:, :3], rewards[:, :3], dones[:, :3], mask[:, :3])
    for name, value in short.items():
        assert_close(value, losses[name])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, STEPS))
def test_dreaming_equals_the_full_pass(per_frame, history):
    "begin, act, extend and finish say what one pass over the interleaved sequence says."
    model, (tokens, actions, *_) = build(per_frame), segment(tokens_per_frame=per_frame)
    with torch.no_grad():
        logits, reward, ending = model(tokens, actions)

    def close(a, b):
        return assert_close(a, b, atol=1e-5, rtol=0)

    memory = model.begin(tokens[:, :history], actions[:, : history - 1])
    for t in range(history - 1, STEPS):
        assert model.room(memory) == STEPS - t
        memory, out = model.act(memory, actions[:, t])
        close(out.reward, reward[:, t])
        close(out.ending, ending[:, t])
        close(out.token, logits[:, (t + 1) * per_frame - 1])
        if t == STEPS - 1:
            break
        for k in range(per_frame - 1):
            memory, out = model.extend(memory, tokens[:, t + 1, k])
            close(out, logits[:, (t + 1) * per_frame + k])
        memory = model.finish(memory, tokens[:, t + 1, -1])
    assert model.room(memory) == 0
    with pytest.raises(UserError, match="more do not fit"):
        model.act(memory, actions[:, 0])


def test_sixteen_passes_a_frame():
    """One for the pending token with the action, fifteen for the first fifteen tokens.

    The sixteenth waits.
    """
    model, calls = build(16), []
    model.transformer.register_forward_hook(lambda *_: calls.append(1))
    memory = model.begin(torch.randint(N, (1, 1, 16)))
    assert len(calls) == 1
    for _ in range(3):
        calls.clear()
        memory, _ = model.act(memory, torch.zeros(1, dtype=torch.long))
        for token in torch.randint(N, (15, 1)):
            memory, _ = model.extend(memory, token)
        memory = model.finish(memory, torch.randint(N, (1,)))
        assert len(calls) == 16


def test_dreams_leave_no_graph():
    model, (tokens, actions, *_) = build(), segment()
    memory, out = model.act(model.begin(tokens[:, :1]), actions[:, 0])
    assert not any(x.requires_grad for x in (*out, *memory.cache.keys, *memory.cache.values))


def test_mse_predicts_the_value():
    model, (tokens, actions, rewards, dones, mask) = build(reward="mse"), segment()
    out = model(tokens, actions)[1]
    assert out.shape == (2, STEPS, 1)
    assert_close(
        model.loss(tokens, actions, rewards, dones, mask)["reward"],
        F.mse_loss(out[..., 0], rewards),
    )
    _, prediction = model.act(model.begin(tokens[:, :1]), actions[:, 0])
    assert torch.equal(model.sample_reward(prediction, torch.Generator()), prediction.reward[:, 0])


def test_samples_follow_the_distribution():
    model, generator = build(), torch.Generator().manual_seed(0)
    logits, end = torch.tensor([0.2, 0.5, 0.3]).log(), torch.tensor([0.9, 0.1]).log()
    prediction = Prediction(logits.expand(20_000, 3), end.expand(20_000, 2), None)
    rewards, dones = (
        model.sample_reward(prediction, generator),
        model.sample_ending(prediction, generator),
    )
    counts = torch.stack([(rewards == r).float().mean() for r in (-1, 0, 1)])
    assert_close(counts, torch.tensor([0.2, 0.5, 0.3]), atol=0.02, rtol=0)
    assert (
        rewards.dtype == torch.float32
        and dones.dtype == torch.bool
        and abs(dones.float().mean() - 0.1) < 0.01
    )


def test_samples_are_seeded_and_never_impossible():
    logits = torch.tensor([0.0, -torch.inf, 0.0]).expand(10_000, 3)
    draws = [sample_categorical(logits, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draws) and set(draws[0].unique().tolist()) == {0, 2}


@pytest.mark.parametrize("bad", [dict(steps=0), dict(reward="clip")])
def test_bad_configurations(bad):
    with pytest.raises(UserError):
        WorldModelConfig(**bad)


class RecurrentModel(nn.Module):
    """A GRU that reads one token or action at a time.

    Its memory is the hidden state, so that there is always room.
    """

    def __init__(self, width, vocabulary, actions):
        super().__init__()
        self.embed, self.cell = (
            nn.Embedding(vocabulary + actions, width),
            nn.GRU(width, width, batch_first=True),
        )
        self.heads, self.vocabulary = Heads(WorldModelConfig(), width, vocabulary), vocabulary

    def read(self, state, ids):
        y, state = self.cell(self.embed(ids), state)
        return state, y[:, -1]

    def begin(self, tokens, actions=None):
        actions = tokens.new_zeros(len(tokens), 0) if actions is None else actions
        ids = torch.cat([tokens, F.pad(actions + self.vocabulary, (0, 1))[..., None]], 2).flatten(1)
        return self.read(None, ids[:, :-1])[:1]

    def act(self, memory, action):
        state, y = self.read(memory[0], action[:, None] + self.vocabulary)
        return (state,), Prediction(
            self.heads.rewards(y), self.heads.endings(y), self.heads.tokens(y)
        )

    def extend(self, memory, token):
        state, y = self.read(memory[0], token[:, None])
        return (state,), self.heads.tokens(y)

    def finish(self, memory, last_token):
        return self.read(memory[0], last_token[:, None])[:1]

    def room(self, memory):
        return 10**9

    sample_reward, sample_ending = WorldModel.sample_reward, WorldModel.sample_ending


@torch.no_grad()
def dream(model, tokens, actions, generator):
    """Written against the protocol DynamicsModel alone.

    Rewards (B, T), dones (B, T), last frame (B, K).
    """
    memory, rewards, dones = model.begin(tokens), [], []
    for action in actions.unbind(1):
        memory, out = model.act(memory, action)
        rewards.append(model.sample_reward(out, generator))
        dones.append(model.sample_ending(out, generator))
        frame = [sample_categorical(out.token, generator)]
        for _ in range(tokens.shape[2] - 1):
            memory, logits = model.extend(memory, frame[-1])
            frame.append(sample_categorical(logits, generator))
        memory = model.finish(memory, frame[-1])
    return torch.stack(rewards, 1), torch.stack(dones, 1), torch.stack(frame, 1)


@pytest.mark.parametrize("model", [build(), RecurrentModel(16, N, A)], ids=["Transformer", "GRU"])
def test_one_dream_for_any_dynamics_model(model):
    tokens, actions, *_ = segment(steps=3)
    rewards, dones, frame = dream(model, tokens[:, :1], actions, torch.Generator().manual_seed(0))
    assert rewards.shape == dones.shape == (2, 3) and frame.shape == (2, 4)
    again = dream(model, tokens[:, :1], actions, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(again, (rewards, dones, frame)))

"""What chapter 08 cannot show: sizes of the paper, brute-force returns, gradients step by step, masks."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iris_edu.actor_critic import (
    ActorCritic,
    ActorCriticConfig,
    actor_critic_loss,
    burn_in,
    counted_steps,
    lambda_returns,
    sample_actions,
    squared_error,
)
from iris_edu.base.settings import UserError
from iris_edu.imagination import Rollout

TINY = ActorCriticConfig(channels=(4, 8), hidden=16, burn_in=3, horizon=6)


def tiny_policy(seed=0, actions=3):
    torch.manual_seed(seed)
    return ActorCritic(TINY, actions=actions, size=16)


def tiny_rollout(policy, batch=4, horizon=6, seed=1, end_rate=0.2):
    g = torch.Generator().manual_seed(seed)
    dones = torch.rand(batch, horizon - 1, generator=g) < end_rate
    return Rollout(
        frames=torch.rand(batch, horizon, 3, 16, 16, generator=g),
        tokens=torch.zeros(batch, horizon, 4, dtype=torch.int64),
        actions=torch.randint(0, 3, (batch, horizon - 1), generator=g),
        rewards=torch.randint(-1, 2, (batch, horizon - 1), generator=g).float(),
        dones=dones,
        policy_state=tuple(torch.rand(batch, 16, generator=g) for _ in range(2)),
    )


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("actions, parameters", [(4, 3_217_957), (18, 3_225_139)])
def test_parameters_of_the_paper(actions, parameters):
    assert count(ActorCritic(ActorCriticConfig(), actions)) == parameters


# --- returns


def n_step(rewards, values, dones, discount, start, n):
    """Sum of n discounted rewards from `start`, then the value.

    An ending cuts everything after it. Plain floats.
    """
    total, factor = 0.0, 1.0
    for t in range(start, start + n):
        total += factor * rewards[t]
        if dones[t]:
            return total
        factor *= discount
    return total + factor * values[start + n]


def mixture(rewards, values, dones, discount, lam):
    "λ-returns by their meaning: a weighted mean of all n-step returns up to the end of the data."
    steps = len(rewards)
    out = []
    for t in range(steps):
        left = steps - t
        weights = [(1 - lam) * lam ** (n - 1) for n in range(1, left)] + [lam ** (left - 1)]
        out.append(
            sum(
                w * n_step(rewards, values, dones, discount, t, n + 1)
                for n, w in enumerate(weights)
            )
        )
    return out


@st.composite
def trajectories(draw):
    steps = draw(st.integers(1, 12))
    numbers = st.floats(-5, 5, width=32)
    return (
        draw(st.lists(numbers, min_size=steps, max_size=steps)),
        draw(st.lists(numbers, min_size=steps + 1, max_size=steps + 1)),
        draw(st.lists(st.booleans(), min_size=steps, max_size=steps)),
        draw(st.floats(0, 1)),
        draw(st.floats(0, 1)),
    )


@settings(max_examples=200, deadline=None)
@given(trajectories())
def test_lambda_returns_are_the_mixture_of_n_step_returns(trajectory):
    rewards, values, dones, discount, lam = trajectory
    got = lambda_returns(
        torch.tensor([rewards]).double(),
        torch.tensor([values]).double(),
        torch.tensor([dones]),
        discount,
        lam,
    )
    want = torch.tensor([mixture(*trajectory)], dtype=torch.float64)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def test_lambda_returns_at_the_paper_horizon_in_single_precision():
    g = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(64, 19, generator=g), torch.randn(64, 20, generator=g)
    dones = torch.rand(64, 19, generator=g) < 0.1
    target = values[:, -1]
    want = []
    for t in reversed(range(19)):
        target = rewards[:, t] + 0.995 * ~dones[:, t] * (0.05 * values[:, t + 1] + 0.95 * target)
        want.append(target)
    torch.testing.assert_close(
        lambda_returns(rewards, values, dones, 0.995, 0.95),
        torch.stack(want[::-1], 1),
        rtol=1e-5,
        atol=1e-5,
    )


def test_returns_need_one_value_more_than_rewards():
    with pytest.raises(UserError, match="bootstrap"):
        lambda_returns(
            torch.zeros(2, 5), torch.zeros(2, 5), torch.zeros(2, 5, dtype=torch.bool), 0.9, 0.9
        )


def test_returns_leave_their_inputs_alone_and_carry_no_gradient():
    rewards, values = torch.ones(2, 5), torch.ones(2, 6, requires_grad=True)
    out = lambda_returns(rewards, values, torch.zeros(2, 5, dtype=torch.bool), 0.9, 0.9)
    assert not out.requires_grad and rewards.eq(1).all()


# --- losses


def step_by_step_loss(policy, rollout, config):
    "Equations 5 and 6 with loops over samples and time, one frame at a time through the network."
    batch, steps = rollout.actions.shape
    terms, counted = [], 0
    for b in range(batch):
        state = tuple(s[b : b + 1] for s in rollout.policy_state)
        log_probs, values = [], []
        for t in range(steps + 1):
            logits, value, state = policy(rollout.frames[b : b + 1, t], state)
            log_probs.append(logits[0].log_softmax(-1))
            values.append(value[0])
        plain = [v.item() for v in values]
        targets = mixture(
            rollout.rewards[b].tolist(),
            plain,
            rollout.dones[b].tolist(),
            config.discount,
            config.lam,
        )
        for t in range(steps):
            entropy = -(log_probs[t].exp() * log_probs[t]).sum()
            advantage = targets[t] - plain[t]
            terms.append(
                -log_probs[t][rollout.actions[b, t]] * advantage
                - config.entropy * entropy
                + (values[t] - targets[t]) ** 2
            )
            counted += 1
            if rollout.dones[b, t] and not config.count_after_end:
                break
    return torch.stack(terms).sum() / counted


def gradients(policy, loss):
    policy.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in policy.parameters()]


@pytest.mark.parametrize("count_after_end", [True, False])
def test_gradient_equals_the_step_by_step_gradient(count_after_end):
    policy, config = (
        tiny_policy(),
        dataclasses.replace(TINY, entropy=0.01, count_after_end=count_after_end),
    )
    rollout = tiny_rollout(policy)
    fast = gradients(policy, sum(actor_critic_loss(policy, rollout, config).values()))
    slow = gradients(policy, step_by_step_loss(policy, rollout, config))
    for a, b in zip(fast, slow):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_the_actor_term_does_not_train_the_critic_and_the_other_way_round():
    policy = tiny_policy()
    losses = actor_critic_loss(policy, tiny_rollout(policy), TINY)
    heads = [policy.actor.weight, policy.critic.weight]
    from_actions = torch.autograd.grad(
        losses["actions"], heads, retain_graph=True, allow_unused=True
    )
    from_values = torch.autograd.grad(losses["values"], heads, allow_unused=True)
    assert from_actions[1] is None or from_actions[1].abs().max() == 0
    assert from_values[0] is None or from_values[0].abs().max() == 0


class Absolute(ActorCritic):
    "A critic with a loss of its own."

    def value_loss(self, values, targets):
        return (values - targets).abs()


def test_the_value_loss_belongs_to_the_policy():
    plain, rollout = tiny_policy(), tiny_rollout(None)
    other = Absolute(TINY, actions=3, size=16)
    other.load_state_dict(plain.state_dict())
    squared, absolute = (actor_critic_loss(p, rollout, TINY) for p in (plain, other))
    assert squared["actions"] == absolute["actions"] and squared["entropy"] == absolute["entropy"]
    with torch.no_grad():
        _, values, _ = plain.unroll(rollout.frames, rollout.policy_state)
    targets = lambda_returns(rollout.rewards, values, rollout.dones, TINY.discount, TINY.lam)
    errors = values[:, :-1] - targets
    torch.testing.assert_close(squared["values"], errors.square().mean())
    torch.testing.assert_close(absolute["values"], errors.abs().mean())
    assert squared_error(values[:, :-1], targets).equal(errors**2)


class TokenPolicy(torch.nn.Module):
    "A policy without memory that reads tokens and has no value_loss: one row of numbers a token."

    reads = "tokens"

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(8, 3)

    def unroll(self, tokens, state, mask=None):
        logits = self.table(tokens).mean(2)
        return logits, logits.sum(-1), state


def test_a_policy_learns_from_tokens_alone():
    torch.manual_seed(0)
    policy, rollout = TokenPolicy(), tiny_rollout(None)._replace(frames=None)
    sum(actor_critic_loss(policy, rollout, TINY).values()).backward()
    assert policy.table.weight.grad.abs().sum() > 0


def spoil_after_end(rollout):
    """Change every reward and action after the first ending, but no frame (the network still reads
    frames in order).
    """
    after = counted_steps(rollout.dones, False) == 0
    assert after.any()
    return rollout._replace(
        rewards=torch.where(after, rollout.rewards + 7, rollout.rewards),
        actions=torch.where(after, (rollout.actions + 1) % 3, rollout.actions),
    )


@pytest.mark.parametrize("count_after_end, changed", [(True, True), (False, False)])
def test_steps_after_an_imagined_end(count_after_end, changed):
    policy, config = tiny_policy(), dataclasses.replace(TINY, count_after_end=count_after_end)
    rollout = tiny_rollout(policy, batch=8, end_rate=0.3)
    plain, spoiled = (
        actor_critic_loss(policy, r, config) for r in (rollout, spoil_after_end(rollout))
    )
    assert (abs(plain["values"] - spoiled["values"]) > 1e-3) == changed
    assert (abs(plain["actions"] - spoiled["actions"]) > 1e-4) == changed


def test_counted_steps_keep_the_step_that_ends():
    dones = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)
    assert counted_steps(dones, False).tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    assert counted_steps(dones, True).all()


def test_losses_stay_finite_under_autocast():
    policy = tiny_policy()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = actor_critic_loss(policy, tiny_rollout(policy), TINY)
    assert all(v.isfinite() and v.dtype == torch.float32 and v.ndim == 0 for v in losses.values())


# --- recurrence


def test_mixed_precision_keeps_the_state_in_full_precision():
    policy, frames = tiny_policy(), torch.rand(2, 5, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        logits, _, (h, c) = policy.unroll(frames, policy.initial_state(2))
    assert logits.dtype == torch.bfloat16 and h.dtype == c.dtype == torch.float32
    assert not torch.equal(c, c.bfloat16().float())  # it holds more than half precision can


def test_unroll_equals_one_step_at_a_time():
    policy, frames = tiny_policy(), torch.rand(2, 5, 3, 16, 16)
    logits, values, last = policy.unroll(frames, policy.initial_state(2))
    state = policy.initial_state(2)
    for t in range(5):
        now, value, state = policy(frames[:, t], state)
        torch.testing.assert_close(now, logits[:, t])
        torch.testing.assert_close(value, values[:, t])
    torch.testing.assert_close(state, last)


def test_padding_is_as_if_it_were_not_there():
    policy, frames = tiny_policy(), torch.rand(1, 5, 3, 16, 16)
    mask = torch.tensor([[False, False, True, True, True]])
    torch.testing.assert_close(burn_in(policy, frames, mask), burn_in(policy, frames[:, 2:]))
    spoiled = torch.where(mask[..., None, None, None], frames, torch.rand_like(frames))
    torch.testing.assert_close(
        burn_in(policy, spoiled, mask), burn_in(policy, frames, mask), rtol=0, atol=0
    )


def test_a_history_of_nothing_leaves_the_initial_state():
    policy, frames = tiny_policy(), torch.rand(2, 4, 3, 16, 16)
    for state in (
        burn_in(policy, frames, torch.zeros(2, 4, dtype=torch.bool)),
        burn_in(policy, frames[:, :0]),
    ):
        assert all(s.eq(0).all() for s in state)


def test_burn_in_needs_no_gradient():
    policy = tiny_policy()
    assert not any(s.requires_grad for s in burn_in(policy, torch.rand(2, 4, 3, 16, 16)))


# --- the rest


def test_sampled_actions_follow_the_temperature():
    logits, g = torch.tensor([[2.0, 0.0, -2.0]]).expand(20_000, 3), torch.Generator().manual_seed(0)
    for temperature in (0.5, 1.0, 4.0):
        share = sample_actions(logits, g, temperature).bincount(minlength=3) / len(logits)
        torch.testing.assert_close(share, (logits[0] / temperature).softmax(-1), rtol=0, atol=0.02)
    assert sample_actions(logits, g, 0.0).eq(0).all()


@pytest.mark.parametrize(
    "bad",
    [
        dict(lam=1.5),
        dict(discount=-0.1),
        dict(horizon=1),
        dict(burn_in=-1),
        dict(channels=()),
        dict(hidden=0),
    ],
)
def test_bad_configurations(bad):
    with pytest.raises(UserError):
        ActorCriticConfig(**bad)


def test_bad_input():
    with pytest.raises(UserError, match="halved"):
        ActorCritic(ActorCriticConfig(), actions=4, size=40)
    policy = tiny_policy()
    with pytest.raises(UserError, match="to_float"):
        policy(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), policy.initial_state(1))
    with pytest.raises(UserError, match="temperature"):
        sample_actions(torch.zeros(1, 3), torch.Generator(), -1.0)

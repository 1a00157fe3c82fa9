"""What chapter 07 cannot show: exact distributions, counted passes, refresh steps, seeds, gradients."""

import pytest
import torch
from torch import nn

from iris_edu.actor_critic import ActorCritic, ActorCriticConfig
from iris_edu.base.settings import UserError
from iris_edu.imagination import (
    CategoricalSampler,
    Dream,
    DreamEnv,
    ImaginationConfig,
    imagine,
    rollout,
)
from iris_edu.transformer import TransformerConfig
from iris_edu.world_model import WorldModel, WorldModelConfig

K, N, A = 4, 8, 3


class PatchTokenizer(nn.Module):
    "A lossy stand-in: one token per quarter of an 8×8 picture, its brightness in N levels."

    vocabulary, tokens_per_frame = N, K

    def encode(self, frames):
        return (
            (nn.functional.avg_pool2d(frames.mean(-3, keepdim=True), 4).flatten(-3) * N)
            .long()
            .clamp(max=N - 1)
        )

    def decode(self, tokens):
        grey = (tokens.unflatten(-1, (1, 2, 2)).float() + 0.5) / N
        return (
            grey.repeat_interleave(4, -1)
            .repeat_interleave(4, -2)
            .expand(*tokens.shape[:-1], 3, 8, 8)
        )


def make_world_model(steps=5, seed=0):
    torch.manual_seed(seed)
    model = WorldModel(
        WorldModelConfig(steps=steps), TransformerConfig(layers=2, heads=2, width=16), N, A, K
    ).eval()
    with torch.no_grad():
        # at the initial scale all logits are near zero: make them matter
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.ndim > 1 else 1)
    return model


def make_dream(steps=5, **options):
    return Dream(
        PatchTokenizer().eval(), make_world_model(steps), config=ImaginationConfig(**options)
    )


def make_policy():
    torch.manual_seed(0)
    return ActorCritic(ActorCriticConfig(channels=(4,), hidden=8), actions=A, size=8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def real_frames(batch=3, seed=0):
    return torch.rand(batch, 3, 8, 8, generator=generator(seed))


def columns(trajectory):
    "Its tensors, without the policy's state."
    return [part for part in trajectory._replace(policy_state=None) if part is not None]


def same(first, second):
    "Whether two trajectories are equal bit for bit."
    return all(a.equal(b) for a, b in zip(columns(first), columns(second), strict=True))


def count_calls(model, names, log):
    "Append the name to the log whenever one of the model's methods is called."
    for name in names:

        def counted(*args, _call=getattr(model, name), _name=name):
            log.append(_name)
            return _call(*args)

        setattr(model, name, counted)


# --- the sampler


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sampler_distribution_chi_squared(temperature):
    logits, draws = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5, -0.5]), 60_000
    tokens = CategoricalSampler(ImaginationConfig(temperature=temperature))(
        logits.expand(draws, -1), generator(1)
    )
    expected = draws * (logits / temperature).softmax(-1)
    statistic = ((tokens.bincount(minlength=6) - expected) ** 2 / expected).sum()
    assert statistic < 20.5  # chi-squared, 5 degrees of freedom: exceeded once in a thousand seeds


def test_top_k_keeps_the_k_best_in_their_proportions():
    logits = torch.tensor([0.0, 3.0, 1.0, 2.0, -1.0]).expand(40_000, -1)
    tokens = CategoricalSampler(ImaginationConfig(top_k=2))(logits, generator())
    share = tokens.bincount(minlength=5) / len(tokens)
    torch.testing.assert_close(
        share[[1, 3]], torch.tensor([3.0, 2.0]).softmax(-1), rtol=0, atol=0.01
    )
    assert share[[0, 2, 4]].sum() == 0


def test_top_k_of_equal_logits_still_keeps_k():
    tokens = CategoricalSampler(ImaginationConfig(top_k=3))(torch.zeros(2_000, 9), generator())
    assert tokens.unique().numel() <= 3


def test_top_1_is_greedy_and_large_top_k_changes_nothing():
    logits = torch.randn(500, N, generator=generator())
    assert CategoricalSampler(ImaginationConfig(top_k=1))(logits, generator()).equal(
        logits.argmax(-1)
    )
    wide, plain = (
        CategoricalSampler(ImaginationConfig(top_k=k))(logits, generator(3)) for k in (N + 5, 0)
    )
    assert wide.equal(plain)


# --- dreams


def test_same_seed_same_dream_and_another_seed_another():
    dream, policy, frames = make_dream(), make_policy(), real_frames(8)
    runs = [
        imagine(dream, policy, frames, policy.initial_state(8), 9, generator(seed))
        for seed in (4, 4, 5)
    ]
    assert same(runs[0], runs[1])
    assert not runs[0].tokens.equal(runs[2].tokens)


def test_the_global_generator_is_not_touched():
    dream, policy, frames = make_dream(), make_policy(), real_frames()
    before = torch.random.get_rng_state()
    imagine(dream, policy, frames, policy.initial_state(3), 7, generator())
    assert torch.random.get_rng_state().equal(before)


def test_shapes_and_types_of_a_rollout():
    policy = make_policy()
    dreamt = imagine(make_dream(), policy, real_frames(), policy.initial_state(3), 7, generator())
    assert dreamt.frames.shape == (3, 7, 3, 8, 8) and dreamt.tokens.shape == (3, 7, K)
    assert dreamt.actions.shape == dreamt.rewards.shape == dreamt.dones.shape == (3, 6)
    assert (
        dreamt.actions.dtype == torch.int64
        and dreamt.rewards.dtype == torch.float32
        and dreamt.dones.dtype == torch.bool
    )
    assert set(dreamt.rewards.unique().tolist()) <= {-1.0, 0.0, 1.0}


def test_rollouts_never_need_gradient():
    policy = make_policy()
    frames = real_frames().requires_grad_()
    dreamt = imagine(make_dream(), policy, frames, policy.initial_state(3), 7, generator())
    assert not any(part.requires_grad for part in columns(dreamt))


def passes_of(dream, run):
    "How often the Transformer ran, and over how many tokens."
    lengths = []
    hook = dream.world_model.transformer.register_forward_hook(
        lambda module, inputs, output: lengths.append(inputs[0].shape[1])
    )
    run()
    hook.remove()
    return len(lengths), sum(lengths)


def test_no_more_than_k_passes_per_imagined_frame():
    dream, horizon = make_dream(steps=20), 20
    policy = make_policy()
    passes, tokens = passes_of(
        dream,
        lambda: imagine(
            dream, policy, real_frames(), policy.initial_state(3), horizon, generator()
        ),
    )
    assert passes == 1 + (horizon - 1) * K  # one to read the real frame, then K a frame
    # every token read once; the last frame's last token and action never
    assert tokens == horizon * (K + 1) - 2


def test_reward_and_ending_alone_cost_one_pass():
    dream = make_dream()
    state = dream.begin(real_frames())
    assert passes_of(
        dream,
        lambda: dream.step(state, torch.zeros(3, dtype=torch.int64), generator(), next_frame=False),
    ) == (1, 2)


@pytest.mark.parametrize(
    "keep, refreshed_at", [(1, [20, 39, 58]), (3, [20, 37, 54]), (19, [20, 21, 22])]
)
def test_the_context_is_refreshed_at_the_right_steps(keep, refreshed_at):
    dream, log, when = make_dream(steps=20, keep_frames=keep), [], []
    state, g = dream.begin(real_frames(1)), generator()
    count_calls(dream.world_model, ["begin"], log)
    for step in range(1, refreshed_at[-1] + 1):
        before = len(log)
        state, _, _ = dream.step(state, torch.tensor([step % A]), g)
        when += [step] * (len(log) - before)
    assert when == refreshed_at
    assert state.history_tokens.shape == (1, keep, K) and state.history_actions.shape == (
        1,
        keep - 1,
    )


def test_a_refresh_reads_the_last_frames_and_the_actions_between_them():
    dream, seen = make_dream(steps=5, keep_frames=3), []
    begin = dream.world_model.begin
    state, g, frames, actions = dream.begin(real_frames(2)), generator(), [], []
    frames.append(state.tokens)
    dream.world_model.begin = lambda tokens, taken: (
        seen.append((tokens, taken)) or begin(tokens, taken)
    )
    while not seen:
        actions.append(torch.randint(0, A, (2,), generator=g))
        state, _, _ = dream.step(state, actions[-1], g)
        frames.append(state.tokens)
    tokens, taken = seen[0]
    assert tokens.equal(torch.stack(frames[-4:-1], 1))  # without the frame drawn after the refresh
    assert taken.equal(torch.stack(actions[-3:-1], 1))  # and without the action that it will answer


def test_the_last_reward_fits_without_a_refresh():
    dream, log = make_dream(steps=5), []
    state, g, action = dream.begin(real_frames(1)), generator(), torch.tensor([0])
    count_calls(dream.world_model, ["begin"], log)
    for _ in range(4):
        state, _, _ = dream.step(state, action, g)
    dream.step(state, action, g, next_frame=False)
    assert log == []


def test_keeping_too_many_frames_is_refused():
    dream = make_dream(steps=4, keep_frames=4)
    state, g = dream.begin(real_frames(1)), generator()
    with pytest.raises(UserError, match="keep fewer"):
        for _ in range(6):
            state, _, _ = dream.step(state, torch.tensor([0]), g)


def test_a_state_can_be_continued_twice():
    """A step must not spoil the state it started from, or branching dreams would disturb one
    another.
    """
    dream = make_dream(steps=20)
    state, g = dream.begin(real_frames(2)), generator()
    for _ in range(3):
        state, _, _ = dream.step(state, torch.tensor([0, 1]), g)
    first, second = (
        dream.step(state, torch.tensor([2, 2]), generator(7))[0].tokens for _ in range(2)
    )
    assert first.equal(second)


def test_the_dream_follows_the_world_model():
    """Tokens drawn in a dream have the probability that the full pass gives them.

    Compare with greedy draws.
    """
    dream = make_dream(steps=6, top_k=1)
    policy = make_policy()
    dreamt = imagine(dream, policy, real_frames(), policy.initial_state(3), 6, generator())
    padded = torch.cat([dreamt.actions, torch.zeros(3, 1, dtype=torch.int64)], 1)
    with torch.no_grad():
        logits = dream.world_model(dreamt.tokens, padded)[0]
    assert logits.argmax(-1)[:, K - 1 : -1].equal(dreamt.tokens[:, 1:].flatten(1))


# --- open-loop rollouts


def by_hand(dream, start, actions, rng):
    "What a loop over `Dream.step` draws: the states, the rewards and the dones."
    states, rewards, dones = [dream.begin(start)], [], []
    for action in actions.unbind(1):
        state, reward, done = dream.step(states[-1], action, rng)
        states.append(state)
        rewards.append(reward)
        dones.append(done)
    return states, rewards, dones


def some_actions(batch, steps):
    return torch.randint(0, A, (batch, steps), generator=generator(2))


@pytest.mark.parametrize("keep", [1, 3])
def test_a_rollout_is_the_loop_over_steps_with_the_same_draws(keep):
    dream, actions = make_dream(keep_frames=keep), some_actions(3, 9)
    mine, theirs = generator(4), generator(4)
    dreamt = rollout(dream, real_frames(), actions, mine)
    states, rewards, dones = by_hand(dream, real_frames(), actions, theirs)
    assert dreamt.frames.equal(torch.stack([state.frames for state in states], 1))
    assert dreamt.tokens.equal(torch.stack([state.tokens for state in states], 1))
    assert dreamt.rewards.equal(torch.stack(rewards, 1))
    assert dreamt.dones.equal(torch.stack(dones, 1))
    assert dreamt.actions.equal(actions) and dreamt.policy_state is None
    assert torch.equal(mine.get_state(), theirs.get_state())


def test_given_actions_and_a_function_that_returns_them_dream_the_same():
    dream, actions, seen = make_dream(), some_actions(3, 6), []

    def choose(step, state):
        seen.append((step, state.tokens))
        return actions[:, step]

    given = rollout(dream, real_frames(), actions, generator())
    chosen = rollout(dream, real_frames(), choose, generator(), steps=6)
    assert same(given, chosen)
    assert [step for step, _ in seen] == list(range(6))
    assert torch.stack([tokens for _, tokens in seen], 1).equal(given.tokens[:, :-1])


def test_a_policy_dreams_as_its_actions_given_by_hand_do():
    """The generator serves policy and dream in turns, so the actions are compared without it."""
    dream, policy = make_dream(top_k=1), make_policy()
    dream.world_model.sample_reward = lambda out, rng: torch.zeros(len(out.token))
    dream.world_model.sample_ending = lambda out, rng: torch.zeros(len(out.token)).bool()
    state = policy.initial_state(3)
    acted = imagine(dream, policy, real_frames(), state, 7, generator())
    assert acted.policy_state is state
    given = rollout(dream, real_frames(), acted.actions, generator(9))
    assert same(acted, given)


class Undrawable(PatchTokenizer):
    def decode(self, tokens):
        raise AssertionError("nobody looks at this dream")


class TokenReader:
    "A policy that reads tokens: the sum of a frame's tokens chooses the action."

    reads = "tokens"

    def __call__(self, tokens, state):
        assert tokens.dtype == torch.int64
        logits = nn.functional.one_hot(tokens.sum(-1) % A, A) * 50.0
        return logits, torch.zeros(len(tokens)), state


def test_without_decoding_everything_else_is_the_same_and_no_decoder_runs():
    dream, actions = make_dream(), some_actions(3, 9)
    blind = Dream(Undrawable().eval(), dream.world_model, config=dream.config)
    seen = rollout(dream, real_frames(), actions, generator())
    unseen = rollout(blind, real_frames(), actions, generator(), decode=False)
    assert unseen.frames is None
    assert same(seen._replace(frames=None), unseen)
    assert blind.decode  # the dream itself was not changed


def test_a_policy_that_reads_tokens_needs_no_decoder():
    blind = Dream(Undrawable().eval(), make_world_model())
    dreamt = imagine(blind, TokenReader(), real_frames(), None, 6, generator())
    assert dreamt.frames is None
    assert dreamt.actions.equal(dreamt.tokens[:, :-1].sum(-1) % A)


def test_a_context_of_several_frames_is_read_at_the_start():
    dream, tokens = make_dream(keep_frames=3), torch.randint(0, N, (2, 4, K), generator=generator())
    actions, seen = some_actions(2, 3), []
    begin = dream.world_model.begin
    dream.world_model.begin = lambda *given: seen.append(given) or begin(*given)
    state = dream.begin(tokens, actions)
    assert seen[0][0].equal(tokens[:, 1:]) and seen[0][1].equal(actions[:, 1:])
    assert state.history_tokens.equal(tokens[:, 1:]) and state.history_actions.equal(actions[:, 1:])
    assert state.tokens.equal(tokens[:, -1])
    dreamt = rollout(dream, state, some_actions(2, 5), generator())
    assert dreamt.tokens.shape == (2, 6, K) and dreamt.tokens[:, 0].equal(tokens[:, -1])


def test_with_one_kept_frame_a_context_is_its_last_frame():
    dream, tokens = make_dream(), torch.randint(0, N, (2, 4, K), generator=generator())
    known, alone = dream.begin(tokens, some_actions(2, 3)), dream.begin(tokens[:, -1])
    actions = some_actions(2, 5)
    assert same(
        rollout(dream, known, actions, generator()), rollout(dream, alone, actions, generator())
    )


def test_a_rollout_of_no_steps_is_its_first_frame():
    dreamt = rollout(make_dream(), real_frames(), some_actions(3, 0), generator())
    assert dreamt.frames.shape == (3, 1, 3, 8, 8) and dreamt.tokens.shape == (3, 1, K)
    for column, kind in (
        (dreamt.actions, torch.int64),
        (dreamt.rewards, torch.float32),
        (dreamt.dones, torch.bool),
    ):
        assert column.shape == (3, 0) and column.dtype == kind


# --- the environment and bad input


def test_dream_env_keeps_ended_games_ended():
    env = DreamEnv(make_dream(steps=20), generator())
    observations, infos = env.reset(real_frames(16), seed=3)
    assert observations.shape == (16, 3, 8, 8) and infos["tokens"].shape == (16, K)
    before = torch.zeros(16, dtype=torch.bool)
    for _ in range(12):
        observations, rewards, terminations, truncations, infos = env.step([0] * 16)
        assert (
            rewards[before].eq(0).all() and (terminations | ~before).all() and not truncations.any()
        )
        before = terminations
    assert before.any()


def test_dream_env_reset_with_a_seed_repeats():
    env, frames = DreamEnv(make_dream(), generator()), real_frames()
    runs = []
    for _ in range(2):
        env.reset(frames, seed=9)
        runs.append(torch.stack([env.step(torch.tensor([0, 1, 2]))[0] for _ in range(4)]))
    assert runs[0].equal(runs[1])


def test_bad_input():
    dream = make_dream()
    with pytest.raises(UserError, match="to_float"):
        dream.begin(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    tokens = torch.zeros(1, 3, K, dtype=torch.int64)
    for start, actions in [
        (tokens, None),
        (tokens, some_actions(1, 3)),
        (tokens, some_actions(2, 2)),
        (tokens.int(), some_actions(1, 2)),
        (torch.zeros(3, 8, 8), None),
        (torch.zeros(K, dtype=torch.int64), None),
        (torch.zeros(1, 3, 8, 8), some_actions(1, 2)),
    ]:
        with pytest.raises(UserError, match="starts from"):
            dream.begin(start, actions)
    with pytest.raises(UserError, match="steps"):
        rollout(dream, real_frames(), lambda step, state: torch.zeros(3).long(), generator())
    with pytest.raises(UserError, match="reset"):
        DreamEnv(dream, generator()).step([0])
    with pytest.raises(UserError, match="horizon"):
        imagine(dream, make_policy(), real_frames(), None, 1, generator())
    dream.world_model.train()
    with pytest.raises(UserError, match="eval"):
        dream.begin(real_frames())


@pytest.mark.parametrize(
    "bad", [dict(temperature=0.0), dict(temperature=-1.0), dict(top_k=-1), dict(keep_frames=0)]
)
def test_bad_configurations(bad):
    with pytest.raises(UserError):
        ImaginationConfig(**bad)

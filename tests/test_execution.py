"""Fast equals plain: what is kept, compiled, captured or mixed gives the same numbers."""

import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from iris_edu import execution
from iris_edu.agent import load_trained
from iris_edu.base.rng import make_generators
from iris_edu.base.settings import UserError
from iris_edu.config import REGISTRY, Config, resolve
from iris_edu.imagination import CategoricalSampler, Dream, ImaginationConfig, draw_frame, imagine
from iris_edu.replay import to_float
from iris_edu.run import load_checkpoint
from iris_edu.training import (
    LOSSES,
    PRESETS,
    Trainer,
    collect_epoch,
    pick_execution,
    sample_batch,
    set_precision,
    train,
    update_once,
)
from iris_edu.transformer import CausalAttention, TransformerConfig, attend
from iris_edu.world_model import WorldModel, WorldModelConfig, parameter_groups, sample_categorical
from iris_edu.zoo.episodes import episode_frames

TINY = PRESETS["tiny"]
SMALL = replace(
    TINY,
    env=replace(TINY.env, game="Catch"),
    device="cpu",
    training=replace(
        TINY.training,
        epochs=2,
        collect_epochs=2,
        collect_steps=40,
        updates=2,
        tokenizer_after=0,
        world_model_after=0,
        actor_critic_after=0,
        tokenizer_batch=8,
        world_model_batch=4,
        actor_critic_batch=4,
        evaluate_every=0,
    ),
)
NO_DROPOUT = replace(
    SMALL,
    transformer=replace(
        SMALL.transformer, embed_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0
    ),
)
needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU: CUDA graphs cannot be captured here"
)


def started(config, folder):
    "A trainer that has collected one epoch; the same configuration gives the same trainer."
    trainer = Trainer(config, folder)
    trainer.epoch = 1
    collect_epoch(trainer)
    return trainer


def losses_and_gradients(trainer, name):
    "Losses of one batch of a learner, and the gradients of their sum."
    learner = getattr(trainer.agent, name)
    learner.zero_grad()
    rng = make_generators(3, "test", device=trainer.device)
    losses = LOSSES[name](trainer, sample_batch(trainer, name, rng.host), rng.device)
    sum(losses.values()).backward()
    return {k: v.item() for k, v in losses.items()}, [
        p.grad.clone() for p in learner.parameters() if p.grad is not None
    ]


def assert_same(one, other, tolerance=1e-5):
    assert one[0] == pytest.approx(other[0], rel=tolerance, abs=tolerance)
    assert len(one[1]) == len(other[1]) > 0
    for a, b in zip(one[1], other[1]):
        assert (a - b).norm() <= tolerance * max(b.norm(), 1)


@pytest.mark.parametrize("gigabytes", [5.0, 0.0])
def test_kept_tokens_equal_fresh_ones_after_every_tokenizer_update(tmp_path, gigabytes):
    trainer = started(
        replace(SMALL, training=replace(SMALL.training, cache_gigabytes=gigabytes)), tmp_path
    )
    tokenizer, draw, seen = trainer.agent.tokenizer, make_generators(0, "test"), []
    for _ in range(3):
        batch = trainer.replay.sample(6, 5, draw.host)
        frames = to_float(batch.frames)[batch.mask]
        tokens, pictures = (
            trainer.cache.tokens(batch.slots),
            trainer.cache.reconstructions(batch.slots),
        )
        assert torch.equal(tokens[batch.mask], tokenizer.encode(frames))
        torch.testing.assert_close(
            pictures[batch.mask], tokenizer.reconstruct(frames), atol=1e-5, rtol=0
        )
        assert not tokens.requires_grad and not pictures.requires_grad
        seen.append(pictures)
        tokenizer.train()
        update_once(trainer, "tokenizer", draw)
        tokenizer.eval()
    assert not torch.equal(trainer.cache.reconstructions(batch.slots), seen[-1]), (
        "the test would pass with a tokenizer that never changes"
    )


def test_a_new_epoch_forgets_what_the_replay_held_before(tmp_path):
    trainer = started(replace(SMALL, replay=replace(SMALL.replay, capacity=60)), tmp_path)
    trainer.cache.tokens(torch.arange(40))
    for name in ("tokenizer", "world_model", "actor_critic"):
        trainer.config = replace(
            trainer.config, training=replace(trainer.config.training, **{f"{name}_after": 9})
        )
    trainer.epoch = 2
    trainer.epoch_record()
    held = torch.arange(60)
    fresh = trainer.agent.tokenizer.encode(to_float(trainer.replay.frames.permute(0, 3, 1, 2)))
    assert torch.equal(trainer.cache.tokens(held), fresh)


@pytest.mark.parametrize("name", ["world_model", "actor_critic"])
def test_losses_and_gradients_do_not_depend_on_what_is_kept(tmp_path, name):
    keeping, plain = (
        started(
            replace(NO_DROPOUT, training=replace(SMALL.training, cache_gigabytes=g)),
            tmp_path / str(g),
        )
        for g in (5.0, 0.0)
    )
    assert_same(losses_and_gradients(keeping, name), losses_and_gradients(plain, name))


def test_reconstructions_that_do_not_fit_are_made_again(tmp_path):
    trainer = started(
        replace(SMALL, training=replace(SMALL.training, cache_gigabytes=0.1)), tmp_path
    )
    assert trainer.cache._tokens.keep and not trainer.cache._reconstructions.keep
    slots = torch.tensor([[3, 1], [1, 0]])
    torch.testing.assert_close(
        trainer.cache.reconstructions(slots),
        trainer.agent.tokenizer.decode(trainer.cache.tokens(slots)),
        atol=1e-5,
        rtol=0,
    )


def test_what_is_known_is_not_computed_again_not_even_for_no_frames(tmp_path):
    """On a GPU a batch of no frames is a pass of its own, one more shape to compile, and some
    attention kernels refuse it.
    """
    trainer, asked = started(SMALL, tmp_path), []
    trainer.agent.tokenizer.encoder.register_forward_hook(
        lambda module, inputs, output: asked.append(len(output))
    )
    trainer.agent.tokenizer.decoder.register_forward_hook(
        lambda module, inputs, output: asked.append(len(output))
    )
    first, again = (trainer.cache.reconstructions(torch.tensor([[3, 1], [1, 0]])) for _ in range(2))
    assert asked == [3, 3] and torch.equal(first, again)
    assert trainer.cache.reconstructions(torch.zeros(2, 0, dtype=torch.int64)).shape == (
        2,
        0,
        *first.shape[2:],
    )


@pytest.mark.parametrize("name", ["tokenizer", "world_model"])
def test_compiled_equals_plain(tmp_path, name):
    if trouble := execution.failure(lambda: torch.compile(torch.sin)(torch.zeros(8))):
        pytest.skip(f"torch.compile does not work here: {trouble}")
    # few layers: compiling takes its time
    small = replace(
        PRESETS["small"],
        device="cpu",
        training=replace(SMALL.training, tokenizer_batch=4, world_model_batch=2),
    )
    plain, compiled = (started(small, tmp_path / kind) for kind in ("plain", "compiled"))
    execution.compile_parts(compiled.agent)
    before = losses_and_gradients(plain, name)
    assert_same(losses_and_gradients(compiled, name), before)
    assert plain.agent.state_dict().keys() == compiled.agent.state_dict().keys()


def test_a_single_compiled_dream_is_speculative_and_equals_a_plain_one(tmp_path):
    trainer = started(replace(SMALL, execution="plain"), tmp_path)
    policy, draw, twin = (
        trainer.agent.actor_critic,
        *(torch.Generator().manual_seed(1) for _ in range(2)),
    )
    start, state, plan = (
        trainer.cache.tokens(torch.arange(1)),
        policy.initial_state(1),
        execution.Compiled.__new__(execution.Compiled),
    )
    compiled, plain = (
        play(trainer.dream, policy, start, state, 12, g)
        for play, g in ((plan.imagine, draw), (imagine, twin))
    )
    assert torch.equal(compiled.tokens, plain.tokens) and torch.equal(
        compiled.actions, plain.actions
    )
    torch.testing.assert_close(compiled.frames, plain.frames, atol=1e-5, rtol=0)
    assert (
        execution.speculative_dream(trainer.dream).draw is execution.speculative_decode
        and trainer.dream.draw is draw_frame
    )


def certain(logits, generator):
    """A sampler that needs random numbers only where the model is unsure.

    How many depends on the logits.
    """
    best = logits.argmax(-1)
    return best if logits.std() < 2 else sample_categorical(logits, generator)


def samplers():
    for knobs in (
        dict(),
        dict(temperature=0.3),
        dict(temperature=3.0),
        dict(top_k=3),
        dict(top_k=1),
    ):
        yield CategoricalSampler(ImaginationConfig(**knobs))
    yield certain


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("scale", [1, 4, 20])
@pytest.mark.parametrize("sampler", list(samplers()))
def test_a_speculative_frame_is_the_frame_drawn_token_by_token(batch, scale, sampler):
    """Same tokens, same memory, same place in the random numbers, and a good draft takes few
    passes; the larger the weights, the more surprises.
    """
    torch.manual_seed(batch)
    model = WorldModel(
        WorldModelConfig(steps=6), TransformerConfig(layers=2, heads=2, width=16), 20, 3, 9
    ).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(scale)
    tokens, actions = torch.randint(20, (batch, 3, 9)), torch.randint(3, (batch, 3))
    draw, twin = (torch.Generator().manual_seed(5) for _ in range(2))
    found = {}
    for way, rng in ((draw_frame, draw), (execution.speculative_decode, twin)):
        before, passes = tokens[:, -1], []
        memory = model.begin(tokens, actions[:, :-1])
        hook = model.transformer.register_forward_hook(lambda *_: passes.append(1))
        frames = []
        for _ in range(2):
            memory, out = model.act(memory, actions[:, -1])
            before, memory = way(model, sampler, memory, out.token, before, rng)
            frames.append(before)
        hook.remove()
        found[way] = torch.stack(frames, 1), memory, len(passes)
    (plain, kept, slow), (fast, again, quick) = found.values()
    assert torch.equal(plain, fast) and torch.equal(draw.get_state(), twin.get_state())
    assert kept.cache.length == again.cache.length and torch.equal(kept.pending, again.pending)
    for a, b in zip(kept.cache.keys + kept.cache.values, again.cache.keys + again.cache.values):
        torch.testing.assert_close(
            a[:, :, : kept.cache.length], b[:, :, : kept.cache.length], atol=1e-4, rtol=1e-4
        )
    assert quick <= slow == 2 * 9


def test_a_right_draft_takes_one_pass_and_one_token_takes_none():
    model = WorldModel(
        WorldModelConfig(steps=6), TransformerConfig(layers=1, heads=1, width=8), 20, 3, 4
    ).eval()
    greedy, draw, passes = CategoricalSampler(ImaginationConfig(top_k=1)), torch.Generator(), []

    def begin():
        return model.act(
            model.begin(torch.zeros(1, 1, 4, dtype=torch.int64)), torch.zeros(1, dtype=torch.int64)
        )

    memory, out = begin()
    right, _ = draw_frame(model, greedy, memory, out.token, torch.zeros(1, 4), draw)
    memory, out = begin()
    model.transformer.register_forward_hook(lambda *_: passes.append(1))
    assert (
        torch.equal(
            execution.speculative_decode(model, greedy, memory, out.token, right, draw)[0], right
        )
        and len(passes) == 1
    )
    single = WorldModel(
        WorldModelConfig(steps=6), TransformerConfig(layers=1, heads=1, width=8), 20, 3, 1
    ).eval()
    memory, out = single.act(
        single.begin(torch.zeros(1, 1, 1, dtype=torch.int64)), torch.zeros(1, dtype=torch.int64)
    )
    single.transformer.register_forward_hook(lambda *_: passes.append(1))
    assert (
        execution.speculative_decode(
            single, greedy, memory, out.token, torch.zeros(1, 1, dtype=torch.int64), draw
        )[0].shape
        == (1, 1)
        and len(passes) == 1
    )


def test_a_world_model_that_cannot_rewind_dreams_as_before(tmp_path):
    dream = started(SMALL, tmp_path).dream
    other = Dream(dream.tokenizer, object())
    assert execution.speculative_dream(other) is other


def test_other_plans_keep_their_own_imagine(tmp_path, monkeypatch):
    """Where Captured captures, it starts as Compiled does.

    That must not put another `imagine` in its place.
    """
    monkeypatch.setattr(execution.Captured, "__init__", execution.Compiled.__init__)
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    captured = started(replace(SMALL, execution="captured"), tmp_path).execution
    assert captured.imagine.__func__ is execution.Captured.imagine


def test_compiled_that_cannot_compile_says_so_and_goes_on(tmp_path, monkeypatch, capsys):
    def refuse(*args, **options):
        raise RuntimeError("no C++ compiler\nsecond line")

    monkeypatch.setattr(torch, "compile", refuse)
    trainer, plain = (started(NO_DROPOUT, tmp_path / name) for name in ("compiled", "plain"))
    elsewhere = SimpleNamespace(agent=trainer.agent, device=torch.device("cuda"))
    execution.Compiled(elsewhere)
    said = capsys.readouterr().out
    assert "torch.compile does not work here (no C++ compiler): the run goes on" in said
    assert_same(
        losses_and_gradients(trainer, "world_model"), losses_and_gradients(plain, "world_model")
    )


def test_a_processor_has_cheap_dropout_and_compiles_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", None)
    compiled, plain = (
        started(replace(NO_DROPOUT, execution=kind), tmp_path / kind)
        for kind in ("compiled", "plain")
    )
    assert_same(
        losses_and_gradients(compiled, "world_model"), losses_and_gradients(plain, "world_model")
    )
    model = started(replace(SMALL, execution="compiled"), tmp_path / "dropping").agent.world_model
    assert {type(part) for part in model.modules() if isinstance(part, torch.nn.Dropout)} == {
        execution.CheapDropout
    }
    assert all(
        block.attention.attend is execution.attend_with_cheap_dropout
        for block in model.transformer.blocks
    )
    assert {type(part) for part in model.modules() if isinstance(part, torch.nn.Linear)} == {
        execution.PointwiseLinear
    }


def test_an_attention_of_ones_own_keeps_its_own_attend():
    class Mine(CausalAttention):
        attend = staticmethod(lambda q, k, v, dropout=0.0: v)

    blocks = execution.use_cheap_dropout(
        torch.nn.ModuleList(
            [Mine(TransformerConfig(width=8)), CausalAttention(TransformerConfig(width=8))]
        )
    )
    assert (
        blocks[0].attend is Mine.attend and blocks[1].attend is execution.attend_with_cheap_dropout
    )


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_a_mask_drops_with_its_probability_and_each_alone(p):
    torch.manual_seed(0)
    page = torch.empty(1000, 333)  # not a multiple of four
    kept = execution.dropout_mask(page, p)
    assert kept.shape == page.shape and kept.dtype == torch.bool
    sigma = (p * (1 - p)) ** 0.5
    assert (kept.float().mean() - (1 - p)).abs() < 5 * sigma / page.numel() ** 0.5
    for shift in (1, 2, 3, 4, 333):  # neighbours share a random number
        both = (kept.flatten()[shift:] & kept.flatten()[:-shift]).float().mean()
        assert (both - (1 - p) ** 2).abs() < 5 * (
            (1 - p) ** 2 * (1 - (1 - p) ** 2) * 3 / page.numel()
        ) ** 0.5
    assert not torch.equal(kept, execution.dropout_mask(page, p))
    torch.manual_seed(0)
    assert torch.equal(kept, execution.dropout_mask(page, p))


def test_a_mask_that_never_drops():
    page = torch.rand(5, 7)
    assert execution.dropout_mask(page, 0.0).all()
    assert torch.equal(execution.CheapDropout(0.0)(page), page) and torch.equal(
        execution.CheapDropout(0.5).eval()(page), page
    )
    assert execution.dropout_mask(torch.empty(0), 0.5).shape == (0,)


@pytest.mark.parametrize("new, seen", [(6, 6), (2, 6), (1, 6)])
def test_attention_with_cheap_dropout_attends_as_before_and_drops_whole_weights(
    new, seen, monkeypatch
):
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 4, generator=draw) for n in (new, seen, seen))
    torch.testing.assert_close(
        execution.attend_with_cheap_dropout(q, k, v, 1e-9), attend(q, k, v), atol=1e-6, rtol=0
    )
    assert torch.equal(execution.attend_with_cheap_dropout(q, k, v), attend(q, k, v))
    # nobody looks at the first position
    monkeypatch.setattr(
        execution, "dropout_mask", lambda like, p: torch.arange(like.shape[-1]) != 0
    )
    weights = (
        (q @ k.mT / 2)
        .masked_fill(~torch.ones(new, seen, dtype=torch.bool).tril(seen - new), -torch.inf)
        .softmax(-1)
    )
    torch.testing.assert_close(
        execution.attend_with_cheap_dropout(q, k, v, 0.5), 2 * weights[..., 1:] @ v[:, :, 1:]
    )


@pytest.mark.parametrize("shape", [(272,), (257,), (4, 340), (16, 2, 17), (8,), (0,)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_pointwise_linear_is_a_linear(shape, bias):
    torch.manual_seed(0)
    linear = torch.nn.Linear(24, 40, bias=bias)
    twin = execution.use_pointwise_linears(torch.nn.Sequential(torch.nn.Linear(24, 40, bias=bias)))
    twin[0].load_state_dict(linear.state_dict())
    assert isinstance(twin[0], execution.PointwiseLinear)
    x = torch.randn(24, *shape).movedim(0, -1).requires_grad_()  # rows that do not lie side by side
    one, other = (layer(x) for layer in (linear, twin))
    assert one.shape == other.shape and torch.allclose(one, other, atol=1e-5)
    push = torch.randn_like(one)
    for a, b in zip(
        *(
            torch.autograd.grad(y, [x, *layer.parameters()], push)
            for y, layer in ((one, linear), (other, twin))
        )
    ):
        # a weight's gradient sums a thousand rows
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-5)


def test_the_optimiser_and_other_kinds_of_linear_do_not_notice():
    class Mine(torch.nn.Linear):
        pass

    model = torch.nn.Sequential(torch.nn.Linear(4, 4), Mine(4, 4))
    before = [id(p) for p in model.parameters()]
    execution.use_pointwise_linears(model)
    assert [id(p) for p in model.parameters()] == before and type(model[1]) is Mine
    groups = parameter_groups(model, 0.1)
    assert len(groups[0]["params"]) == 2  # weights of both decay


def test_without_the_other_library_a_linear_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert type(execution.use_pointwise_linears(torch.nn.Linear(4, 4))) is torch.nn.Linear


def test_captured_without_a_gpu_says_so_and_goes_on(tmp_path, capsys):
    captured = started(replace(SMALL, execution="captured"), tmp_path / "captured")
    assert "CUDA graphs need a GPU, not a cpu: the run goes on" in capsys.readouterr().out
    assert_same(
        losses_and_gradients(captured, "actor_critic"),
        losses_and_gradients(started(SMALL, tmp_path / "plain"), "actor_critic"),
    )


class FakeGraph:
    """Stands in for a captured graph where there is no GPU.

    It computes what was captured, or something else.
    """

    wrong = False

    def __init__(self, function, inputs):
        self.function = function

    def __call__(self, inputs, draw):
        outputs = self.function(*inputs, draw)
        return outputs | {"tokens": outputs["tokens"] + 1} if self.wrong else outputs


def pretend_gpu(trainer):
    "A Captured plan that believes it may capture."
    trainer.execution = execution.Captured(trainer)
    trainer.execution.plain = False
    return trainer


def test_captured_plan_keeps_the_contract_of_imagine(tmp_path, monkeypatch):
    """All of the plan but the graph itself.

    Arguments, results, generator, and that a graph is captured once for each shape.
    """
    monkeypatch.setattr(execution, "CudaGraph", FakeGraph)
    plain, captured = (
        started(SMALL, tmp_path / "plain"),
        pretend_gpu(started(SMALL, tmp_path / "captured")),
    )
    for _ in range(2):
        assert_same(
            losses_and_gradients(captured, "actor_critic"),
            losses_and_gradients(plain, "actor_critic"),
        )
    assert len(captured.execution.graphs) == 1 and not captured.execution.plain


def test_a_graph_that_dreams_differently_is_not_used(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(execution, "CudaGraph", type("Wrong", (FakeGraph,), {"wrong": True}))
    captured = pretend_gpu(started(SMALL, tmp_path / "captured"))
    found = losses_and_gradients(captured, "actor_critic")
    assert "its first dream differed from the plain one" in capsys.readouterr().out
    assert_same(found, losses_and_gradients(started(SMALL, tmp_path / "plain"), "actor_critic"))
    assert captured.execution.graphs == {}


class FakeCuda:
    """As much of torch.cuda as `CudaGraph` asks for.

    The capture fails at its end, as a real one does after a `.item()`.
    """

    states, streams = [], []

    def __init__(self, *args):
        self.args = args

    def wait_stream(self, other):
        pass

    def register_generator_state(self, draw):
        pass

    def graphsafe_set_state(self, state):
        self.states.append(state)

    def clone_state(self):
        return "fresh"


def test_a_failed_capture_leaves_nothing_behind(tmp_path, monkeypatch):
    """No stream, no generator that counts as captured, no weights that were only cast in the
    capture.
    """

    @contextmanager
    def graph(graph):
        FakeCuda.streams.append("capturing")
        yield
        raise RuntimeError("operation failed due to a previous error during capture")

    @contextmanager
    def stream(new):
        before = [*FakeCuda.streams]
        try:
            yield
        finally:
            FakeCuda.streams[:] = before

    cleared = []
    for name, fake in dict(
        Stream=FakeCuda,
        CUDAGraph=FakeCuda,
        current_stream=FakeCuda,
        stream=stream,
        device=lambda device: nullcontext(),
        graph=graph,
        default_generators=(FakeCuda(),),
    ).items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch, "clear_autocast_cache", lambda: cleared.append([*FakeCuda.streams]))
    with pytest.raises(RuntimeError, match="previous error during capture"):
        execution.CudaGraph(lambda x, draw: {"x": x}, [torch.zeros(2)])
    assert FakeCuda.states == ["fresh"] and FakeCuda.streams == [] and cleared == [[], []]


@needs_gpu
def test_a_captured_rollout_equals_a_plain_one_and_is_new_at_every_replay(tmp_path):
    trainer = started(replace(SMALL, device="cuda", execution="captured"), tmp_path)
    policy, draw, twin = (
        trainer.agent.actor_critic,
        *(torch.Generator("cuda").manual_seed(1) for _ in range(2)),
    )
    start, state = trainer.cache.tokens(torch.arange(4, device="cuda")), policy.initial_state(4)
    rollouts = [
        (
            trainer.execution.imagine(trainer.dream, policy, start, state, 8, draw),
            imagine(trainer.dream, policy, start, state, 8, twin),
        )
        for _ in range(3)
    ]
    assert not trainer.execution.plain
    for recorded, plain in rollouts:
        assert torch.equal(recorded.tokens, plain.tokens) and torch.equal(
            recorded.actions, plain.actions
        )
        torch.testing.assert_close(recorded.frames, plain.frames, atol=1e-5, rtol=0)
    assert not torch.equal(rollouts[0][0].tokens, rollouts[1][0].tokens)


@needs_gpu
def test_tokens_of_replays_follow_the_distribution_of_plain_dreams(tmp_path):
    "Chi-squared over the first dreamt token of many replays, against as many plain dreams."
    trainer = started(replace(SMALL, device="cuda", execution="captured"), tmp_path)
    policy, many = trainer.agent.actor_critic, 512
    start = trainer.cache.tokens(torch.zeros(many, dtype=torch.int64, device="cuda"))

    def counts(play, seed):
        draw, state = torch.Generator("cuda").manual_seed(seed), policy.initial_state(many)
        drawn = torch.cat(
            [play(trainer.dream, policy, start, state, 2, draw).tokens[:, 1, 0] for _ in range(20)]
        )
        return drawn.bincount(minlength=trainer.agent.tokenizer.vocabulary).double()

    recorded, plain = counts(trainer.execution.imagine, 1), counts(imagine, 2)
    common = (recorded + plain) >= 40
    statistic = ((recorded - plain).square() / (recorded + plain))[common].sum().item()
    freedom = common.sum().item()
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5


def test_execution_is_a_setting():
    assert (
        pick_execution("auto", torch.device("cuda")) == "captured"
        and pick_execution("auto", torch.device("cpu")) == "plain"
    )
    for path in REGISTRY["execution"].values():
        assert callable(resolve(path))
    with pytest.raises(
        UserError, match="execution is 'fast': choose plain or compiled or captured"
    ):
        Config(execution="fast")


def test_a_run_may_go_on_with_another_execution(tmp_path, capsys):
    train(SMALL, tmp_path / "run", max_epochs=1, callbacks=())
    captured = train(replace(SMALL, execution="captured"), tmp_path / "run", callbacks=())
    assert captured.epoch == 2 and "CUDA graphs" in capsys.readouterr().out


def test_a_compiled_run_on_a_processor_resumes_bit_for_bit(tmp_path):
    config = replace(SMALL, execution="compiled")
    whole = train(config, tmp_path / "whole", callbacks=())
    train(config, tmp_path / "halves", max_epochs=1, callbacks=())
    halves = train(config, tmp_path / "halves", callbacks=())
    for a, b in zip(whole.agent.parameters(), halves.agent.parameters(), strict=True):
        assert torch.equal(a, b)


def test_fp16_scales_its_losses_and_remembers_the_scale(tmp_path):
    half = replace(SMALL, precision="fp16")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = train(half, tmp_path / "whole", callbacks=())
        train(half, tmp_path / "broken", max_epochs=1, callbacks=())
        assert load_checkpoint(tmp_path / "broken")[1].scales["tokenizer"]["scale"] > 1
        resumed = train(half, tmp_path / "broken", callbacks=())
    assert all(
        a.equal(b)
        for a, b in zip(whole.agent.state_dict().values(), resumed.agent.state_dict().values())
    )
    assert (
        whole.scalers["world_model"].state_dict()
        == resumed.scalers["world_model"].state_dict()
        != {}
    )


@pytest.mark.parametrize(
    "name, game",
    [
        ("pong-16", "Pong"),
        ("breakout-16", "Breakout"),
        ("alien-16", "Alien"),
        ("alien-64", "Alien"),
    ],
)
def test_mixed_precision_changes_few_codes_and_the_losses_by_less_than_a_tenth(name, game):
    tokenizer, frames = load_trained(name).tokenizer, to_float(episode_frames(game)[::10])
    with torch.autocast("cpu", torch.bfloat16):
        mixed = tokenizer.encode(frames)
    assert (mixed != tokenizer.encode(frames)).float().mean() < 0.01
    batches, losses = frames[::5].split(8), {}
    for enabled in (False, True):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses[enabled] = [tokenizer.loss(batch) for batch in batches]
    for term in ("reconstruction", "commitment"):
        full, half = (
            torch.stack([loss[term] for loss in losses[enabled]]) for enabled in (False, True)
        )
        assert (full - half).abs().mean() < 0.1 * full.mean()


def test_tokens_of_the_replay_are_read_in_full_precision(tmp_path):
    trainer = started(replace(SMALL, precision="bf16"), tmp_path)
    slots = torch.arange(40)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = trainer.cache.tokens(slots)
    assert torch.equal(
        tokens,
        trainer.agent.tokenizer.encode(to_float(trainer.replay.frames[slots].permute(0, 3, 1, 2))),
    )


def test_an_error_that_says_nothing_is_named_by_its_kind():
    def silent():
        raise RuntimeError

    assert execution.failure(silent) == "RuntimeError" and execution.failure(lambda: 1) == ""


def test_precision_decides_about_tf32():
    try:
        for precision, allowed in (
            ("fp32", False),
            ("tf32", True),
            ("bf16", True),
            ("fp32", False),
        ):
            set_precision(precision)
            assert (
                torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == allowed
            )
    finally:
        set_precision("fp32")

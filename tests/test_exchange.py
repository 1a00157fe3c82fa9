"""Weights of others and weights for others: the authors' checkpoint by names and shapes, one file to share, a Minari data set."""

import json
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from micro import configuration
from torch import nn

from iris_edu.agent import build_agent, load_trained
from iris_edu.apps import cli
from iris_edu.base.settings import UserError
from iris_edu.checkpoint import CHECKPOINT
from iris_edu.config import PRESETS
from iris_edu.recordings import concatenate, load_recording
from iris_edu.sharing.exchange import (
    convert,
    episodes_in,
    export_agent,
    export_recordings,
    minari_id,
    preset_of,
    read_authors,
    recordings_in,
)
from iris_edu.sharing.own_data import import_recordings
from iris_edu.training import train

MICRO = configuration(
    *"--training.epochs 2 --training.collect-epochs 2 --training.collect-steps 60 --training.updates 1 --training.evaluate-every 0".split()
)

# The modules of the authors' agent with 16 tokens a frame, by the number of ours. Each has a weight
# and a bias; the name of a
# block stands for the modules in BLOCK, that of an attention for those in ATTENTION, "norm_out"
# also for "conv_out" after it.
# Shapes are those of our tensors, but for q, k and v, which are the thirds of qkv.
ENCODER = {
    1: "conv_in",
    2: "down.0.block.0",
    3: "down.0.block.1",
    4: "down.0.downsample.conv",
    5: "down.1.block.0",
    6: "down.1.block.1",
    7: "down.1.downsample.conv",
    8: "down.2.block.0",
    9: "down.2.attn.0",
    10: "down.2.block.1",
    11: "down.2.attn.1",
    12: "down.2.downsample.conv",
    13: "down.3.block.0",
    14: "down.3.attn.0",
    15: "down.3.block.1",
    16: "down.3.attn.1",
    17: "down.3.downsample.conv",
    18: "down.4.block.0",
    19: "down.4.block.1",
    20: "mid.block_1",
    21: "mid.attn_1",
    22: "mid.block_2",
    23: "norm_out",
}
DECODER = {
    0: "conv_in",
    1: "mid.block_1",
    2: "mid.attn_1",
    3: "mid.block_2",
    4: "up.4.block.0",
    5: "up.4.block.1",
    6: "up.4.block.2",
    7: "up.4.upsample.conv",
    8: "up.3.block.0",
    9: "up.3.attn.0",
    10: "up.3.block.1",
    11: "up.3.attn.1",
    12: "up.3.block.2",
    13: "up.3.attn.2",
    14: "up.3.upsample.conv",
    15: "up.2.block.0",
    16: "up.2.attn.0",
    17: "up.2.block.1",
    18: "up.2.attn.1",
    19: "up.2.block.2",
    20: "up.2.attn.2",
    21: "up.2.upsample.conv",
    22: "up.1.block.0",
    23: "up.1.block.1",
    24: "up.1.block.2",
    25: "up.1.upsample.conv",
    26: "up.0.block.0",
    27: "up.0.block.1",
    28: "up.0.block.2",
    29: "norm_out",
}
BLOCK = {"body.0.0": "norm1", "body.0.2": "conv1", "body.1.0": "norm2", "body.1.2": "conv2"}
ATTENTION = {"norm": "norm", "out": "proj_out"}
LAYER = {
    "norm1": "ln1",
    "norm2": "ln2",
    "attention.query": "attn.query",
    "attention.key": "attn.key",
    "attention.value": "attn.value",
    "attention.out": "attn.proj",
    "mlp.0": "mlp.0",
    "mlp.2": "mlp.2",
}
SINGLE = {
    "tokenizer.quantizer.codebook.weight": "tokenizer.embedding.weight",
    "world_model.layout.action_table.weight": "world_model.embedder.embedding_tables.0.weight",
    "world_model.layout.token_table.weight": "world_model.embedder.embedding_tables.1.weight",
    "world_model.transformer.positions.table.weight": "world_model.pos_emb.weight",
    **{
        f"actor_critic.lstm.{name}": f"actor_critic.lstm.{name}"
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    },
}
PAIRS = {
    "tokenizer.before": "tokenizer.pre_quant_conv",
    "tokenizer.after": "tokenizer.post_quant_conv",
    "world_model.transformer.norm": "world_model.transformer.ln_f",
    "actor_critic.convolutions.0": "actor_critic.conv1",
    "actor_critic.convolutions.3": "actor_critic.conv2",
    "actor_critic.convolutions.6": "actor_critic.conv3",
    "actor_critic.convolutions.9": "actor_critic.conv4",
    "actor_critic.actor": "actor_critic.actor_linear",
    "actor_critic.critic": "actor_critic.critic_linear",
    **{
        f"world_model.heads.{ours}.{i}": f"world_model.{theirs}.head_module.{i}"
        for ours, theirs in (
            ("tokens", "head_observations"),
            ("rewards", "head_rewards"),
            ("endings", "head_ends"),
        )
        for i in (0, 2)
    },
}


def sides(tokens):
    """{side: {number of ours: name of theirs}}.

    With 64 tokens a frame the lowest resolution, 4, and the way to it are missing.
    """
    lowest = ("down.3.downsample", "down.4.", "up.4.")

    def without(table):
        return dict(
            enumerate((name for name in table.values() if not name.startswith(lowest)), min(table))
        )

    return (
        {"encoder": ENCODER, "decoder": DECODER}
        if tokens == 16
        else {"encoder": without(ENCODER), "decoder": without(DECODER)}
    )


def modules(tokens=16):
    """{our module: theirs} of everything that has a weight and a bias, but for queries, keys and
    values of the autoencoder.
    """
    found = dict(PAIRS)
    for layer in range(10):
        found |= {
            f"world_model.transformer.blocks.{layer}.{ours}": f"world_model.transformer.blocks.{layer}.{theirs}"
            for ours, theirs in LAYER.items()
        }
    for side, table in sides(tokens).items():
        for number, name in table.items():
            ours, theirs = f"tokenizer.{side}.body.{number}", f"tokenizer.{side}.{name}"
            if "block" in name:
                found |= {f"{ours}.{a}": f"{theirs}.{b}" for a, b in BLOCK.items()}
            elif "attn" in name:
                found |= {f"{ours}.{a}": f"{theirs}.{b}" for a, b in ATTENTION.items()}
            elif name == "norm_out":
                found |= {f"{ours}.0": theirs, f"{ours}.2": f"tokenizer.{side}.conv_out"}
            else:
                found[f"{ours}.1" if "sample" in name else ours] = theirs
    return found


def as_authors(agent, tokens=16):
    """The state of an agent of ours under the names of the authors' code, with the tensors that
    their file holds besides.
    """
    state = agent.state_dict()
    theirs = {name: state[ours].clone() for ours, name in SINGLE.items()}
    for ours, name in modules(tokens).items():
        theirs |= {f"{name}.{kind}": state[f"{ours}.{kind}"].clone() for kind in ("weight", "bias")}
    for side, table in sides(tokens).items():
        for number, name in ((number, name) for number, name in table.items() if "attn" in name):
            for kind in ("weight", "bias"):
                theirs |= {
                    f"tokenizer.{side}.{name}.{letter}.{kind}": piece.clone()
                    for letter, piece in zip(
                        "qkv", state[f"tokenizer.{side}.body.{number}.qkv.{kind}"].chunk(3)
                    )
                }
    theirs |= {
        f"world_model.transformer.blocks.{layer}.attn.mask": torch.ones(340, 340).tril()
        for layer in range(10)
    }
    return theirs | {
        "world_model.head_rewards.slicer.indices": torch.arange(20),
        "world_model.embedder.slicers.0.indices": torch.arange(20),
        "tokenizer.lpips.lin0.model.1.weight": torch.ones(1, 64, 1, 1),
    }


@pytest.fixture(scope="module")
def ours():
    "An agent of the paper's size for four actions, no number of which is as it was initialised."
    agent = build_agent(PRESETS["atari100k"], 4).eval()
    with torch.no_grad():
        for number, parameter in enumerate(agent.parameters()):
            parameter.add_(
                0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            )
    return agent


@pytest.fixture(scope="module")
def authors(ours):
    "The same under the authors' names."
    return as_authors(ours)


def run(capsys, *words):
    "The exit code of a command, and what it said."
    status = cli.main([str(word) for word in words])
    said = capsys.readouterr()
    return status, said.out + said.err


# --- the authors' checkpoint


def outputs(agent):
    "What each network of an agent gives to the same input."
    frames = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = agent.tokenizer.encode(frames)
        memory, outcome = agent.world_model.act(
            agent.world_model.begin(tokens[:, None]), torch.tensor([0, 3])
        )
        logits, value, _ = agent.actor_critic(frames, agent.actor_critic.initial_state(2))
        return (
            tokens,
            agent.tokenizer.reconstruct(frames),
            outcome.token,
            outcome.reward,
            outcome.ending,
            logits,
            value,
        )


def test_every_tensor_has_a_name_there(ours, authors):
    assert len(ours.state_dict()) == len(SINGLE) + 2 * len(modules()) + 2 * sum(
        "attn" in name for name in (*ENCODER.values(), *DECODER.values())
    )
    learnt = [
        name
        for name in authors
        if not name.startswith("tokenizer.lpips") and not name.endswith((".mask", ".indices"))
    ]
    assert sum(authors[name].numel() for name in learnt) == sum(
        tensor.numel() for tensor in ours.state_dict().values()
    )


def test_an_import_gives_the_same_outputs(ours, authors, tmp_path, capsys):
    torch.save(authors, tmp_path / "last.pt")
    status, said = run(
        capsys, "import", tmp_path / "last.pt", "--game", "Breakout", "--to", tmp_path / "breakout"
    )
    assert status == 0 and "iris-edu evaluate" in said
    trained = load_trained(tmp_path / "breakout")
    assert (
        trained.config.env.game,
        trained.actions,
        trained.config.autoencoder.tokens,
        trained.steps,
    ) == ("Breakout", 4, 16, 100_000)
    for a, b in zip(outputs(trained.agent), outputs(ours), strict=True):
        assert torch.allclose(a.float(), b.float(), atol=1e-6)
    assert run(capsys, "watch", tmp_path / "breakout")[0] == 0  # a finished run: it looks once


def test_the_variant_of_64_tokens_is_recognised(ours, authors):
    finer = build_agent(PRESETS["atari100k-64"], 4)
    theirs = {
        name: tensor
        for name, tensor in as_authors(finer, 64).items()
        if not name.endswith((".mask", ".indices")) and ".lpips." not in name
    }
    assert (preset_of(authors), preset_of(theirs)) == ("atari100k", "atari100k-64")
    again, actions = convert(theirs, PRESETS["atari100k-64"])
    assert actions == 4 and all(
        torch.equal(a, b)
        for a, b in zip(again.state_dict().values(), finer.state_dict().values(), strict=True)
    )
    with pytest.raises(UserError, match="--preset"):
        convert(authors, PRESETS["atari100k-64"])


DAMAGE = {
    "missing": (
        lambda theirs: theirs.pop("tokenizer.decoder.up.0.block.2.conv2.bias"),
        "tokenizer.decoder.up.0.block.2.conv2.bias needs the shape \\(64,\\) and the file has nothing",
    ),
    "no query": (
        lambda theirs: theirs.pop("tokenizer.encoder.mid.attn_1.q.weight"),
        "mid.attn_1.q.weight needs",
    ),
    "surplus": (
        lambda theirs: theirs.update({"world_model.extra.weight": torch.ones(2)}),
        "world_model.extra.weight",
    ),
    "misshapen": (
        lambda theirs: theirs.update({"actor_critic.critic_linear.weight": torch.ones(1, 256)}),
        "critic_linear.weight needs the shape \\(1, 512\\) and the file has \\(1, 256\\)",
    ),
    "no actions": (
        lambda theirs: theirs.pop("world_model.embedder.embedding_tables.0.weight"),
        "embedding_tables.0.weight",
    ),
    "not finite": (
        lambda theirs: theirs.update({"actor_critic.conv1.bias": torch.full((32,), float("nan"))}),
        "conv1.bias holds numbers that are not finite",
    ),
    "whole numbers": (
        lambda theirs: theirs.update(
            {"actor_critic.conv1.bias": torch.zeros(32, dtype=torch.int64)}
        ),
        "conv1.bias",
    ),
    "another game": (
        lambda theirs: theirs.update({"actor_critic.actor_linear.bias": torch.ones(6)}),
        "actor_linear.bias",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_first_tensor_that_does_not_fit_is_named(authors, damage):
    theirs, (spoil, words) = (
        {
            name: tensor
            for name, tensor in authors.items()
            if not name.endswith((".mask", ".indices")) and ".lpips." not in name
        },
        DAMAGE[damage],
    )
    spoil(theirs)
    with pytest.raises(UserError, match=words):
        convert(theirs, PRESETS["atari100k"], "last.pt")


class Stranger:
    "An object whose reading would run code."

    def __reduce__(self):
        return print, ("code was run",)


@pytest.mark.parametrize(
    "content",
    [
        Stranger(),
        nn.Linear(1, 1),
        {"a": 1},
        {},
        [torch.ones(1)],
        b"nothing",
        {1: torch.ones(1)},
        None,
    ],
)
def test_what_is_no_state_is_refused_and_not_run(content, tmp_path, capsys):
    torch.save(content, tmp_path / "last.pt") if not isinstance(content, bytes) else (
        tmp_path / "last.pt"
    ).write_bytes(content)
    status, said = run(
        capsys, "import", tmp_path / "last.pt", "--game", "Breakout", "--to", tmp_path / "made"
    )
    assert (
        status == 2 and said.count("\n") == 1 and "last.pt" in said and "code was run" not in said
    ), said
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_options_of_an_import_of_weights(authors, tmp_path, capsys):
    torch.save(authors, tmp_path / "last.pt")
    for words, expected in (
        ((), "--game"),
        (("--game", "Pong"), "Pong has 6"),
        (("--game", "Pnog"), "Pong"),
        (("--game", "Breakout", "--preset", "tiny"), "atari100k-64"),
        (("--game", "Breakout", "--preset", "atari100k-64"), "--preset"),
    ):
        status, said = run(
            capsys, "import", tmp_path / "last.pt", "--to", tmp_path / "made", *words
        )
        assert status == 2 and expected in said and not (tmp_path / "made").exists(), said
    with pytest.raises(UserError, match="there is no such file"):
        read_authors(tmp_path / "nobody.pt")


# --- an agent as one file


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A run of two epochs: its folder."
    folder = tmp_path_factory.mktemp("runs") / "catch"
    train(MICRO, folder, callbacks=())
    return folder


def test_a_shared_file_is_the_agent_in_half_precision(whole, tmp_path, capsys):
    status, said = run(capsys, "export", whole, "--to", tmp_path / "mine")
    path = tmp_path / "mine.safetensors"
    assert (
        status == 0
        and "mine.safetensors" in said
        and path.stat().st_size < (whole / CHECKPOINT).stat().st_size / 2
    )
    trained, shared = load_trained(whole), load_trained(path)
    assert (shared.config, shared.epoch, shared.actions) == (trained.config, 2, 3)
    for a, b in zip(
        shared.agent.state_dict().values(), trained.agent.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b.half().float())
    for words in (
        ("evaluate", path, "--episodes", 1),
        ("report", path),
        ("watch", path, "--once"),
        ("score", path),
    ):
        assert run(capsys, *words)[0] == 0, words
    status, said = run(capsys, "export", whole, "--to", path)
    assert status == 2 and "nothing is overwritten" in said


def test_a_shipped_agent_and_one_of_parts_can_be_exported(tmp_path):
    assert export_agent("catch-small", tmp_path).name == "catch-small.safetensors"
    shared = load_trained(export_agent("pong-dream", tmp_path / "dream"))
    assert shared.actor_critic is None and shared.dream.tokenizer.tokens_per_frame == 16


def test_a_shared_file_says_nothing_of_where_its_recordings_lay(tmp_path):
    frames = np.zeros((40, 16, 16, 3), np.uint8)
    np.savez(
        tmp_path / "own.npz",
        observations=frames,
        actions=np.arange(40) % 3,
        rewards=np.zeros(40),
        terminations=np.arange(40) % 10 == 9,
        truncations=np.zeros(40, bool),
    )
    import_recordings(tmp_path / "own.npz", tmp_path / "own", 16)
    train(replace(MICRO, data=str(tmp_path / "own")), tmp_path / "run", max_epochs=1, callbacks=())
    path = export_agent(tmp_path / "run", tmp_path / "sent")
    assert (
        load_trained(path).config.data == "own" and str(tmp_path).encode() not in path.read_bytes()
    )


# --- games as a Minari data set


def test_games_of_a_run_become_episodes_with_one_frame_more(whole, tmp_path, capsys):
    status, said = run(capsys, "export", whole, "--to", tmp_path / "games", "--what", "recordings")
    assert status == 0 and "MinariDataset" in said
    about = json.loads((tmp_path / "games" / "data" / "metadata.json").read_text())
    recording = concatenate([load_recording(path) for path in sorted((whole / "replay").iterdir())])
    with h5py.File(tmp_path / "games" / "data" / "main_data.hdf5") as file:
        groups = [file[f"episode_{number}"] for number in range(about["total_episodes"])]
        assert len(file) == len(groups) and about["total_steps"] == 120 == sum(
            len(group["actions"]) for group in groups
        )
        assert np.array_equal(
            np.concatenate([group["actions"] for group in groups]), recording.actions
        )
        assert np.array_equal(
            np.concatenate([group["observations"][:-1] for group in groups]), recording.frames
        )
        for group in groups:
            assert (
                len(group["observations"]) == len(group["actions"]) + 1 == len(group["rewards"]) + 1
            )
            assert not (group["terminations"][:-1] | group["truncations"][:-1]).any()
    assert json.loads(about["action_space"])["n"] == 3 and about["dataset_id"] == "games-v0"


@pytest.mark.parametrize("size", [16, 48])
def test_what_was_exported_is_imported_the_same(tmp_path, size):
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "own.npz",
        observations=rng.integers(256, size=(60, size, size, 3), dtype=np.uint8),
        actions=rng.integers(3, size=60),
        rewards=rng.normal(size=60),
        terminations=np.arange(60) % 20 == 9,
        truncations=np.arange(60) % 20 == 19,
    )
    before = import_recordings(tmp_path / "own.npz", tmp_path / "own", size)
    assert export_recordings(tmp_path / "own", tmp_path / "sent") == (6, 60)
    after = import_recordings(tmp_path / "sent", tmp_path / "back", size)
    assert replace(after, source=before.source) == before


def test_games_kept_as_actions_are_played_again_for_an_export(tmp_path):
    config = replace(MICRO, replay=replace(MICRO.replay, storage="actions"))
    trainer = train(config, tmp_path / "run", max_epochs=1, callbacks=())
    _, actions, recordings = recordings_in(tmp_path / "run")
    found = concatenate(list(recordings))
    assert (
        actions == 3
        and np.array_equal(found.frames, trainer.replay.frames[:60].numpy())
        and len(list(episodes_in([found]))) == trainer.replay.num_episodes
    )


def test_exports_that_cannot_be(whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "replay")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").touch()
    for words, expected in (
        (("nobody", "--to", tmp_path / "a"), "nobody"),
        ((tmp_path / "run", "--to", tmp_path / "a", "--what", "recordings"), "has no recordings"),
        ((whole, "--to", tmp_path / "taken", "--what", "recordings"), "nothing is overwritten"),
        (("catch-small", "--to", tmp_path / "a", "--what", "recordings"), "catch-small"),
    ):
        status, said = run(capsys, "export", *words)
        assert status == 2 and said.count("\n") == 1 and expected in said, said
    assert not (tmp_path / "a").exists()
    assert minari_id("../odd name!") == "odd-name-v0"

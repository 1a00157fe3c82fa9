"""One checkpoint format: three places, two formats, and every way in which tensors can be wrong."""

import dataclasses
import json
import shutil
from dataclasses import replace

import gymnasium
import pytest
import safetensors.torch
import torch
from micro import configuration
from safetensors import safe_open

from iris_edu import checkpoint
from iris_edu.agent import beside, build_agent, load_run, load_trained, out_of_memory, save_agent
from iris_edu.apps import cli
from iris_edu.base.settings import UserError
from iris_edu.checkpoint import (
    CHECKPOINT,
    PREVIOUS,
    checkpoint_sum,
    load_checkpoint,
    newest_checkpoint,
    read_checkpoint,
    saved_epoch,
)
from iris_edu.config import LEARNERS, config_to_dict
from iris_edu.run import read_run
from iris_edu.training import train

MICRO = configuration(
    *"--training.epochs 4 --training.collect-epochs 4 --training.collect-steps 8 --training.updates 1 --training.evaluate-every 0".split()
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A run of three epochs: its folder and its trainer."
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(MICRO, folder, max_epochs=1, callbacks=())
    shutil.copytree(folder, folder.with_name("young"))
    return folder, train(MICRO, folder, max_epochs=3, callbacks=())


@pytest.fixture
def run(whole, tmp_path):
    "A copy of that run after its first epoch."
    return shutil.copytree(whole[0].with_name("young"), tmp_path / "run")


def same(a, b):
    "Whether two modules hold the same tensors."
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def opened(path):
    "Tensors and metadata of a safetensors file."
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}, dict(file.metadata())


def signed(path, tensors, header):
    "Write a checkpoint with a sum that is right, whatever it holds."
    text = json.dumps(header)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(
        tensors, path, {"iris_edu": text, "sha256": checkpoint_sum(text, tensors)}
    )


def go_on(folder, config=MICRO, epochs=3):
    "Train the run in a folder on, without a word."
    return train(config, folder, max_epochs=epochs, callbacks=())


# --- three places


def test_a_run_its_file_and_a_copy_give_one_agent_and_open_no_game(whole, tmp_path, monkeypatch):
    folder, trainer = whole
    shutil.copy(folder / CHECKPOINT, tmp_path / "sent.safetensors")
    monkeypatch.setattr(
        gymnasium, "make", lambda *names, **options: pytest.fail("a game was opened")
    )
    for source in (folder, str(folder), folder / CHECKPOINT, tmp_path / "sent.safetensors"):
        found = load_trained(source)
        assert same(found.agent, trainer.agent) and (
            found.config,
            found.epoch,
            found.actions,
            found.steps,
        ) == (MICRO, 3, 3, 24)
    assert same(load_run(folder, "cpu")[1], trainer.agent)
    for name in ("catch-small", "pong-dream", "alien-64"):
        load_trained(name)


@pytest.mark.parametrize(
    "line", ["evaluate SOURCE --episodes 1", "watch SOURCE --once", "report SOURCE --out OUT"]
)
def test_commands_take_all_three(whole, tmp_path, monkeypatch, capsys, line):
    monkeypatch.setattr(
        "iris_edu.agent.load_settings",
        lambda: replace(
            __import__("iris_edu.base.settings").base.settings.load_settings(),
            runs=tmp_path / "runs",
        ),
    )
    for source in (whole[0], whole[0] / CHECKPOINT, "catch-small"):
        words = (
            line.replace("SOURCE", str(source)).replace("OUT", str(tmp_path / "page.html")).split()
        )
        assert cli.main(words) == 0, capsys.readouterr().err
    if line.startswith("evaluate"):
        assert (
            beside("catch-small", "evaluation.json")
            == tmp_path / "runs" / "catch-small.evaluation.json"
            and beside("catch-small", "evaluation.json").exists()
        )
        for source in (whole[0], whole[0] / CHECKPOINT, "catch-small"):
            assert cli.main(["score", str(source)]) == 0
        assert "catch-small" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "source", ["nobody", "no/such/file.safetensors", "../data", "x" * 300, "a\0b"]
)
def test_what_is_no_agent_is_one_sentence(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        load_trained(source)
    assert "\n" not in str(error.value)


# --- the first format


def as_format_1(folder):
    "Rewrite a run folder as the version before this one wrote it."
    config = config_to_dict(MICRO)
    config["parts"] = {
        "environment": "iris_edu.envs:make_env",
        "segment_sampler": "iris_edu.replay:UniformSegments",
        "encoder": "iris_edu.autoencoder:Encoder",
        "decoder": "iris_edu.autoencoder:Decoder",
        "quantizer": "iris_edu.tokenizer:VectorQuantizer",
        "perceptual_loss": "iris_edu.tokenizer:SquaredDistance",
        "tokenizer": "iris_edu.tokenizer:Tokenizer",
        "attention": "iris_edu.transformer:CausalAttention",
        "positions": "iris_edu.transformer:LearntPositions",
        "layout": "iris_edu.world_model:FrameActionLayout",
        "heads": "iris_edu.world_model:Heads",
        "world_model": "iris_edu.world_model:WorldModel",
        "token_sampler": "iris_edu.imagination:CategoricalSampler",
        "policy": "iris_edu.actor_critic:ActorCritic",
        "return_estimator": "iris_edu.actor_critic:lambda_returns",
        "callbacks": [],
    }
    (folder / "config.json").write_text(
        json.dumps({"config": config, "versions": {"torch": "2.0"}})
    )
    tensors, about = opened(folder / CHECKPOINT)
    safetensors.torch.save_file(
        tensors,
        folder / CHECKPOINT,
        {
            "iris_edu": json.dumps(
                {
                    "epoch": json.loads(about["iris_edu"])["epoch"],
                    "scales": {name: {} for name in LEARNERS},
                }
            )
        },
    )


def test_a_run_of_the_first_format_goes_on_bit_for_bit(run, whole):
    as_format_1(run)
    assert load_trained(run).epoch == 1 and read_run(run).config == MICRO and saved_epoch(run) == 1
    assert same(go_on(run).agent, whole[1].agent)
    assert read_checkpoint(run / CHECKPOINT)[1].version == 2 and read_run(run).version == 2
    assert [change.option for change in read_run(run).changes] == ["versions.torch"]


def test_a_checkpoint_of_the_first_format_without_its_folder_says_what_it_needs(run):
    as_format_1(run)
    with pytest.raises(UserError, match="does not say its configuration: give the run folder"):
        load_trained(run / CHECKPOINT)
    (run / "config.json").unlink()
    with pytest.raises(UserError, match="has lost its config.json"):
        load_trained(run)


def test_shipped_agents_are_of_the_first_format_and_load():
    for name in ("catch-small", "pong-16", "pong-dream"):
        found = load_trained(name)
        assert found.facts["about"] and found.config.parts.encoder in ("conv", "patch")
    assert (load_trained("catch-small").epoch, load_trained("catch-small").steps) == (20, 6_400)


# --- a folder and its checkpoint


def test_without_config_json_the_checkpoint_says_it(run, whole):
    (run / "config.json").unlink()
    assert load_trained(run).config == MICRO
    assert same(go_on(run).agent, whole[1].agent) and read_run(run).config == MICRO


def test_a_config_json_that_says_something_else_is_found_and_can_be_mended_as_told(run, whole):
    written = json.loads((run / "config.json").read_text())
    written["config"]["actor_critic"]["discount"] = 0.5
    (run / "config.json").write_text(json.dumps(written))
    for use in (
        lambda: load_trained(run),
        lambda: go_on(run, replace(MICRO, actor_critic=replace(MICRO.actor_critic, discount=0.5))),
    ):
        with pytest.raises(
            UserError,
            match=r"says actor_critic.discount = 0.5 and the checkpoint was trained with 0.995.*: rm ",
        ) as error:
            use()
    path = str(error.value).split(": rm ")[1]
    __import__("pathlib").Path(path).unlink()
    assert same(go_on(run).agent, whole[1].agent)


def test_the_newest_is_damaged_and_the_one_before_goes_on(whole, tmp_path):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    (folder / CHECKPOINT).write_bytes((folder / CHECKPOINT).read_bytes()[:-1])
    with pytest.raises(
        UserError, match=f"is damaged.*mv {folder / CHECKPOINT} {folder / CHECKPOINT}.damaged"
    ):
        load_trained(folder)
    shutil.move(folder / CHECKPOINT, f"{folder / CHECKPOINT}.damaged")
    assert load_trained(folder).epoch == 2 and same(go_on(folder).agent, whole[1].agent)


def test_no_advice_loses_what_a_newer_version_wrote(whole, tmp_path):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    tensors, about = opened(folder / CHECKPOINT)
    signed(
        folder / CHECKPOINT, tensors, json.loads(about["iris_edu"]) | {"version": 99, "future": 1}
    )
    with pytest.raises(
        UserError, match="newer version of iris_edu wrote .*pip install -U"
    ) as error:
        load_trained(folder)
    assert "mv " not in str(error.value) and "rm " not in str(error.value)


def test_what_may_not_be_read_is_not_called_damaged(run, monkeypatch):
    def forbidden(*names, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoint, "open", forbidden, raising=False)
    with pytest.raises(UserError, match="permission is denied") as error:
        load_checkpoint(run)
    assert "mv " not in str(error.value) and "damaged" not in str(error.value)


# --- wrong tensors, each with a sum that is right


def first(tensors, begin):
    "The first name that begins so."
    return next(
        name for name in sorted(tensors) if name.startswith(begin) and tensors[name].numel() > 1
    )


def change_one(begin, change):
    "A change of the first tensor whose name begins so."

    def changed(tensors, header):
        name = first(tensors, begin)
        tensors[name] = change(tensors[name])

    return changed


def remove(begin):
    "A change that leaves out the first tensor whose name begins so."
    return lambda tensors, header: tensors.pop(first(tensors, begin))


def no_optimizer(tensors, header):
    for name in [name for name in tensors if name.startswith("optimizer.world_model")]:
        tensors.pop(name)


WRONG = {
    "a weight is shorter": change_one("agent.tokenizer", lambda t: t.flatten()[:1]),
    "a weight is empty": change_one("agent.world_model", lambda t: t[:0]),
    "a weight is an integer": change_one("agent.actor_critic", lambda t: t.long()),
    "a weight is nan": change_one("agent.actor_critic", lambda t: t * float("nan")),
    "a weight is infinite": change_one("agent.tokenizer", lambda t: t + float("inf")),
    "a weight is missing": remove("agent.world_model"),
    "a mean is shorter": change_one("optimizer.tokenizer", lambda t: t.flatten()[:1]),
    "a mean is empty": change_one("optimizer.actor_critic", lambda t: t.flatten()[:0]),
    "a mean is an integer": change_one("optimizer.world_model", lambda t: t.long()),
    "a mean is nan": change_one("optimizer.world_model", lambda t: t * float("nan")),
    "a mean is missing": remove("optimizer.tokenizer"),
    "an optimiser is missing": no_optimizer,
    "another weight": lambda t, h: t.update({"agent.tokenizer.colour": torch.zeros(2)}),
    "another part": lambda t, h: t.update({"agent.critic.w": torch.zeros(2)}),
    "another optimiser": lambda t, h: t.update({"optimizer.critic.0.step": torch.zeros(())}),
    "a state of no parameter": lambda t, h: t.update(
        {"optimizer.tokenizer.999.exp_avg": torch.zeros(2)}
    ),
    "a state of another name": lambda t, h: t.update(
        {"optimizer.tokenizer.0.max_exp_avg_sq": torch.zeros(2)}
    ),
    "a stranger": lambda t, h: t.update({"w": torch.zeros(2)}),
    "no epoch": lambda t, h: h.update(epoch="one"),
    "no configuration": lambda t, h: h.update(config=5),
    "no actions": lambda t, h: h.update(actions=0),
    "other actions": lambda t, h: h.update(actions=7),
    "other parts": lambda t, h: h.update(parts=["critic"]),
    "no parts": lambda t, h: h.update(parts=[]),
    "scales of nobody": lambda t, h: h.update(scales={"critic": {}}),
    "a newer version": lambda t, h: h.update(version=99),
    "an unknown key": lambda t, h: h.update(colour="red"),
    "fewer epochs than none": lambda t, h: h.update(epoch=-1),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_tensors_are_one_sentence_before_anything_is_used(run, what):
    tensors, about = opened(run / CHECKPOINT)
    header = json.loads(about["iris_edu"])
    WRONG[what](tensors, header)
    signed(run / CHECKPOINT, tensors, header)
    before = (run / CHECKPOINT).read_bytes()
    with pytest.raises(UserError) as error:
        go_on(run)
    assert "\n" not in str(error.value) and (run / CHECKPOINT).read_bytes() == before


def test_any_changed_bit_is_noticed(run):
    content = (run / CHECKPOINT).read_bytes()
    for position in range(9, len(content), len(content) // 60):
        (run / CHECKPOINT).write_bytes(
            content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]
        )
        with pytest.raises(UserError):
            load_trained(run)
    (run / CHECKPOINT).write_bytes(content)
    assert load_trained(run).epoch == 1


def test_loaded_tensors_do_not_live_in_the_file(run):
    "The file is overwritten in place, as a sync program does; what was loaded stays."
    trained = load_trained(run).agent
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    trainer = go_on(run, epochs=1)
    state = {
        name: [slots["exp_avg"].clone() for slots in optimizer.state.values()]
        for name, optimizer in trainer.optimizers.items()
    }
    for name in (CHECKPOINT, PREVIOUS):
        if (run / name).exists():
            with open(run / name, "r+b") as file:
                file.write(b"\xff" * (run / name).stat().st_size)
    assert all(torch.equal(before[name], tensor) for name, tensor in trained.state_dict().items())
    for name, optimizer in trainer.optimizers.items():
        assert all(
            torch.equal(a, b["exp_avg"]) for a, b in zip(state[name], optimizer.state.values())
        )


def test_half_precision_and_missing_parts(tmp_path):
    agent = build_agent(MICRO, 3)
    save_agent(
        tmp_path / "a.safetensors",
        {"world_model": agent.world_model},
        MICRO,
        3,
        {"note": "x"},
        epoch=7,
    )
    found = load_trained(tmp_path / "a.safetensors")
    assert (found.tokenizer, found.actor_critic, found.epoch, found.facts["note"]) == (
        None,
        None,
        7,
        "x",
    )
    with pytest.raises(UserError, match="holds no tokenizer and no actor_critic"):
        found.agent
    assert newest_checkpoint(tmp_path) is None and dataclasses.is_dataclass(checkpoint.Header)


@pytest.mark.parametrize(
    "error, yes",
    [
        (MemoryError(), True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_which_errors_mean_that_memory_is_used_up(error, yes):
    assert out_of_memory(error) == yes

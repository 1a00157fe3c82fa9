"""The paper's numbers, the true sizes on a CPU, and what happens to a run on a bad day."""

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from iris_edu import checkpoint, recordings, run
from iris_edu.agent import load_run
from iris_edu.apps import cli
from iris_edu.base import rng
from iris_edu.base.settings import UserError
from iris_edu.checkpoint import CHECKPOINT, PREVIOUS, load_checkpoint
from iris_edu.collect import evaluate_policy
from iris_edu.config import LEARNERS, make_environment, of_learner
from iris_edu.envs import Catch, make_env
from iris_edu.evaluation import evaluate_run
from iris_edu.recordings import load_recording
from iris_edu.replay import UniformSegments
from iris_edu.resume import experience_path
from iris_edu.run import read_metrics, read_run
from iris_edu.scores import score_report
from iris_edu.training import (
    PRESETS,
    Trainer,
    build_agent,
    build_optimizers,
    sample_batch,
    train,
)
from iris_edu.validation import evaluate_agent

PAPER, TINY = PRESETS["atari100k"], PRESETS["tiny"]
MICRO = replace(
    TINY,
    device="cpu",
    env=replace(TINY.env, game="Catch"),
    training=replace(
        TINY.training,
        epochs=2,
        collect_epochs=2,
        collect_steps=20,
        updates=1,
        tokenizer_after=0,
        world_model_after=0,
        actor_critic_after=0,
        tokenizer_batch=4,
        world_model_batch=2,
        actor_critic_batch=2,
        evaluate_every=0,
    ),
)


def test_tables_2_to_6():
    "Every number of the paper's tables is the default of `atari100k`."
    a, t, tr, w, p, s = (
        PAPER.autoencoder,
        PAPER.tokenizer,
        PAPER.transformer,
        PAPER.world_model,
        PAPER.actor_critic,
        PAPER.training,
    )
    # Table 2
    assert (a.size, a.layers, a.residual_blocks, a.channels, a.attention) == (64, 4, 2, 64, (8, 16))
    # Table 3
    assert (t.vocabulary, a.tokens, t.dim) == (512, 16, 512)
    # Table 4
    assert (w.steps, tr.width, tr.layers, tr.heads, s.weight_decay) == (20, 256, 10, 4, 0.01)
    assert (tr.embed_dropout, tr.attention_dropout, tr.residual_dropout) == (0.1, 0.1, 0.1)
    # Table 5
    assert (s.epochs, s.collect_epochs, s.collect_steps, s.epsilon, s.evaluate_temperature) == (
        600,
        500,
        200,
        0.01,
        0.5,
    )
    assert (s.tokenizer_after, s.world_model_after, s.actor_critic_after) == (5, 25, 50)
    assert (s.tokenizer_batch, s.world_model_batch, s.actor_critic_batch, s.updates) == (
        256,
        64,
        64,
        200,
    )
    assert (s.learning_rate, s.beta1, s.beta2, s.max_grad_norm, p.burn_in) == (
        1e-4,
        0.9,
        0.999,
        10.0,
        20,
    )
    # Table 6
    assert (p.horizon, p.discount, p.lam, p.entropy) == (20, 0.995, 0.95, 0.001)


def test_what_is_ours_is_off_in_the_papers_presets():
    a, t, tr, s = PAPER.autoencoder, PAPER.tokenizer, PAPER.transformer, PAPER.training
    assert (a.patch, t.perceptual, tr.init_std, s.revive_every, s.tokenizer_until) == (
        1,
        1.0,
        0.02,
        0,
        0,
    )
    assert {
        of_learner(s, what, name) for what in ("updates", "learning_rate") for name in LEARNERS
    } == {200, 1e-4}


def test_a_learners_own_numbers_and_an_early_end(tmp_path):
    """Updates and learning rate of one learner.

    A tokenizer that stops keeps its weights to the last bit while the others go on.
    """
    own = replace(
        MICRO.training,
        epochs=3,
        tokenizer_until=1,
        tokenizer_updates=2,
        world_model_learning_rate=0.5,
        revive_every=1,
    )
    trainer, counted = Trainer(replace(MICRO, training=own), tmp_path), []
    assert (
        trainer.optimizers["world_model"].param_groups[0]["lr"] == 0.5
        and trainer.optimizers["tokenizer"].param_groups[0]["lr"] == MICRO.training.learning_rate
    )
    trainer.callbacks = [
        type(
            "Count",
            (),
            {
                "on_update": lambda self, trainer, name, update: counted.append(
                    (trainer.epoch, name)
                )
            },
        )()
    ]
    (tmp_path / "replay").mkdir()
    trainer.run(1)
    weights = {
        name: tensor.clone() for name, tensor in trainer.agent.tokenizer.state_dict().items()
    }
    trainer.run(2)
    assert [counted.count((epoch, "tokenizer")) for epoch in (1, 2)] == [2, 0] and counted.count(
        (2, "world_model")
    ) == 1
    assert all(
        torch.equal(weights[name], tensor)
        for name, tensor in trainer.agent.tokenizer.state_dict().items()
    )


def test_parameter_counts():
    agent = build_agent(PAPER, actions=4)
    assert [sum(p.numel() for p in m.parameters()) for m in agent.children()] == [
        4_027_523,
        8_447_493,
        3_217_957,
    ]


def test_optimisers():
    """Adam for tokenizer and actor-critic.

    AdamW that decays 66 linear weights of the world model and leaves 111 tensors alone.
    """
    optimizers = build_optimizers(build_agent(PAPER, actions=4), PAPER.training)
    assert [type(optimizers[name]).__name__ for name in LEARNERS] == ["Adam", "AdamW", "Adam"]
    for optimizer in optimizers.values():
        assert all(
            g["lr"] == 1e-4 and g["betas"] == (0.9, 0.999) and g["eps"] == 1e-8
            for g in optimizer.param_groups
        )
    groups = {g["weight_decay"]: len(g["params"]) for g in optimizers["world_model"].param_groups}
    assert groups == {0.01: 66, 0.0: 111}


def test_schedule(tmp_path, monkeypatch):
    "Who learns in which epoch of the paper's 600, and how often, counted from the trainer itself."
    config = replace(
        TINY,
        env=replace(TINY.env, game="Catch"),
        training=replace(PAPER.training, updates=1, evaluate_in_background=False),
    )
    trainer, done = Trainer(config, tmp_path), []
    import iris_edu.training as training

    monkeypatch.setattr(
        training, "collect_epoch", lambda trainer: done.append(("collect", trainer.epoch)) or {}
    )
    monkeypatch.setattr(
        training, "update_epoch", lambda trainer, name: done.append((name, trainer.epoch)) or {}
    )
    monkeypatch.setattr(
        training, "evaluate_epoch", lambda trainer: done.append(("evaluate", trainer.epoch)) or {}
    )
    for trainer.epoch in range(1, 601):
        trainer.epoch_record()
    epochs = {
        name: [epoch for who, epoch in done if who == name]
        for name in ("collect", *LEARNERS, "evaluate")
    }
    assert epochs["collect"] == list(range(1, 501)) and epochs["evaluate"] == list(range(5, 601, 5))
    assert (
        epochs["tokenizer"] == list(range(6, 601))
        and epochs["world_model"] == list(range(26, 601))
        and epochs["actor_critic"] == list(range(51, 601))
    )
    assert [who for who, epoch in done if epoch == 100] == [
        "collect",
        "tokenizer",
        "world_model",
        "actor_critic",
        "evaluate",
    ]


def test_one_epoch_at_true_sizes(tmp_path):
    """One epoch of atari100k on real Pong frames with the true perceptual loss.

    Only the numbers of updates and batches are reduced.
    """
    small = replace(
        PAPER.training,
        epochs=1,
        collect_epochs=1,
        collect_steps=30,
        updates=1,
        tokenizer_after=0,
        world_model_after=0,
        actor_critic_after=0,
        tokenizer_batch=4,
        world_model_batch=2,
        actor_critic_batch=2,
        evaluate_every=0,
    )
    trainer = train(replace(PAPER, training=small, device="cpu"), tmp_path / "run", callbacks=())
    record = read_metrics(tmp_path / "run")[0]
    assert {
        "tokenizer/perceptual",
        "world_model/transition",
        "actor_critic/values",
    } <= record.keys()
    assert sum(p.numel() for p in trainer.agent.parameters()) == 15_692_973 + (
        trainer.agent.actor_critic.actor.out_features - 4
    ) * (513 + 256)
    # about log 512 = 6.2 before any learning
    assert 5 < record["world_model/transition"] < 8


def test_accumulated_gradients_equal_the_whole_batch(tmp_path):
    """accumulate cuts a batch without changing the gradient.

    Checked on the mean of the parts of one batch.
    """
    whole, parts = (
        Trainer(
            replace(MICRO, training=replace(MICRO.training, accumulate=n, max_grad_norm=1e9)),
            tmp_path / str(n),
        )
        for n in (1, 2)
    )
    from iris_edu import training

    frames = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for trainer in (whole, parts):
        pieces = iter(frames.chunk(trainer.config.training.accumulate))
        trainer.batch = lambda name, length, rng: type(
            "Batch", (), {"frames": (next(pieces)[:, None] * 255).byte()}
        )
        training.update_once(trainer, "tokenizer", rng.make_generators(0))
    for a, b in zip(whole.agent.tokenizer.parameters(), parts.agent.tokenizer.parameters()):
        if a.grad is not None:
            assert (a.grad - b.grad).norm() <= 1e-4 * b.grad.norm() + 1e-5


def test_nan_stops_the_run_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    from iris_edu import training

    train(MICRO, tmp_path / "run", max_epochs=1, callbacks=())
    kept = (tmp_path / "run" / CHECKPOINT).read_bytes()

    def broken(trainer, batch, rng):
        return {"transition": torch.tensor(float("nan"), requires_grad=True)}

    monkeypatch.setitem(training.LOSSES, "world_model", broken)
    with pytest.raises(
        UserError, match="transition loss of the world_model became nan at update 1 of epoch 2"
    ):
        train(MICRO, tmp_path / "run", callbacks=())
    assert (tmp_path / "run" / CHECKPOINT).read_bytes() == kept
    monkeypatch.undo()
    assert train(MICRO, tmp_path / "run", callbacks=()).epoch == 2


def test_compact_experience_resumes_like_frames(tmp_path):
    """A run that stores seeds and actions only resumes to the same weights as one that stores
    frames.
    """
    frames = train(MICRO, tmp_path / "frames", callbacks=())
    compact = replace(MICRO, replay=replace(MICRO.replay, storage="actions"))
    train(compact, tmp_path / "actions", max_epochs=1, callbacks=())
    resumed = train(compact, tmp_path / "actions", callbacks=())
    assert all(
        a.equal(b)
        for a, b in zip(frames.agent.state_dict().values(), resumed.agent.state_dict().values())
    )

    def size(run):
        return sum(p.stat().st_size for p in (tmp_path / run / "replay").iterdir())

    assert size("actions") < size("frames")


@pytest.mark.parametrize("game", ["Breakout", "Pong"])
def test_resume_in_the_middle_of_a_real_game(game, tmp_path):
    "Atari with lost lives: stop and go on equals never stopping."
    config = replace(
        MICRO, env=replace(MICRO.env, game=game), training=replace(MICRO.training, collect_steps=70)
    )
    whole = train(config, tmp_path / "whole", callbacks=())
    train(config, tmp_path / "broken", max_epochs=1, callbacks=())
    resumed = train(config, tmp_path / "broken", callbacks=())
    assert all(
        a.equal(b)
        for a, b in zip(whole.agent.state_dict().values(), resumed.agent.state_dict().values())
    )


# --- evaluation


@pytest.mark.parametrize("game", ["Catch", "Breakout"])
def test_threads_change_no_episode(game):
    "One thread or many: the same episodes, frame by frame, in the order of their seeds."
    agent, env = (
        build_agent(TINY, 3 if game == "Catch" else 4).eval(),
        replace(TINY.env, game=game, eval_max_frames=120),
    )
    one, many = (
        evaluate_policy(
            agent, lambda: make_env(env, train=False), 7, seed=3, parallel=3, keep=20, threads=n
        )
        for n in (1, 5)
    )
    assert len(one) == 7 and [e[:2] for e in one] == [e[:2] for e in many]
    assert all(
        (a.frames == b.frames).all() and (a.actions == b.actions).all() for a, b in zip(one, many)
    )


WAITS = replace(MICRO, training=replace(MICRO.training, epochs=3, evaluate_episodes=2))
BUSY = replace(
    WAITS, training=replace(WAITS.training, evaluate_every=1, evaluate_in_background=True)
)


def test_background_evaluation_judges_the_agent_that_enters(tmp_path):
    """The second process finds what this one finds for the same weights, the last evaluation plays
    the final ones, and learning goes as if nobody looked.
    """
    busy, agent = train(BUSY, tmp_path / "busy", callbacks=()), build_agent(BUSY, 3).eval()
    assert [record["evaluate/weights"] for record in read_metrics(tmp_path / "busy")] == [0, 1, 3]
    for record in read_metrics(tmp_path / "busy"):
        if record["epoch"] == 3:
            agent = busy.agent
        here = evaluate_agent(agent, BUSY, record["epoch"], torch.device("cpu"), tmp_path)
        assert {f"evaluate/{key}": value for key, value in here.items()}.items() <= record.items()
        agent = train(WAITS, tmp_path / "waits", max_epochs=record["epoch"], callbacks=()).agent
    assert all(
        a.equal(b) for a, b in zip(busy.agent.state_dict().values(), agent.state_dict().values())
    )

    def names(run):
        return {path.name for path in (tmp_path / run).iterdir()}

    assert names("busy") == names("waits") | {"pictures"}
    pictures = {path.name: path.read_bytes() for path in (tmp_path / "pictures").iterdir()}
    assert len(pictures) == 3 and pictures == {
        path.name: path.read_bytes() for path in (tmp_path / "busy/pictures").iterdir()
    }


def test_a_failing_background_evaluation_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "shy_env.py").write_text(
        f"from pathlib import Path\nfrom iris_edu.envs import make_env\ndef make(config, train=True):\n    seen = Path({str(tmp_path / 'seen')!r})\n"
        "    if not train and seen.exists(): raise RuntimeError('no ticket')\n    if not train: seen.touch()\n    return make_env(config, train)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    shy = replace(BUSY, parts=replace(BUSY.parts, environment="shy_env:make"))
    with pytest.raises(
        UserError,
        match=r"evaluation of epoch 1 in the background failed \(.*RuntimeError: no ticket in shy_env.py, line 5.*\)",
    ) as error:
        train(shy, tmp_path / "run", callbacks=())
    assert "\n" not in str(error.value) and not (tmp_path / "run" / CHECKPOINT).exists()
    waits = replace(
        shy, training=replace(shy.training, evaluate_every=0, evaluate_in_background=False)
    )
    assert train(waits, tmp_path / "run", callbacks=()).epoch == 3


def test_the_way_of_evaluating_may_change(finished):
    "It changes no weight, so the same folder goes on with it."
    assert (
        train(
            replace(MICRO, training=replace(MICRO.training, evaluate_in_background=True)),
            finished,
            callbacks=(),
        ).epoch
        == 2
    )


# --- files on a bad day


@pytest.fixture
def finished(tmp_path):
    train(MICRO, tmp_path / "run", callbacks=())
    return tmp_path / "run"


def shell(line, capsys):
    "Exit code and error text of a command; errors are one line, never a traceback."
    code = cli.main(line.split())
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.err


@pytest.mark.parametrize("keep", [0, 3, 100, 5000])
def test_truncated_checkpoint(keep, finished, capsys):
    whole, good = (finished / CHECKPOINT).read_bytes(), (finished / PREVIOUS).read_bytes()
    (finished / CHECKPOINT).write_bytes(whole[:keep])
    code, error = shell(f"evaluate {finished} --episodes 1", capsys)
    assert (
        code == 2
        and "is damaged" in error
        and f"mv {finished / CHECKPOINT} {finished / CHECKPOINT}.damaged" in error
        and error.count("\n") == 1
    )
    assert (finished / PREVIOUS).read_bytes() == good and (
        finished / CHECKPOINT
    ).read_bytes() == whole[:keep]


def test_foreign_checkpoint(finished, capsys):
    import safetensors.torch

    safetensors.torch.save_file({"w": torch.zeros(2)}, finished / CHECKPOINT)
    code, error = shell(f"evaluate {finished} --episodes 1", capsys)
    assert code == 2 and "not a checkpoint of iris_edu" in error


def test_pickles_are_never_executed(finished, tmp_path, capsys):
    """A malicious pickle under the checkpoint's name, or inside an experience file, is refused and
    not run.
    """

    import numpy as np

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    torch.save(Bomb(), tmp_path / "bomb.pt")
    (finished / CHECKPOINT).write_bytes((tmp_path / "bomb.pt").read_bytes())
    assert shell(f"evaluate {finished} --episodes 1", capsys)[0] == 2
    np.savez(finished / "replay" / "epoch_0001.npz", actions=np.array([Bomb()], dtype=object))
    with pytest.raises(UserError):
        recordings.load_recording(finished / "replay" / "epoch_0001.npz")
    assert not (tmp_path / "exploded").exists()


def test_full_disk_keeps_the_last_checkpoint(finished, monkeypatch):
    "No space left on the device while writing: one sentence, the old checkpoint intact, no litter."
    before = {
        path.name: path.read_bytes() for path in finished.iterdir() if path.suffix == ".safetensors"
    }

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="space"):
        checkpoint.save_checkpoint(
            finished, {"agent.tokenizer.w": torch.zeros(9)}, checkpoint.Header(MICRO, 3, epoch=3)
        )
    assert {
        path.name: path.read_bytes() for path in finished.iterdir() if path.suffix == ".safetensors"
    } == before
    assert load_checkpoint(finished)[1].epoch == 2


def test_file_too_large_for_the_system(tmp_path):
    """A real failing write, in a process whose files may not grow.

    Exit code 2, one sentence, no traceback.
    """
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000));"
        "from iris_edu.apps.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    options = "--preset tiny --game Catch --training.epochs 1 --training.collect-epochs 1 --training.collect-steps 5 --training.tokenizer-after 9 --training.evaluate-every 0"
    done = subprocess.run(
        [sys.executable, "-c", code, "train", *options.split(), "--run-dir", str(tmp_path / "run")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr and "iris-edu:" in done.stderr
    assert not list((tmp_path / "run").glob("checkpoint*"))


def test_same_folder_other_options(finished):
    with pytest.raises(UserError, match="started with training.updates = 1"):
        train(replace(MICRO, training=replace(MICRO.training, updates=2)), finished)


def test_second_process_is_refused(finished):
    lock = run.lock_run(finished)
    with pytest.raises(UserError, match="in use"):
        train(MICRO, finished)
    lock.release()


# --- bad input: exit code 2 and one sentence


@pytest.mark.parametrize(
    "line, words",
    [
        ("train --preset tiny --game Pnog", "Pong"),
        ("train --preset tiny --game Pendulum-v1", "action space"),
        ("train --preset tiny --game CartPole-v1", "image"),
        ("train --preset gigantic", "choose one of tiny"),
        ("train --preset tiny --game Catch --autoencoder.tokens 20", "square"),
        ("train --preset tiny --game Catch --training.collect-steps -5", "collect_steps is -5"),
        ("train --preset tiny --game Catch --max-epochs -1", "max-epochs"),
        ("train --preset tiny --game Catch --seed -1", "seed is -1"),
        ("train --preset tiny --game Catch --precision fp8", "one of fp32, tf32"),
        ("train --preset tiny --game Catch --device tpu", "device"),
        ("train --preset tiny --game Catch --quantizer nowhere:FSQ", "cannot import"),
        ("train --preset tiny --game Catch --quantizer FSQ", "module:Name"),
        ("train --preset tiny --game Catch --env.size 32", "size"),
        ("evaluate RUN", "no run and no checkpoint"),
        ("evaluate RUN --episodes 0", "episodes"),
        ("report RUN", "no run and no checkpoint"),
        ("fly", "no command"),
    ],
)
def test_bad_input(line, words, tmp_path, capsys):
    run = tmp_path / "run"
    line = line.replace("RUN", str(run)) + (f" --run-dir {run}" if line.startswith("train") else "")
    code, error = shell(line, capsys)
    assert code == 2 and words in error and error.count("\n") == 1, error
    assert not (run / CHECKPOINT).exists()


@pytest.mark.parametrize(
    "line",
    ["train --preset tiny --trainin.epochs 3", "train --preset tiny --seed many", "evaluate"],
)
def test_wrong_words_exit_with_2(line, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(line.split())
    assert stop.value.code == 2


def test_help_and_info(capsys):
    assert cli.main([]) == 0 and "iris-edu COMMAND" in capsys.readouterr().out
    assert cli.main(["info"]) == 0
    shown = capsys.readouterr().out
    assert all(words in shown for words in ("torch 2", "Pong", "vgg16", "tiny"))
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--preset", "atari100k", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "--training.learning-rate" in text and "--quantizer" in text and "0.0001" in text


def test_tensorboard_if_asked(tmp_path):
    code = cli.main(
        f"train --preset tiny --game Catch --run-dir {tmp_path}/run --tensorboard --max-epochs 1 --training.collect-steps 5".split()
    )
    assert code == 0 and list((tmp_path / "run" / "tensorboard").iterdir())


def test_another_gymnasium_environment(tmp_path):
    "Any gymnasium id with images and discrete actions trains by the same command."
    code = cli.main(
        f"train --preset tiny --game ALE/Freeway-v5 --run-dir {tmp_path}/run --max-epochs 1 --training.collect-steps 5".split()
    )
    assert code == 0 and load_run(tmp_path / "run")[0].env.game == "ALE/Freeway-v5"


# --- environments of other people

OWN = """import gymnasium as gym, numpy as np
class Chase(gym.Env):
    observation_space, action_space = gym.spaces.Box(0, 255, (20, 20), np.uint8), gym.spaces.Discrete(2, start=1)
    luck = False
    def reset(self, *, seed=None, options=None): super().reset(seed=seed); self.t = 0; return self.see(), {}
    def see(self): frame = np.full((20, 20), 9 * self.t % 256, np.uint8); frame[self.t % 20] = np.random.default_rng().integers(255) if self.luck else 255; return frame
    def step(self, action): self.t += 1; return self.see(), float(action == 2), self.t == 23, False, {}
class Lucky(Chase): luck = True
class Endless(Chase):
    def step(self, action): frame, reward, *_ = super().step(action); return frame, reward, False, False, {}
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_games.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda name, **options: replace(
        MICRO,
        parts=replace(MICRO.parts, environment=f"own_games:{name}"),
        training=replace(MICRO.training, epochs=3, **options),
    )
    sys.modules.pop("own_games", None)


def test_an_own_environment_trains_stops_and_goes_on(own, tmp_path):
    config = own("Chase", evaluate_every=1, evaluate_in_background=True)
    whole = train(config, tmp_path / "whole", callbacks=())
    for epoch in (1, 2, 3):
        parts = train(config, tmp_path / "parts", max_epochs=epoch, callbacks=())
    assert all(
        a.equal(b)
        for a, b in zip(whole.agent.state_dict().values(), parts.agent.state_dict().values())
    )
    assert read_run(tmp_path / "whole", trust=["own_games"]).replays is True and whole.in_background
    result = evaluate_run(tmp_path / "whole", 2, trust=["own_games"])
    assert result["game"] == "own_games:Chase" and len(result["returns"]) == 2
    assert "own_games:Chase" in score_report([tmp_path / "whole"], trust=["own_games"])


@pytest.mark.parametrize("storage", ["frames", "actions"])
def test_a_game_that_does_not_replay_is_cut_at_a_stop(own, tmp_path, storage, capsys):
    config = replace(own("Lucky"), replay=replace(MICRO.replay, storage=storage))
    train(config, tmp_path / "run", max_epochs=1, callbacks=())
    assert (
        "does not replay" in capsys.readouterr().out
        and read_run(tmp_path / "run", trust=["own_games"]).replays is False
    )
    first = load_recording(experience_path(tmp_path / "run", 1))
    trainer = train(config, tmp_path / "run", callbacks=())
    assert "it is cut here" in capsys.readouterr().out and trainer.epoch == 3
    lengths = trainer.replay.lengths.tolist()
    assert sum(lengths) == 2 * config.training.collect_steps
    frames = trainer.replay.frames[: len(first)].numpy()
    # frames of size 64, made by chance, are the ones that were seen
    assert np.array_equal(frames, first.frames)
    second = load_recording(experience_path(tmp_path / "run", 2))
    assert second.starts[0] == 0 and not (first.terminated[-1] or first.truncated[-1])


def test_actions_alone_are_refused_when_their_frames_come_back_different(own, tmp_path):
    config = replace(own("Chase"), replay=replace(MICRO.replay, storage="actions"))
    train(config, tmp_path / "run", max_epochs=1, callbacks=())
    sys.modules["own_games"].Chase.luck = True
    with pytest.raises(
        UserError,
        match="recording of epoch 1 holds actions only, and does not replay .*--leave-out 1",
    ):
        train(config, tmp_path / "run", callbacks=())
    assert train(config, tmp_path / "run", leave_out=(1,), callbacks=()).epoch == 3


def test_an_endless_game_ends_by_the_clock(own):
    config = replace(own("Endless"), env=replace(MICRO.env, eval_max_frames=40))
    agent = build_agent(config, 2).eval()
    played = evaluate_policy(agent, lambda: make_environment(config), 3, seed=0)
    assert [episode.length for episode in played] == [40] * 3


def test_what_only_this_process_knows_is_evaluated_here(tmp_path, capsys):
    gym.register("OnlyHere-v0", entry_point=Catch)
    try:
        config = replace(
            BUSY,
            env=replace(BUSY.env, game="OnlyHere-v0"),
            training=replace(BUSY.training, epochs=2),
        )
        trainer = train(config, tmp_path / "run", callbacks=())
    finally:
        gym.registry.pop("OnlyHere-v0")
    assert "a second process cannot make" in capsys.readouterr().out and not trainer.in_background
    assert [record["evaluate/weights"] for record in read_metrics(tmp_path / "run")] == [1, 2]


class NaughtyReward(Catch):
    def step(self, action):
        frame, reward, *rest = super().step(action)
        return frame, float("nan") if self.row == 5 else reward, *rest


def test_a_class_may_be_given_and_a_bad_reward_stops_with_a_sentence(tmp_path):
    config = replace(MICRO, parts=replace(MICRO.parts, environment=NaughtyReward))
    assert config.parts.environment.endswith(":NaughtyReward")
    with pytest.raises(UserError, match="NaughtyReward' gave the reward nan"):
        train(config, tmp_path / "run", callbacks=())


class Listening(UniformSegments):
    "A sampler that notes what came of its batches."

    heard = []

    def hear(self, name, batches, losses):
        self.heard.append((name, len(batches), all(loss.ndim == 0 for loss in losses.values())))


def test_a_sampler_hears_the_losses_of_its_batches(tmp_path):
    Listening.heard.clear()
    parts = replace(MICRO.parts, segment_sampler=Listening)
    trainer = train(replace(MICRO, parts=parts), tmp_path / "run", max_epochs=1, callbacks=())
    learners = [name for name, _, _ in Listening.heard]
    assert learners == [name for name in LEARNERS for _ in range(MICRO.training.updates)]
    assert all(count == 1 and scalars for _, count, scalars in Listening.heard)
    assert isinstance(trainer.replay.sampler, Listening)


def test_a_part_without_weights_gets_no_optimiser(tmp_path):
    agent = build_agent(MICRO, 3)
    agent.tokenizer = torch.nn.Identity()
    assert list(build_optimizers(agent, MICRO.training)) == ["world_model", "actor_critic"]


def test_only_the_tokenizer_reads_frames(tmp_path):
    trainer = train(MICRO, tmp_path / "run", max_epochs=1, callbacks=())
    rng = torch.Generator().manual_seed(0)
    frames = {name: sample_batch(trainer, name, rng).frames is not None for name in LEARNERS}
    assert frames == {"tokenizer": True, "world_model": False, "actor_critic": False}

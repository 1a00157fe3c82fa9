"""Real environments of other packages, each trained for three short epochs, killed after the first, resumed and evaluated.

    make third-party                        # builds an environment of its own, installs third_party.txt, runs this
    python tests/third_party.py minigrid    # some of them, where they are installed

Not part of `make test`: it needs some hundred megabytes of other people's packages.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CRAFTER = """
import crafter
import gymnasium as gym

class Crafter(gym.Env):
    "Crafter, which has the interface of the old gym, and takes its seed when it is made."
    observation_space, action_space = gym.spaces.Box(0, 255, (64, 64, 3), "uint8"), gym.spaces.Discrete(17)

    def reset(self, *, seed=None, options=None):
        self.game = crafter.Env(seed=seed)
        return self.game.reset(), {}

    def step(self, action):
        frame, reward, over, info = self.game.step(action)
        return frame, reward, over and info["discount"] == 0, over and info["discount"] > 0, info
"""
GAMES = {
    "minigrid": "--game minigrid:MiniGrid-DoorKey-5x5-v0 --env.render",
    "minigrid-codes": "--game minigrid:MiniGrid-Empty-5x5-v0",
    "minatar": "--game minatar.gym:MinAtar/Breakout-v1 --env.render",
    "highway": "--game highway_env:highway-fast-v0 --env.render",
    "vizdoom": "--game vizdoom.gymnasium_wrapper:VizdoomBasic-v1",
    "crafter": "--environment my_crafter:Crafter",
    "cartpole": "--game CartPole-v1 --env.render",
    "car-racing": "--game CarRacing-v3 --env.options continuous=False",
    "frozen-lake": "--game FrozenLake-v1 --env.render",
}
SHORT = (
    "--preset tiny --device cpu --training.epochs 3 --training.collect-epochs 3 --training.collect-steps 60 --training.updates 2 --training.tokenizer-after 0 "
    "--training.world-model-after 0 --training.actor-critic-after 1 --training.evaluate-every 2 --training.evaluate-episodes 1 --training.evaluate-in-background --env.eval-max-frames 60"
)


def command(words: str, folder: Path) -> subprocess.Popen:
    "iris-edu in a folder; its output goes to log.txt there."
    return subprocess.Popen(
        [sys.executable, "-m", "iris_edu", *words.split()],
        cwd=folder,
        stdout=(folder / "log.txt").open("a"),
        stderr=subprocess.STDOUT,
    )


def finish(words: str, folder: Path) -> None:
    "Run a command to its end; AssertionError with its last words if it fails."
    code = command(words, folder).wait(timeout=900)
    assert code == 0, (
        f"{words.split()[0]} left with exit code {code}: "
        + (folder / "log.txt").read_text().strip()[-600:]
    )


def try_game(options: str) -> str:
    "Train, kill, resume and evaluate one game; a line on how it went."
    folder = Path(tempfile.mkdtemp())
    (folder / "my_crafter.py").write_text(CRAFTER)
    train, run = f"train {SHORT} {options} --run-dir run", folder / "run"
    process, began = command(train, folder), time.monotonic()
    while (
        not (run / "checkpoint.safetensors").exists()
        and process.poll() is None
        and time.monotonic() - began < 600
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (run / "checkpoint.safetensors").exists(), (
        "no first epoch: " + (folder / "log.txt").read_text().strip()[-600:]
    )
    before = len((run / "metrics.jsonl").read_text().splitlines())
    finish(train, folder)
    module = re.search(r"([\w.]+):", options)
    trust = f"--trust {module[1]}" if module else ""
    finish(f"evaluate run --episodes 2 {trust}", folder)
    finish(f"score run {trust}", folder)
    epochs = [
        json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    result = json.loads((run / "evaluation.json").read_text())
    replays = json.loads((run / "config.json").read_text())["replays"]
    assert epochs == [1, 2, 3] and result["game"] in options and len(result["returns"]) == 2
    return f"{result['game']}: killed after epoch {before}, resumed, {'replays' if replays else 'does not replay'}, returns {result['returns']}"


if __name__ == "__main__":
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame without a screen
    failed = []
    for name in sys.argv[1:] or GAMES:
        try:
            print(f"{name:15s} {try_game(GAMES[name])}", flush=True)
        except AssertionError as error:
            failed.append(name), print(f"{name:15s} FAILED {error}", flush=True)
    sys.exit(bool(failed))

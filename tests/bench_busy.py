"""How much slower training is beside other work: one epoch of the preset small on a quiet machine, and with processes that never rest.

python tests/bench_busy.py [PROCESSES] prints seconds and the ratio for threads that sleep while they wait, as iris-edu has them, and for threads that spin.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = [
    Path(sys.executable).with_name("iris-edu"),
    *(
        "train --preset small --training.epochs 1 --training.collect-epochs 1 --training.collect-steps 200 --training.tokenizer-updates 60 "
        "--training.evaluate-every 0 --run-dir"
    ).split(),
]


def seconds(policy):
    "Seconds of the command under a waiting policy of OpenMP."
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(
            [*COMMAND, f"{folder}/run"],
            env=os.environ | {"OMP_WAIT_POLICY": policy},
            check=True,
            capture_output=True,
        )
        return time.perf_counter() - start


def main(processes):
    "Print both policies, quiet and busy."
    quiet = {policy: seconds(policy) for policy in ("PASSIVE", "ACTIVE")}
    others = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)
    ]
    try:
        busy = {policy: seconds(policy) for policy in quiet}
    finally:
        for other in others:
            other.kill()
    for policy in quiet:
        print(
            f"{policy:8} quiet {quiet[policy]:6.1f} s   beside {processes} others {busy[policy]:6.1f} s   ratio {busy[policy] / quiet[policy]:.2f}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4)

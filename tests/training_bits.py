"""Trains every shipped agent for a moment and prints digests of what they left; run as a script.

With "disturbed" for its last argument it does so from another thread, among settings of torch and
numpy that a user may have made before.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading

import numpy as np
import torch
from shipped import OWN, PEERS

import rlgrad
from rlgrad.store import load_checkpoint

SMALL = {"num_envs": 2, "num_steps": 16, "max_episode_steps": 40, "vec": "sync"}


def digest(run):
    """Of the last checkpoint's tensors, and of the record without what a clock says."""
    tensors, _ = load_checkpoint(run.checkpoints()[-1])
    rows = [{k: x for k, x in row.items() if not k.startswith("time/")} for row in run.metrics()]
    sha = hashlib.sha256(json.dumps(rows).encode())
    for name, x in sorted(tensors.items()):
        sha.update(name.encode() + x.numpy().tobytes())
    return sha.hexdigest()


def train_all(folder):
    """Digests by agent, of two seeds where they are trained together."""
    found = {}
    for agent in (*OWN, *PEERS):
        flags = {} if agent in PEERS else {**SMALL, "seeds": "1000,1001"}
        run = rlgrad.train(
            "CartPole-v1", agent, total_timesteps=96, eval_episodes=1, quiet=True,
            log_dir=folder, **flags,
        )  # fmt: skip
        found[agent] = digest(run)
    return found


def disturb():
    """Settings that change bits where nobody puts them aside."""
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    torch.set_flush_denormal(True)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.set_grad_enabled(False)
    torch.set_autocast_enabled("cpu", True)


def main():
    if sys.argv[-1] == "disturbed":
        disturb()
    print(json.dumps(train_all(sys.argv[1])))


if __name__ == "__main__":
    if sys.argv[-1] == "disturbed":
        thread = threading.Thread(target=main)
        thread.start()
        thread.join()
    else:
        main()

"""``rlgrad export``: hand a trained policy on to where there is no Python."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlgrad.chosen import Chosen
from rlgrad.errors import UsageError
from rlgrad.output import check_writable, write_whole
from rlgrad.terminal import out

if TYPE_CHECKING:
    import gymnasium

    from rlgrad.store import Run


@dataclass(frozen=True)
class Export(Chosen):
    """Export a trained policy as an ONNX file, checked against onnxruntime."""

    onnx: str | None = None
    """File to write, such as policy.onnx."""
    json: bool = False
    """Print what was written as JSON on standard output."""

    def execute(self, chosen: dict[str, Any]) -> int:
        """Build, check, write."""
        path = self._check()
        import torch

        torch.set_num_threads(1)
        run = self.run()
        if run.peer is not None:
            raise UsageError(
                f"{run.path} is of the peer {run.agent}; only rlgrad's own agents are exported: "
                "Stable-Baselines3's documentation shows how to export its policies"
            )
        data, about, worst = self._built(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)
        if self.json:
            told = {"path": str(path), "bytes": len(data), "largest_difference": worst}
            out(json.dumps({**told, **about}))
        else:
            out(f"wrote {path}: {run.env_id}, {self.told(run)}, {len(data):,} bytes")
            out(f"probabilities in onnxruntime differ by at most {worst:.1e} from the run's")
        return 0

    def _built(self, run: Run) -> tuple[bytes, dict[str, str], float]:
        """(the file's content, what it says of itself, the largest difference found)."""
        from gymnasium.spaces import Discrete

        from rlgrad.acting import Actor
        from rlgrad.exporting.checking import largest_difference
        from rlgrad.exporting.graph import model_of
        from rlgrad.loading import load_learner
        from rlgrad.make import make_one

        learner, seed = load_learner(run, self.seed, self.checkpoint(run))
        env = make_one(run.env_id, run.env_kwargs, run.config.max_episode_steps)
        try:
            about, actor = self._about(run, seed, env), learner.actor()
            if not isinstance(actor, Actor):
                raise UsageError(
                    f"{run.path} has a convolutional policy, and only perceptrons are exported; "
                    "rlgrad.load(...).predict acts from Python"
                )
            discrete = isinstance(env.action_space, Discrete)
            space, masked = env.observation_space, learner.masked
            data = model_of(actor, space, discrete, about, masked).SerializeToString()
            return data, about, largest_difference(data, actor, env)
        finally:
            env.close()

    def _check(self) -> Path:
        """What can be refused before anything is loaded."""
        self.which()
        if not self.onnx or not self.onnx.strip():
            raise UsageError("export needs a file to write: --onnx policy.onnx")
        path = Path(self.onnx)
        if path.suffix != ".onnx" or path.is_dir():
            raise UsageError(f"got --onnx {self.onnx!r}; expected a file that ends in .onnx")
        check_writable(path, "--onnx")
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
        except ImportError as error:
            raise UsageError(
                f"exporting needs {error.name}, which is not installed: pip install 'rlgrad[onnx]'"
            ) from None
        return path

    def _about(self, run: Run, seed: int, env: gymnasium.Env[Any, Any]) -> dict[str, str]:
        """What the file says of itself."""
        import numpy as np

        from rlgrad.action_names import action_names
        from rlgrad.versions import versions

        start = getattr(env.action_space, "start", 0)
        return {
            "environment": run.env_id,
            "agent": run.agent,
            "seed": str(seed),
            "checkpoint": str(self.which()),
            "action_space": str(env.action_space),
            "action_names": json.dumps(action_names(env)),
            "action_start": json.dumps(np.asarray(start).tolist()),
            "observation_space": str(env.observation_space),
            "rlgrad": versions()["rlgrad"],
        }

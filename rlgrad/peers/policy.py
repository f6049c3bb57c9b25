"""A peer's policy as logits, so that evaluation and ``Agent`` treat it like any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space
from gymnasium.spaces.utils import flatdim
from jaxtyping import Float, Num
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize
from torch import Tensor

from rlgrad.actions import Actions
from rlgrad.errors import UsageError
from rlgrad.peers.algorithm import Subject, empty, untouched
from rlgrad.preflight import fitting
from rlgrad.reading import conform
from rlgrad.store import Run

Tensors = dict[str, Tensor]


def unflattened(space: Space[Any], x: NDArray[Any]) -> Any:
    """Flattened observations ``[n, F]`` as a batch of the space's own."""
    if isinstance(space, Dict):
        widths = [flatdim(member) for member in space.spaces.values()]
        parts = np.split(x, np.cumsum(widths)[:-1], axis=1)
        pairs = zip(space.spaces.items(), parts, strict=True)
        return {key: unflattened(member, part) for (key, member), part in pairs}
    if isinstance(space, Discrete):
        return x.argmax(1)
    if isinstance(space, MultiDiscrete):
        ends = np.cumsum(space.nvec.reshape(-1))[:-1]
        chosen = [part.argmax(1) for part in np.split(x, ends, axis=1)]
        return np.stack(chosen, 1).reshape(len(x), *space.shape)
    assert isinstance(space, (Box, MultiBinary))
    return x.reshape(len(x), *space.shape).astype(space.dtype)


def moments(env: VecEnv | None) -> dict[str, Any]:
    """The running moments of ``VecNormalize`` by name; none where there is no such wrapper."""
    found = None if env is None else unwrap_vec_normalize(env)
    if found is None:
        return {}
    named = {"returns": found.ret_rms}
    if found.norm_obs:
        rms: Any = found.obs_rms
        named |= (
            {f"observations.{key}": each for key, each in rms.items()}
            if isinstance(rms, dict)
            else {"observations": rms}
        )
    return named


def state_of(algorithm: BaseAlgorithm, seed: int) -> Tensors:
    """Copies of a seed's parameters and running moments, named ``<seed>/…``, on the CPU."""
    state = {
        f"{seed}/policy.{name}": tensor.detach().cpu().clone()
        for name, tensor in algorithm.policy.state_dict().items()
    }
    for name, each in moments(algorithm.env).items():
        for part in ("mean", "var", "count"):
            value = np.array(getattr(each, part), dtype=np.float64)
            state[f"{seed}/{name}.{part}"] = torch.from_numpy(value)
    return state


class PeerPolicy:
    """The policy of an algorithm of Stable-Baselines3.

    Its logits are those of its own distribution where it has one. Value-based algorithms act
    greedily but for a share of uniform actions (``exploration_rate``); their logits say so, so
    that sampling them is their ``predict(deterministic=False)`` and their argmax is the greedy one.

    Args:
        subject: what it is.
        algorithm: whose ``policy`` acts.
        env: with the spaces, and with ``VecNormalize`` where observations are normalised.

    Raises:
        UsageError: for a policy with memory or action masks, and for spaces that do not start
            at 0, which Stable-Baselines3 does not know.
    """

    masked = False

    def __init__(self, subject: Subject, algorithm: BaseAlgorithm, env: VecEnv) -> None:
        one = subject.make()
        self.space, actions = one.observation_space, Actions(one.action_space)
        members = self.space.spaces.values() if isinstance(self.space, Dict) else [self.space]
        for space in (*members, one.action_space):
            if np.any(getattr(space, "start", 0)):
                raise UsageError(
                    f"{subject.env_id} has a space {space}, and Stable-Baselines3 counts from 0: "
                    f"{subject.agent} cannot serve it"
                )
        one.close()
        self._check(subject, algorithm)
        self.sizes, self.shape = actions.sizes, (len(actions.sizes), max(actions.sizes))
        self.algorithm, self.normaliser = algorithm, unwrap_vec_normalize(env)

    def _check(self, subject: Subject, algorithm: BaseAlgorithm) -> None:
        policy, name = algorithm.policy, type(algorithm).__name__
        if hasattr(policy, "lstm_actor"):
            raise UsageError(f"{subject.agent}: {name} has a memory, which rlgrad has not")
        if "Maskable" in type(policy).__name__:
            raise UsageError(f"{subject.agent}: {name} masks actions, which rlgrad does not")

    def actor(self) -> Callable[[Any], Any]:
        """Flattened observations ``[1, n, F]`` -> logits ``[1, n, D, A]``, numpy arrays."""
        return self._act

    @torch.no_grad()
    def _act(self, x: Num[np.ndarray, "1 n F"]) -> Float[np.ndarray, "1 n D A"]:
        observation = unflattened(self.space, x[0])
        if self.normaliser is not None:
            observation = self.normaliser.normalize_obs(observation)
        if hasattr(self.algorithm.policy, "get_distribution"):
            logits = self._distribution(observation)
        else:
            logits = self._greedy(observation)
        return logits[None]

    def valuer(self) -> Callable[[Any], float] | None:
        """Flattened observation ``[F]`` -> its value by the critic, or its largest Q, in returns.

        None where the algorithm has neither.
        """
        policy: Any = self.algorithm.policy
        find = getattr(policy, "predict_values", None) or getattr(policy, "q_net", None)
        if find is None:
            return None
        scale = 1.0
        if self.normaliser is not None and self.normaliser.norm_reward:
            scale = float(np.sqrt(self.normaliser.ret_rms.var + self.normaliser.epsilon))

        @torch.no_grad()
        def value(x: Float[np.ndarray, " F"]) -> float:
            observation = unflattened(self.space, x[None])
            if self.normaliser is not None:
                observation = self.normaliser.normalize_obs(observation)
            return scale * float(find(policy.obs_to_tensor(observation)[0]).max())

        return value

    def _padded(self, factors: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Logits ``[n, A_d]`` per factor as ``[n, D, A]``; what does not exist is -inf."""
        logits = np.full((len(factors[0]), *self.shape), -np.inf, dtype=np.float32)
        for d, each in enumerate(factors):
            logits[:, d, : self.sizes[d]] = each
        return logits

    def _distribution(self, observation: Any) -> NDArray[np.float32]:
        policy: Any = self.algorithm.policy
        policy.set_training_mode(False)
        found = policy.get_distribution(policy.obs_to_tensor(observation)[0]).distribution
        if isinstance(found, list):
            return self._padded([each.logits.cpu().numpy() for each in found])
        logits = found.logits.cpu().numpy()
        if isinstance(found, torch.distributions.Bernoulli):
            return np.stack([np.zeros_like(logits), logits], -1)
        return self._padded([logits])

    def _greedy(self, observation: Any) -> NDArray[np.float32]:
        chosen, _ = self.algorithm.policy.predict(observation, deterministic=True)
        action = chosen.reshape(len(chosen), -1)
        share = float(getattr(self.algorithm, "exploration_rate", 0.0))
        factors = []
        for d, size in enumerate(self.sizes):
            p = np.full((len(action), size), share / size, dtype=np.float32)
            p[np.arange(len(action)), action[:, d]] += 1 - share
            with np.errstate(divide="ignore"):
                factors.append(np.log(p))
        return self._padded(factors)


def load_peer(
    run: Run, seed: int, path: Path, tensors: Mapping[str, Tensor], counters: Mapping[str, Any]
) -> PeerPolicy:
    """A peer's policy, rebuilt as the run's card says, with a checkpoint's parameters.

    Args:
        run: of a peer.
        seed: which of its seeds.
        path: of the checkpoint, for messages.
        tensors: of the checkpoint.
        counters: of the checkpoint.

    Raises:
        UsageError: where the checkpoint does not fit, or never saw the seed.
    """
    assert run.peer is not None
    if not any(name.startswith(f"{seed}/") for name in tensors):
        raise UsageError(f"{path}: seed {seed} had not begun when the run ended")
    subject = Subject(run.agent, run.env_id, run.env_kwargs, run.config, run.peer)
    with untouched():
        algorithm, env = empty(subject)
    expected = state_of(algorithm, seed)
    for name, each in moments(env).items():
        for part in ("mean", "var", "count"):
            key = f"{seed}/{name}.{part}"
            like = np.asarray(getattr(each, part))
            found = fitting(path, key, tensors.get(key), torch.float64, like.shape)
            setattr(each, part, found.numpy() if like.ndim else float(found))
    state = {
        name.partition("/policy.")[2]: fitting(path, name, tensors.get(name), x.dtype, x.shape)
        for name, x in expected.items()
    }
    algorithm.policy.load_state_dict(state)
    shares = counters.get("exploration_rate", {})
    try:
        conform(shares, dict.fromkeys(shares, float) if isinstance(shares, dict) else {}, "it")
    except ValueError as error:
        raise UsageError(f"{path}: exploration_rate is damaged: {error}") from None
    if str(seed) in shares:
        algorithm.exploration_rate = float(shares[str(seed)])  # type: ignore[attr-defined]
    return PeerPolicy(subject, algorithm, env)

"""Return any environment with pictures Toto's embeddings instead.

    env = TotoObservation(env, load_encoder("toto-nano"))              # gymnasium.Env
    envs = TotoVectorObservation(envs, load_encoder("toto-nano"))      # gymnasium.vector.VectorEnv
    venv = TotoVecEnv(venv, load_encoder("toto-nano"))                 # Stable-Baselines3's VecEnv
    env = TotoObservation(env, encoder, stream=StreamConfig(context=16))       # with a memory

Of a Dict observation every `image_<camera>` (uint8 [h w 3]) becomes `embedding_<camera>` (float32
[e]), and all else passes through. An observation that is one picture becomes one embedding. All
pictures of a step (all cameras, all environments, and the last pictures of episodes that have just
ended) of one size go through the encoder in one call.

With a stream, each camera of each environment has a past of its own, which begins anew with every
episode, whichever way the environment is reset. A past grows by one frame a step, and never else.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray

from ..encoders.streaming import StreamConfig
from .embedder import AnyEncoder, Observation, ObservationEmbedder

__all__ = [
    "TotoVectorObservation",
]

StepResult = tuple[Observation, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]


class TotoVectorObservation(VectorWrapper):
    """Wrap a `gymnasium.vector.VectorEnv`, in any of its three autoreset modes.

    With `AutoresetMode.SAME_STEP` the `final_obs` of the infos are embedded, too.

    Args:
        env: its single observations are a Dict with `image_<camera>` entries, or one picture.
        encoder: what `load_encoder` returns, or what it opens: a shipped name or a folder.
        stream: how each camera's past is kept; None: each frame by itself. It begins anew with
            each episode: in the step that shows its first frame, or in a `reset` with a
            `reset_mask`, which leaves the others' pasts as they are. The last frame of an ended
            episode (`final_obs`) still sees that episode's past.

    Raises:
        ValueError: no picture in the observation space, or one that is not uint8 [h w 3]; or a
            stream that cannot be.
    """

    def __init__(
        self, env: VectorEnv, encoder: AnyEncoder, *, stream: StreamConfig | None = None
    ) -> None:
        super().__init__(env)
        self._embedder = ObservationEmbedder(
            env.single_observation_space, encoder, self.num_envs, stream
        )
        self.encoder = self._embedder.encoder
        self.single_observation_space = self._embedder.space(
            env.single_observation_space, batch=None
        )
        self.observation_space = self._embedder.space(env.observation_space, batch=env.num_envs)
        self._mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self._ended = np.zeros(self.num_envs, np.bool_)
        self._latest: Observation = None  # embeddings, for environments that are not reset

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Reset, and embed the first observations."""
        mask = None if options is None else options.get("reset_mask")
        observations, infos = self.env.reset(seed=seed, options=options)
        self._ended = np.zeros(self.num_envs, np.bool_)
        if self._embedder.remembers and mask is not None and self._latest is not None:
            return self._begin_some(observations, np.flatnonzero(mask)), infos
        begins = np.ones(self.num_envs, np.bool_)
        (embedded,) = self._embedder.embed([observations], [range(self.num_envs)], [begins])
        return self._keep(embedded), infos

    def step(self, actions: Any) -> StepResult:
        """Step, and embed the observations, and those of ended episodes."""
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        ended = np.asarray(terminations | truncations)
        last = self._last_images(infos.get("final_obs"), ended)
        # where nothing is reset within a step, nothing begins in it
        begins = np.isin(np.arange(self.num_envs), list(last))
        if self._mode != AutoresetMode.DISABLED:
            begins |= ended if self._mode == AutoresetMode.SAME_STEP else self._ended
        *embedded_last, embedded = self._embedder.embed(
            [*last.values(), observations],
            [*([row] for row in last), range(self.num_envs)],
            [*(np.zeros(1, np.bool_) for _ in last), begins],
        )
        self._ended = ended
        if "final_obs" in infos:
            parts = dict(zip(last, embedded_last, strict=True))
            infos = infos | {"final_obs": self._replace_last(infos["final_obs"], parts)}
        return self._keep(embedded), rewards, terminations, truncations, infos

    def _begin_some(self, observations: Observation, rows: NDArray[np.intp]) -> Observation:
        """Embed the first observations of some environments; the others have shown nothing new."""
        embedder = self._embedder
        embedded = embedder.join(observations, [self._latest])
        if len(rows):
            pictures = embedder.pictures(observations, rows)
            (part,) = embedder.embed([pictures], [rows.tolist()], [np.ones(len(rows), np.bool_)])
            embedder.replace_rows(embedded, rows, part)
        return self._keep(embedded)

    def _keep(self, embedded: Observation) -> Observation:
        if self._embedder.remembers:
            self._latest = self._embedder.embeddings(embedded)
        return embedded

    def _last_images(self, final: Any, ended: NDArray[np.bool_]) -> dict[int, Observation]:
        """Return the images in `final_obs`, as batches of one, by environment."""
        if final is None:
            return {}
        if _one_each(final):
            found = {row: one for row, one in enumerate(final) if one is not None}
        else:
            found = {row: self._embedder.row(final, row) for row in np.flatnonzero(ended).tolist()}
        return {row: self._embedder.pictures(one, None) for row, one in found.items()}

    def _replace_last(self, final: Any, parts: Mapping[int, Observation]) -> Any:
        """Return `final_obs` with embeddings in the place of images."""
        embedder = self._embedder
        if not _one_each(final):  # a batch, in which the rows of running episodes mean nothing
            nothing = embedder.nothing()
            return embedder.join(final, [parts.get(row, nothing) for row in range(self.num_envs)])
        embedded = np.full(len(final), None, dtype=object)
        for row, part in parts.items():
            embedded[row] = embedder.join_one(final[row], part)
        return embedded


def _one_each(final: Any) -> bool:
    """Tell one observation, or None, for each environment from a batch of observations."""
    return isinstance(final, np.ndarray) and final.dtype.hasobject

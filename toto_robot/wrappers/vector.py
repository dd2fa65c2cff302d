"""Replace the images of any environment's observations by Toto's embeddings.

    env = TotoObservation(env, load_encoder("toto-nano"))              # gymnasium.Env
    envs = TotoVectorObservation(envs, load_encoder("toto-nano"))      # gymnasium.vector.VectorEnv
    venv = TotoVecEnv(venv, load_encoder("toto-nano"))                 # Stable-Baselines3's VecEnv
    env = TotoObservation(env, encoder, stream=StreamConfig(context=16))       # with a memory

Images are found by their spaces (`toto_robot.wrappers.images`); everything else passes through.
All images of a step (all cameras, all environments, and the last images of episodes that have just
ended) of one size go through the encoder in one call.

With a stream, each camera of each environment has a past of its own, which begins anew with every
episode, in every autoreset mode. A past grows by one frame a step.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray

from ..encoders.streaming import StreamConfig
from .embedder import (
    AnyEncoder,
    Embeddings,
    ImageChoice,
    Images,
    Observation,
    ObservationEmbedder,
)

__all__ = [
    "TotoVectorObservation",
]

StepResult = tuple[Observation, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]


class TotoVectorObservation(VectorWrapper):
    """Wrap a `gymnasium.vector.VectorEnv`, in any of its three autoreset modes.

    With `AutoresetMode.SAME_STEP` the `final_obs` of the infos are embedded, too.

    Args:
        env: its observations contain images: uint8, or floats in [0, 1].
        encoder: what `load_encoder` returns, or what it opens: a shipped name or a folder.
        stream: how each camera's past is kept; None: each frame by itself. It begins anew with
            each episode: in the step that shows its first frame, or in a `reset` with a
            `reset_mask`, which leaves the others' pasts as they are. The last frame of an ended
            episode (`final_obs`) still sees that episode's past.
        cameras: which images, by path (`pixels/top`) or camera name; a mapping gives each path its
            camera's name. None: every image that is recognised.
        exclude: paths or camera names of images that stay as they are.
        layout: `hwc`, `chw` or `hw`, where the shape of an image is ambiguous; of all, or by name.
        colour_order: `rgb` or `bgr`.
        flip: `vertical` or `rotate180`, where images are upside down; of all, or by name.

    Raises:
        ValueError: no image in the observation space, an ambiguous one, or an invalid stream; the
            message lists the candidates and the argument to add.
    """

    def __init__(
        self,
        env: VectorEnv,
        encoder: AnyEncoder,
        *,
        stream: StreamConfig | None = None,
        cameras: Sequence[str] | Mapping[str, str] | None = None,
        exclude: Sequence[str] = (),
        layout: str | Mapping[str, str] | None = None,
        colour_order: str = "rgb",
        flip: str | Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(env)
        single = env.single_observation_space
        self._embedder = ObservationEmbedder(
            single,
            encoder,
            self.num_envs,
            stream,
            ImageChoice(
                cameras=cameras,
                exclude=exclude,
                layout=layout,
                colour_order=colour_order,
                flip=flip,
            ),
        )
        self.encoder = self._embedder.encoder
        self.single_observation_space = self._embedder.space(single, batch=None)
        self.observation_space = self._embedder.space(env.observation_space, batch=env.num_envs)
        self._mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self._ended = np.zeros(self.num_envs, np.bool_)
        self._latest: Embeddings | None = None  # for environments that are not reset

    @property
    def cameras(self) -> dict[str, str]:
        """What is embedded: by camera, the image's place and how it is read."""
        return self._embedder.cameras

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Reset, and embed the first observations."""
        mask = None if options is None else options.get("reset_mask")
        observations, infos = self.env.reset(seed=seed, options=options)
        self._ended = np.zeros(self.num_envs, np.bool_)
        if self._latest is not None and mask is not None:
            parts = self._begin_some(observations, np.flatnonzero(mask), self._latest)
        else:
            images = self._embedder.images(observations, slice(None))
            begins = np.ones(self.num_envs, np.bool_)
            (parts,) = self._embedder.embed([images], [range(self.num_envs)], [begins])
        self._keep(parts)
        return self._embedder.replace(observations, parts, single=False), infos

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
            [*last.values(), self._embedder.images(observations, slice(None))],
            [*([row] for row in last), range(self.num_envs)],
            [*(np.zeros(1, np.bool_) for _ in last), begins],
        )
        self._ended = ended
        if "final_obs" in infos:
            parts = dict(zip(last, embedded_last, strict=True))
            infos = infos | {"final_obs": self._replace_last(infos["final_obs"], parts)}
        self._keep(embedded)
        replaced = self._embedder.replace(observations, embedded, single=False)
        return replaced, rewards, terminations, truncations, infos

    def _begin_some(
        self, observations: Observation, rows: NDArray[np.intp], latest: Embeddings
    ) -> Embeddings:
        """Embed the first observations of some environments; the others have no new ones."""
        parts = [part.copy() for part in latest]
        if len(rows):
            images = self._embedder.images(observations, rows)
            begins = np.ones(len(rows), np.bool_)
            (new,) = self._embedder.embed([images], [rows.tolist()], [begins])
            for part, one in zip(parts, new, strict=True):
                part[rows] = one
        return parts

    def _keep(self, parts: Embeddings) -> None:
        if self._embedder.remembers:
            self._latest = [part.copy() for part in parts]

    def _last_images(self, final: Any, ended: NDArray[np.bool_]) -> dict[int, Images]:
        """Return the images in `final_obs`, as batches of one, by environment."""
        if final is None:
            return {}
        images = self._embedder.images
        if _one_each(final):
            return {row: images(one, None) for row, one in enumerate(final) if one is not None}
        return {int(row): images(final, np.array([row])) for row in np.flatnonzero(ended)}

    def _replace_last(self, final: Any, parts: Mapping[int, Embeddings]) -> Any:
        """Return `final_obs` with embeddings in the place of images."""
        if _one_each(final):
            embedded = np.full(len(final), None, dtype=object)
            for row, part in parts.items():
                embedded[row] = self._embedder.replace(final[row], part, single=True)
            return embedded
        # a batch, in which the rows of running episodes have no meaning
        size = (self.num_envs, self.encoder.dim)
        whole = [np.zeros(size, np.float32) for _ in self._embedder.entries]
        for row, part in parts.items():
            for one, new in zip(whole, part, strict=True):
                one[row] = new[0]
        return self._embedder.replace(final, whole, single=False)


def _one_each(final: Any) -> bool:
    """Tell one observation, or None, for each environment from a batch of observations."""
    return isinstance(final, np.ndarray) and final.dtype.hasobject

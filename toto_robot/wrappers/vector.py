"""Replace the images of an environment's observations by the embeddings of an encoder.

    env = TotoObservation(env, load_encoder("toto-nano"))              # gymnasium.Env
    envs = TotoVectorObservation(envs, load_encoder("toto-nano"))      # gymnasium.vector.VectorEnv
    venv = TotoVecEnv(venv, load_encoder("toto-nano"))                 # Stable-Baselines3's VecEnv
    env = TotoObservation(env, encoder, stream=StreamConfig(context=16))       # uses earlier frames

`toto_robot.wrappers.images` finds the images; all other entries are unchanged. All images of the
same size in a step are encoded in one call: those of all cameras and all environments, and the last
images of episodes that have just ended. Images may be torch tensors, or arrays of another library
with DLPack: they are passed to the encoder on the device where they are.

With a stream, each camera of each environment has a separate cache of earlier frames. Each step
adds a frame to the cache. The beginning of an episode clears it, in each of Gymnasium's autoreset
modes (the three ways in which an environment begins the next episode).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray
from torch import Tensor

from ..encoders.streaming import StreamConfig
from .embedder import (
    AnyEncoder,
    Embeddings,
    ImageChoice,
    Images,
    Observation,
    ObservationEmbedder,
)
from .upside_down import warn_upside_down

__all__ = [
    "TotoVectorObservation",
]

# rewards, terminations and truncations are arrays, or tensors on the device of the environments
StepResult = tuple[Observation, Any, Any, Any, dict[str, Any]]


class TotoVectorObservation(VectorWrapper):
    """A wrapper of `gymnasium.vector.VectorEnv` that replaces images by embeddings.

    It works with all three autoreset modes. With `AutoresetMode.SAME_STEP`, the images in
    `final_obs` of the infos are also replaced.

    Args:
        env: environments whose observations contain images of uint8, or of floats in [0, 1].
        encoder: an encoder, or a name or folder that `load_encoder` accepts.
        stream: settings of streams, with which embeddings also depend on earlier frames of the
            episode; None: embeddings depend on one frame only. The step that returns the first
            frame of an episode clears the cache of earlier frames. `reset` with a `reset_mask`
            clears only the caches of the masked environments. The embedding of an episode's last
            frame (`final_obs`) depends on the frames of this episode, not of the next.
        cameras: paths (such as `pixels/top`) or camera names of the images; a mapping from paths to
            names renames cameras. None: all detected images.
        exclude: paths or camera names of images that are not embedded.
        layout: order of the axes of images with an ambiguous shape, `hwc`, `chw` or `hw`; one value
            for all of them, or a mapping by path or camera name. None: detected from the shape.
        colour_order: order of the colour channels of all images, `rgb` or `bgr` (OpenCV).
        flip: operation that turns images upright, `vertical` or `rotate180`; one value for all
            images, or a mapping by path or camera name. None: images are not turned.

    Raises:
        ValueError: the space has no image or only ambiguous images (the message lists them and the
            argument to add), or the settings of the stream are invalid.
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
        warn_upside_down(env, flip)
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
        self._latest: Embeddings | None = (
            None  # embeddings of the last step, for environments that are not reset
        )

    @property
    def cameras(self) -> dict[str, str]:
        """The embedded images: for each camera, a text with the path and the conversion."""
        return self._embedder.cameras

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Reset environments, and return the embedded observations and the infos."""
        mask = None if options is None else options.get("reset_mask")
        observations, infos = self.env.reset(seed=seed, options=options)
        begin = np.ones(self.num_envs, np.bool_) if mask is None else _flags(mask)
        self._ended = self._ended & ~begin
        if self._latest is not None and mask is not None:
            parts = self._begin_some(observations, np.flatnonzero(begin), self._latest)
        else:
            images = self._embedder.images(observations, slice(None))
            everyone = np.ones(self.num_envs, np.bool_)
            (parts,) = self._embedder.embed([images], [range(self.num_envs)], [everyone])
        self._keep(parts)
        return self._embedder.replace(observations, parts, single=False), infos

    def step(self, actions: Any) -> StepResult:
        """Step the environments, and return the results with embeddings in place of images."""
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        ended = _flags(terminations | truncations)
        last = self._last_images(infos.get("final_obs"), ended)
        # without a reset within the step, no episode begins in it
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
        """Return `latest`, with new embeddings for environments `rows`, whose episodes begin."""
        parts = [part.copy() for part in latest]
        if len(rows):
            images = self._embedder.images(observations, rows)
            begins = np.ones(len(rows), np.bool_)
            (new,) = self._embedder.embed([images], [rows.tolist()], [begins])
            for part, one in zip(parts, new, strict=True):
                part[rows] = one
        return parts

    def _keep(self, parts: Embeddings) -> None:
        if self._embedder.has_stream:
            self._latest = [part.copy() for part in parts]

    def _last_images(self, final: Any, ended: NDArray[np.bool_]) -> dict[int, Images]:
        """Return the images in `final_obs` for each ended episode, by the index of its environment.

        The images of an environment are a batch of size 1.
        """
        if final is None:
            return {}
        images = self._embedder.images
        if _one_each(final):
            return {row: images(one, None) for row, one in enumerate(final) if one is not None}
        return {int(row): images(final, np.array([row])) for row in np.flatnonzero(ended)}

    def _replace_last(self, final: Any, parts: Mapping[int, Embeddings]) -> Any:
        """Return `final_obs` with embeddings in place of images."""
        if _one_each(final):
            embedded = np.full(len(final), None, dtype=object)
            for row, part in parts.items():
                embedded[row] = self._embedder.replace(final[row], part, single=True)
            return embedded
        # a batch, whose rows of running episodes have no meaning
        size = (self.num_envs, self.encoder.dim)
        whole = [np.zeros(size, np.float32) for _ in self._embedder.entries]
        for row, part in parts.items():
            for one, new in zip(whole, part, strict=True):
                one[row] = new[0]
        return self._embedder.replace(final, whole, single=False)


def _flags(values: Any) -> NDArray[np.bool_]:
    """Return flags of environments, which may be a tensor on a GPU, as an array."""
    return np.asarray(values.cpu() if isinstance(values, Tensor) else values, np.bool_)


def _one_each(final: Any) -> bool:
    """Return whether `final` has one entry per environment, an observation or None.

    Otherwise `final` is a batch of observations.
    """
    return isinstance(final, np.ndarray) and final.dtype.hasobject

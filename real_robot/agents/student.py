"""A trained policy as an agent: frames to embeddings to actions, as in simulation to the bit.

The only part of the loop that needs torch, and it imports it when a policy is opened; the policy
may also be on another machine (`remote`).
"""

import hashlib
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from envs.interface import Interface
from toto_robot.moved import moved_names

from ..cameras.camera import Image
from ..episode import Observation, Proposal
from .fitting import fit_interface, proprio_columns

if TYPE_CHECKING:
    from policies.vision import EpisodeEmbedder
    from toto_robot.encoders.streaming import EncoderStream


class StudentAgent:
    """Act by a student's checkpoint.

    Attributes:
        interface: what its numbers mean.
        note: what a person should know of how it fits; None for nothing.
        origin: what it was trained for, as far as it is known: `envs` and `tasks`.
        embeddings: float16 [c e], of the newest frames; None before the first, and of a blind one.
    """

    def __init__(
        self,
        folder: Path,
        interface: Interface,
        *,
        device: str,
        encoder: str | None = None,
        surprise: bool = False,
    ) -> None:
        """Open the policy and its eyes.

        Args:
            folder: the checkpoint.
            interface: of the robot.
            device: where it runs: `cpu`, `cuda`, or `auto` (cuda if there is one).
            encoder: where its encoder is now; None: where it was.
            surprise: whether to tell how unexpected the frames are, at the cost of running the
                whole transformer.

        Raises:
            FileNotFoundError: the checkpoint, or what it sees through, lacks a file.
            ValueError: it is damaged, is for another interface or encoder, or has eyes that cannot
                be surprised.
        """
        from policies.student import read_metadata, read_origin
        from policies.trained_policy import open_student
        from policies.vision import encoder_id
        from toto_robot.checkpoint import weights_hash

        metadata, self.origin = read_metadata(folder), read_origin(folder)
        self.interface, self.note = fit_interface(metadata.interface, interface, str(folder))
        self._columns = proprio_columns(metadata.interface, interface)
        self._student, self._encoder = open_student(folder, device, encoder, self.interface)
        self._cameras = () if self._encoder is None else self.interface.camera_names
        self.embeddings: NDArray[np.float16] | None = None
        self._images: list[Image] = []
        self._surprise: float | None = None
        self._embedder: EpisodeEmbedder | None = None
        self._stream: EncoderStream | None = None
        self._watches = surprise
        if surprise:
            self._open_stream()
        eyes = encoder_id(self._encoder)
        both = weights_hash(self._student) + ("" if eyes is None else eyes.fingerprint)
        self._hash = hashlib.sha256(both.encode()).hexdigest()
        self._name = f"policy {folder}"
        # an episode's thread that hangs in `act` must be through before the next one's resets
        self._acting = threading.Lock()

    @property
    def name(self) -> str:
        """Which policy."""
        return self._name

    @property
    def weights_hash(self) -> str:
        """Return the hash of student and encoder together."""
        return self._hash

    def reset(self, observation: Observation) -> None:
        """Forget the episode before, and warm up: the first pass through a network is slow."""
        with self._acting:
            self._begin()
            self._act(observation)
            self._begin()

    def act(self, observation: Observation) -> Proposal:
        """Return the next action, or as many as the student gives at once."""
        with self._acting:
            return self._act(observation)

    def _act(self, observation: Observation) -> Proposal:
        from toto_robot.encoders.contract import compress_each

        begun_s = time.monotonic()
        seen: dict[str, Any] = {"proprio": observation.proprio[None, self._columns]}
        timings_s: dict[str, float] = {}
        if self._encoder is not None and self._embedder is not None:
            images = [observation.frames[name].image for name in self._cameras]
            if self._is_news(images):
                codes = compress_each(self._encoder, images)[None]
                tokenized_s = time.monotonic()
                self.embeddings = self._embedder.embed(codes, [0])[0]
                embedded_s = time.monotonic()
                timings_s = {
                    "tokenizer": tokenized_s - begun_s,
                    "encoder": embedded_s - tokenized_s,
                }
                if self._stream is not None:
                    self._surprise = self._token_cost(codes[0])
                    timings_s["surprise"] = time.monotonic() - embedded_s
                self._images = images
            assert self.embeddings is not None
            for camera, name in enumerate(self._cameras):
                seen[f"embedding_{name}"] = self.embeddings[camera][None]
        acting_s = time.monotonic()
        if self._student.metadata.student.chunk > 1:
            actions = self._student.act_chunk(seen)[0]
        else:
            actions = self._student.act(seen)
        timings_s["policy"] = time.monotonic() - acting_s
        return Proposal(
            actions=np.ascontiguousarray(actions, dtype=np.float32),
            observed_s=observation.stamp_s,
            surprise=self._surprise,
            timings_s=timings_s,
        )

    def close(self) -> None:
        """Do nothing: memory is freed with the object."""

    def _is_news(self, images: list[Image]) -> bool:
        """Return whether a picture is new: those that were looked at have their embeddings already.

        Cameras that are slower than the loop, or late, then cost no second look. A past counts
        looks, as in simulation, so with one everything is news.
        """
        if self._encoder is None or self._encoder.past != "none" or self._stream is not None:
            return True
        same = len(images) == len(self._images)
        return not (same and all(a is b for a, b in zip(images, self._images, strict=True)))

    def _begin(self) -> None:
        from policies.vision import EpisodeEmbedder

        self._student.reset()
        self._images, self._surprise = [], None
        if self._encoder is not None:
            self._embedder = EpisodeEmbedder(self._encoder, 1, len(self._cameras))
        if self._watches:
            self._open_stream()

    def _open_stream(self) -> None:
        from toto_robot.encoders.streamed import surprise_stream

        self._stream = surprise_stream(self._encoder, len(self._cameras))

    def _token_cost(self, tokens: Any) -> float:
        """Return what the newest frames' tokens [c n] cost the model on average, nats."""
        import torch

        assert self._stream is not None
        with torch.no_grad():
            self._stream.step_tokens(torch.from_numpy(tokens.astype(np.int64)))
        return float(self._stream.surprise.mean())


__getattr__ = moved_names(
    __name__,
    {
        "PolicyConfig": "real_robot.agents.opening:PolicyConfig",
        "SERVER": "real_robot.agents.opening:SERVER",
    },
)

"""Agent that runs a trained policy: it computes embeddings from frames, and actions from them.

The computation is the same as in simulation. No other module of the control loop needs torch, and
torch is imported only when a policy is loaded. The policy may also run on another machine, see
`real_robot.agents.remote`.
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
    """Agent that computes its actions with a trained policy network, loaded from a checkpoint.

    Attributes:
        interface: action and observation spec that the policy and the robot share.
        note: note if the policy was trained for another arm with the same kinematics, else None.
        origin: environments (`envs`) and task descriptions (`tasks`) of the training; a key is
            missing if the checkpoint does not contain it.
        embeddings: embeddings of the newest frames, float16 [c e]: c cameras, e numbers each. None
            before the first frame, and for a policy without cameras.
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
        """Load the policy and its encoder.

        Args:
            folder: the folder of a checkpoint, or the folder of a training run that contains the
                checkpoint as `policy/`.
            interface: the robot's action and observation spec.
            device: device that computes the policy: `cpu`, `cuda`, or `auto` (cuda if available).
            encoder: folder of the encoder; None uses the folder whose path is stored in the
                checkpoint.
            surprise: True to compute the surprisal (negative log-likelihood) of the frames. This is
                slower, because all layers of the transformer must run.

        Raises:
            FileNotFoundError: a file of the checkpoint or of its encoder is missing.
            ValueError: the checkpoint is damaged, the policy needs other actions or observations
                than the robot has, the encoder is not the encoder of the training, or the
                encoder cannot compute surprisal.
        """
        from policies.oracle import require_state
        from policies.student import read_metadata, read_origin
        from policies.trained_policy import find_checkpoint, open_student
        from policies.vision import encoder_id
        from toto_robot.checkpoint import weights_hash

        folder, _ = find_checkpoint(folder)
        metadata, self.origin = read_metadata(folder), read_origin(folder)
        require_state(str(folder), metadata.interface, interface)
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
        encoder_used = encoder_id(self._encoder)
        both = weights_hash(self._student) + (
            "" if encoder_used is None else encoder_used.fingerprint
        )
        self._hash = hashlib.sha256(both.encode()).hexdigest()
        self._name = f"policy {folder}"
        # Held during `act`, which runs in the thread of an episode: the `reset` of the next episode
        # waits until `act` has ended.
        self._acting = threading.Lock()

    @property
    def name(self) -> str:
        """Return the name of the policy."""
        return self._name

    @property
    def weights_hash(self) -> str:
        """Return one hash of the weights of policy network and encoder."""
        return self._hash

    def reset(self, observation: Observation) -> None:
        """Reset the policy at the start of an episode.

        The policy also computes one action that is not used, because the first pass through a
        network is slow.
        """
        with self._acting:
            self._begin()
            self._act(observation)
            self._begin()

    def act(self, observation: Observation) -> Proposal:
        """Return the next action of the policy, or its next chunk of actions."""
        with self._acting:
            return self._act(observation)

    def _act(self, observation: Observation) -> Proposal:
        from toto_robot.encoders.contract import compress_each

        begun_s = time.monotonic()
        inputs: dict[str, Any] = {"proprio": observation.proprio[None, self._columns]}
        timings_s: dict[str, float] = {}
        if self._encoder is not None and self._embedder is not None:
            images = [observation.frames[name].image for name in self._cameras]
            if self._has_new_image(images):
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
                inputs[f"embedding_{name}"] = self.embeddings[camera][None]
        acting_s = time.monotonic()
        if self._student.metadata.student.chunk > 1:
            actions = self._student.act_chunk(inputs)[0]
        else:
            actions = self._student.act(inputs)
        timings_s["policy"] = time.monotonic() - acting_s
        return Proposal(
            actions=np.ascontiguousarray(actions, dtype=np.float32),
            observed_s=observation.stamp_s,
            surprise=self._surprise,
            timings_s=timings_s,
        )

    def close(self) -> None:
        """Do nothing: memory is freed with the object."""

    def _has_new_image(self, images: list[Image]) -> bool:
        """Return whether the images must be encoded; if they did not change, embeddings are reused.

        A camera may be slower than the control loop. Its frame is then encoded only once. An
        encoder with temporal context, or the computation of surprisal, needs the frames of every
        time step, as in simulation. In these cases the result is always True.
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
        """Return the mean surprisal of the newest frames, nats per token.

        Args:
            tokens: tokens [c n]: c cameras, n tokens per frame.
        """
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

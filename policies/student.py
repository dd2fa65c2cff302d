"""The student: a policy network from the cameras' embeddings and proprioception to an action.

The network follows MVP (Xiao et al., arXiv 2203.06173, and its code): a linear projection of each
input, then an MLP. It differs in three ways: inputs are standardised by the statistics of the
training data, the activation function is SiLU, and each camera has its own projection. A student
can also predict a chunk (a sequence of the next actions) from each observation, as RPT does
(Radosavovic et al., arXiv 2306.10007, section 4).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from envs.interface import OWN, Interface
from toto_robot import FrameEncoder
from toto_robot.checkpoint import build_module, load_weights, read_config, save_checkpoint
from toto_robot.config import from_dict, to_dict
from toto_robot.moved import moved_names

from .environment import AnyEnv
from .frames import build_cnn
from .vision import CnnVision, EncoderId, VisionConfig, encoder_id

KIND = "student"
# Standardised proprioception is clipped to +-5: an input that hardly varied in training could
# become huge.
_CLIP = 5.0
# An input whose standard deviation in the training data is below this share of its smallest divisor
# counts as constant: its weights have not been trained, so it must not change the action.
_CONSTANT = 1e-3
# Rows per step of computing statistics, which bounds the memory.
_CHUNK = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentConfig:
    """Settings of the student's network.

    Attributes:
        projection: number of outputs of the linear projection of each input.
        hidden: numbers of units in the hidden layers of the MLP.
        dropout: dropout probability of the projected inputs during training, in [0, 1).
        smallest_std: each element of an embedding is divided by its standard deviation in the
            training data, but at least by this value, so that nearly constant elements are not
            amplified. The elements have magnitudes of about 1. Constant elements are ignored.
        chunk: number of next actions that the network predicts from each observation. An old
            checkpoint without this setting is read as 1.
        clip: each element of a standardised embedding is clipped to [-clip, clip], in standard
            deviations of the training data. In scenes that look different from the training data,
            many elements are outside this range. An old checkpoint without this setting is read
            as 5.
        noise: standard deviation of the Gaussian noise that is added to the clipped embeddings
            during training, in standard deviations of the training data. The student then relies
            less on single elements, which can help in scenes that look different. An old
            checkpoint without this setting is read as 0.
    """

    projection: int
    hidden: tuple[int, ...]
    dropout: float
    smallest_std: float
    chunk: int = 1
    clip: float = 5.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.projection < 1 or not self.hidden or min(self.hidden) < 1:
            raise ValueError("projection and hidden must be positive, and hidden not empty")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.smallest_std <= 0:
            raise ValueError(f"smallest_std must be positive, got {self.smallest_std}")
        if self.chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {self.chunk}")
        if self.clip <= 0:
            raise ValueError(f"clip must be positive, got {self.clip}")
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"noise must be finite and not negative, got {self.noise}")


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentMetadata:
    """The description of a student in its checkpoint.

    Attributes:
        student: settings of the network.
        interface: action and observation spec of the policy.
        env: environment of the training; None: the student was trained on data only.
        vision: settings of the vision encoder that was used in training.
        encoder: identity of this encoder; None: the student does not use images.
    """

    student: StudentConfig
    interface: Interface
    env: AnyEnv | None
    vision: VisionConfig
    encoder: EncoderId | None


class StudentPolicy(nn.Module):
    """A policy network whose inputs are the embedding of each camera and proprioception.

    Shapes: b observations, c cameras, e elements of an embedding, p elements of proprioception, a
    elements of an action, k actions of a chunk.

    Attributes:
        metadata: the description of the student in its checkpoint.
        keys: the keys that an observation must have: `embedding_<camera>` for each camera, and
            `proprio`. Other keys are an error.
        chunk: number of next actions that the network predicts from each observation.
    """

    def __init__(self, metadata: StudentMetadata) -> None:
        super().__init__()
        config, interface = metadata.student, metadata.interface
        cameras, dim = _embedding_shape(metadata)
        self.metadata = metadata
        self.keys = (*(f"embedding_{name}" for name in interface.camera_names[:cameras]), "proprio")
        width = len(interface.proprio)
        self.register_buffer("embedding_mean", torch.zeros(cameras, dim))
        self.register_buffer("embedding_std", torch.ones(cameras, dim))
        self.register_buffer("proprio_mean", torch.zeros(width))
        self.register_buffer("proprio_std", torch.ones(width))
        self._has_own_units = interface.action_kind == OWN
        if self._has_own_units:
            self.register_buffer("action_middle", torch.zeros(len(interface.action)))
            self.register_buffer("action_reach", torch.ones(len(interface.action)))
        self.project_cameras = nn.ModuleList(
            build_cnn(metadata.vision.image_size, config.projection)
            if isinstance(metadata.vision, CnnVision)
            else nn.Linear(dim, config.projection)
            for _ in range(cameras)
        )
        self.project_proprio = nn.Linear(width, config.projection)
        layers: list[nn.Module] = [
            nn.LayerNorm(config.projection * (cameras + 1)),
            nn.SiLU(),
            nn.Dropout(config.dropout),
        ]
        width = config.projection * (cameras + 1)
        for hidden in config.hidden:
            layers += [nn.Linear(width, hidden), nn.SiLU()]
            width = hidden
        self.chunk = config.chunk
        self.mlp = nn.Sequential(*layers, nn.Linear(width, self.chunk * len(interface.action)))
        self.eval()

    def forward(
        self, embeddings: Float[Tensor, "b c e"], proprio: Float[Tensor, "b p"]
    ) -> Float[Tensor, "b a"]:
        """Return the next action of each observation, not clipped to [-1, 1]."""
        return self.chunks(embeddings, proprio)[:, 0]

    def chunks(
        self, embeddings: Float[Tensor, "b c e"], proprio: Float[Tensor, "b p"]
    ) -> Float[Tensor, "b k a"]:
        """Return the next k = `chunk` actions of each observation, not clipped to [-1, 1]."""
        features = self.features(embeddings, proprio)
        return self.mlp[-1](features).unflatten(1, (self.chunk, -1))

    def features(
        self, embeddings: Float[Tensor, "b c e"], proprio: Float[Tensor, "b p"]
    ) -> Float[Tensor, "b h"]:
        """Return the h inputs of the last layer, which computes the actions from them."""
        proprio = (proprio - self.proprio_mean) / self.proprio_std
        parts = [self.project_proprio(proprio.clamp(-_CLIP, _CLIP))]
        embeddings = (embeddings.float() - self.embedding_mean) / self.embedding_std
        clip, noise = self.metadata.student.clip, self.metadata.student.noise
        embeddings = embeddings.clamp(-clip, clip)
        if self.training and noise:
            embeddings = embeddings + noise * torch.randn_like(embeddings)
        parts += [
            project(embeddings[:, camera]) for camera, project in enumerate(self.project_cameras)
        ]
        return self.mlp[:-1](torch.cat(parts, dim=1))

    def act(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the action [a] for one observation, or [b a] for a batch, clipped to the limits.

        The limits are -1 and 1. If the student was trained on actions in the units of a third-party
        data set, the limits are the smallest and largest actions of the training data.

        Raises:
            ValueError: the observation has other keys than `keys`, or other shapes.
        """
        return self.act_chunk(observation)[..., 0, :]

    @torch.no_grad()
    def act_chunk(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the next actions [chunk a] for one observation, or [b chunk a] for a batch.

        The actions are clipped to the same limits as in `act`.

        Raises:
            ValueError: the observation has other keys than `keys`, or other shapes.
        """
        if set(observation) != set(self.keys):
            raise ValueError(
                f"this student takes exactly {', '.join(self.keys)}, got "
                f"{', '.join(sorted(observation))}"
            )
        device = self.proprio_mean.device
        proprio = torch.as_tensor(observation["proprio"], device=device)
        width = len(self.proprio_mean)
        if proprio.shape[-1:] != (width,) or proprio.ndim not in (1, 2):
            raise ValueError(f"proprio must be [b {width}] or [{width}], got {list(proprio.shape)}")
        rows = proprio.reshape(-1, width)
        num_cameras, dim = self.embedding_mean.shape
        embeddings = torch.zeros(len(rows), num_cameras, dim, device=device)
        for camera, key in enumerate(self.keys[:-1]):
            value = torch.as_tensor(observation[key], device=device)
            if value.shape != (*proprio.shape[:-1], dim):
                raise ValueError(
                    f"{key} must be {[*proprio.shape[:-1], dim]}, got {list(value.shape)}"
                )
            embeddings[:, camera] = value.reshape(-1, dim)
        actions = self.chunks(embeddings, rows).clamp(-1.0, 1.0)
        if self._has_own_units:
            actions = self.action_middle + actions * self.action_reach
        return actions.reshape(*proprio.shape[:-1], *actions.shape[1:]).cpu().numpy()

    def reset(self) -> None:
        """Do nothing, because a student has no memory of earlier observations."""

    def standardise(
        self, embeddings: Float[Tensor, "n c e"], proprio: Float[Tensor, "n p"]
    ) -> None:
        """Store mean and standard deviation of n training inputs, to standardise all inputs.

        An input that never varies in them has the divisor infinity: it becomes 0 and has no effect.
        """
        if not isinstance(self.metadata.vision, CnnVision):  # whose pixels are in [-1, 1] already
            self._standardise_embeddings(embeddings)
        self.proprio_mean.copy_(proprio.mean(0))
        smallest = torch.full_like(self.proprio_std, 1e-2)
        if self._has_own_units:
            smallest = 1e-3 * proprio.abs().amax(0).to(smallest).clamp(min=1e-6)
        self.proprio_std.copy_(_divisor(proprio.std(0, unbiased=False).to(smallest), smallest))

    def _standardise_embeddings(self, embeddings: Float[Tensor, "n c e"]) -> None:
        total = torch.zeros_like(self.embedding_mean, dtype=torch.float64)
        squares = torch.zeros_like(total)
        for chunk in embeddings.split(_CHUNK):
            chunk = chunk.to(total.device, torch.float64)
            total += chunk.sum(0)
            squares += chunk.square().sum(0)
        mean = total / len(embeddings)
        std = (squares / len(embeddings) - mean.square()).clamp(min=0).sqrt()
        self.embedding_mean.copy_(mean)
        smallest = torch.full_like(std, self.metadata.student.smallest_std)
        self.embedding_std.copy_(_divisor(std, smallest))

    def set_range(self, actions: Float[Tensor, "n a"]) -> None:
        """Store the smallest and largest values of n training actions as the limits of actions.

        This is done only for actions in the units of a third-party data set; for others, the limits
        stay -1 and 1.

        Raises:
            ValueError: an action is not finite.
        """
        if not self._has_own_units:
            return
        if not actions.isfinite().all():
            raise ValueError("the data set's own actions must be finite")
        low, high = actions.double().aminmax(dim=0)
        self.action_middle.copy_((low + high) / 2)
        self.action_reach.copy_((high - low) / 2)

    def as_outputs(self, actions: Float[Tensor, "*b a"]) -> Float[Tensor, "*b a"]:
        """Return actions scaled as the network's outputs: the limits are mapped to -1 and 1."""
        if not self._has_own_units:
            return actions
        middle, reach = (one.to(actions.device) for one in (self.action_middle, self.action_reach))
        return (actions - middle) / torch.where(
            reach > 0, reach, 1.0
        )  # a constant action is mapped to 0

    def save(self, folder: Path, **notes: Any) -> None:
        """Write the checkpoint: `config.json` and `weights.safetensors`, without the encoder.

        Args:
            folder: folder of the checkpoint.
            notes: additional entries for `config.json`.
        """
        save_checkpoint(folder, KIND, to_dict(self.metadata), self.state_dict(), **notes)


def read_metadata(folder: Path) -> StudentMetadata:
    """Read the metadata of a student's checkpoint.

    Raises:
        FileNotFoundError: the folder has no checkpoint.
        ValueError: the checkpoint is of another kind, or cannot be read.
    """
    return from_dict(StudentMetadata, read_config(folder, KIND)["config"], at=str(folder))


def read_origin(folder: Path) -> dict[str, list[str]]:
    """Return in which environments and for which tasks a student was trained.

    Returns:
        `envs`: environment ids; `tasks`: tasks in words. Either list can be empty.

    Raises:
        FileNotFoundError: the folder has no checkpoint.
        ValueError: the checkpoint is of another kind, or cannot be read.
    """
    found = read_config(folder, KIND).get("origin", {})
    origin = {name: [str(one) for one in found.get(name, [])] for name in ("envs", "tasks")}
    if (env := read_metadata(folder).env) is not None:
        origin["envs"].append(env.id.rpartition(":")[2])
    return origin


def load_student(folder: Path, encoder: FrameEncoder | None, interface: Interface) -> StudentPolicy:
    """Load a student, and check that it was trained for this encoder and this interface.

    Args:
        folder: the student's checkpoint.
        encoder: the encoder that computes the embeddings; None for a student without vision.
        interface: action and observation spec of the environment or robot where the student acts.

    Raises:
        FileNotFoundError: a file of the checkpoint is missing.
        ValueError: the checkpoint is damaged, or was trained for another encoder or interface; the
            message lists the differences.
    """
    metadata = read_metadata(folder)
    metadata.interface.require_equal(interface, str(folder), "the environment")
    _check_encoder(folder, metadata.encoder, encoder_id(encoder))
    weights = load_weights(folder, read_config(folder, KIND)["sha256"])
    student = build_module(lambda: StudentPolicy(metadata), weights, folder)
    return student.requires_grad_(False).eval()


def _divisor(std: Float[Tensor, "*e"], smallest: Float[Tensor, "*e"]) -> Float[Tensor, "*e"]:
    """Return by what each input is divided; infinity for an input that is constant."""
    return torch.where(std < _CONSTANT * smallest, math.inf, std.maximum(smallest))


def _check_encoder(folder: Path, expected: EncoderId | None, found: EncoderId | None) -> None:
    if expected is None and found is None:
        return
    if expected is None or found is None:
        words = ("without", "with") if expected is None else ("with", "without")
        raise ValueError(f"{folder} was trained {words[0]} an encoder, but is used {words[1]} one")
    if expected.fingerprint != found.fingerprint:
        lines = [
            f"{name}: {before} != {now}"
            for name, before, now in (
                ("layer", expected.layer, found.layer),
                ("pool", expected.pool, found.pool),
                ("past", expected.past, found.past),
                ("weights", expected.weights_hash[:12], found.weights_hash[:12]),
            )
            if before != now
        ]
        if not lines:
            lines = ["the pool's own numbers (principal components, or weights of attention)"]
        if expected.weights_hash != found.weights_hash:
            raise ValueError(
                f"{folder} was trained with another encoder (then != now): {', '.join(lines)}; "
                "train it again, or set encoder= to a folder with the weights of its training "
                "(CHANGELOG.md says where those of earlier versions of toto-nano are)"
            )
        raise ValueError(
            f"{folder} was trained with another encoder (then != now):\n  " + "\n  ".join(lines)
        )


def _embedding_shape(metadata: StudentMetadata) -> tuple[int, int]:
    if metadata.encoder is None:
        return 0, 0
    return len(metadata.interface.cameras), metadata.encoder.dim


__getattr__ = moved_names(
    __name__,
    {
        "StudentCard": "policies.student:StudentMetadata",
        "read_card": "policies.student:read_metadata",
    },
)

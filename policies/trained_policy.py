"""Load a trained policy with its vision encoder, to compute actions from images.

    policy = load_policy("runs/train")
    action = policy.act(observation)

A student is a policy that `policies.train` has trained. Its checkpoint does not contain the vision
encoder; this module loads both.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from envs.interface import Interface
from toto_robot import FrameEncoder
from toto_robot.config import to_dict
from toto_robot.device import choose_device
from toto_robot.encoders.contract import compress_each
from toto_robot.encoders.hub import is_hub_name
from toto_robot.encoders.loading import shipped_baselines, shipped_encoders

from .environment import AnyEnv
from .oracle import num_states, proprio_for
from .student import KIND, StudentPolicy, load_student, read_metadata, read_origin
from .teacher_policy import STATE
from .vision import (
    Blind,
    CnnVision,
    EpisodeEmbedder,
    PixelVision,
    StateVision,
    VisionConfig,
)

Unlocated = Blind | PixelVision | CnnVision  # encoders that have no name, folder or file


class TrainedPolicy:
    """A student with its encoder, which computes actions for one environment or robot.

    Attributes:
        student: the policy network.
        interface: action and observation spec: cameras, proprioception, actions and control rate.
        task: the task of the demonstrations in words, or the id of the training environment.
    """

    def __init__(
        self, student: StudentPolicy, encoder: FrameEncoder | None, task: str = ""
    ) -> None:
        """Combine a student with its encoder; the encoder is None for a student without vision."""
        self.student, self.task = student, task
        self.interface: Interface = student.metadata.interface
        self._encoder = encoder
        self._cameras = () if encoder is None else self.interface.cameras
        self.reset()

    @property
    def needs_state(self) -> bool:
        """Return whether observations must contain the privileged `state` (`encoder=state`)."""
        return isinstance(self.student.metadata.vision, StateVision)

    @property
    def env(self) -> AnyEnv | None:
        """Return id and options of the training environment; None: trained on data only."""
        return self.student.metadata.env

    def act(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the action float32 [a] for the next observation of an episode.

        Args:
            observation: `image_<camera>` uint8 [h w 3] for each camera, and `proprio` float32 [p],
                as the environment returns them; for a state oracle (`encoder=state`) also `state`.
                Other keys are ignored.

        Raises:
            ValueError: an image or `proprio` is missing, or has another shape or dtype.
        """
        self._check(observation)
        inputs: dict[str, NDArray[Any]] = {
            "proprio": proprio_for(self.student.metadata.vision, observation)
        }
        if self._encoder is not None:
            images = [observation[f"image_{camera.name}"] for camera in self._cameras]
            codes = compress_each(self._encoder, images)[None]
            (embeddings,) = self._embedder.embed(codes, [0])
            for camera, embedding in zip(self._cameras, embeddings, strict=True):
                inputs[f"embedding_{camera.name}"] = embedding
        return self.student.act(inputs)

    def reset(self) -> None:
        """Clear the encoder's context (the frames of the previous episode)."""
        self.student.reset()
        if self._encoder is not None:
            self._embedder = EpisodeEmbedder(self._encoder, 1, len(self._cameras))

    def _check(self, observation: Mapping[str, NDArray[Any]]) -> None:
        needed = {f"image_{one.name}": (one.height, one.width, 3) for one in self._cameras}
        states = num_states(self.interface)
        shapes = {**needed, "proprio": (len(self.interface.proprio) - states,)}
        if self.needs_state:
            shapes[STATE] = (states,)
        if missing := [key for key in shapes if key not in observation]:
            raise ValueError(
                f"this policy needs {', '.join(shapes)}; the observation lacks "
                f"{', '.join(missing)}, it has {', '.join(sorted(observation))}"
            )
        for key, shape in shapes.items():
            value = observation[key]
            if value.shape != shape or (key in needed and value.dtype != np.uint8):
                kind = "uint8 " if key in needed else ""
                raise ValueError(
                    f"{key} must be {kind}{list(shape)}, as in one observation, "
                    f"got {value.dtype} {list(value.shape)}"
                )


def load_policy(
    folder: str | Path, device: str = "auto", encoder: str | Path | None = None
) -> TrainedPolicy:
    """Load a policy that `policies.train` has trained, with its encoder.

    Args:
        folder: folder of the run, or of the checkpoint in it (`<run>/policy`).
        device: device of policy and encoder: `cpu`, `cuda`, or `auto` (cuda if available).
        encoder: where the encoder is now: a name, a folder or a file; None: where it was in
            training.

    Raises:
        FileNotFoundError: the folder has no policy, or its encoder does not exist.
        ValueError: the checkpoint is damaged or is not a student, or the encoder differs from the
            encoder of the training.
    """
    place, kind = find_checkpoint(Path(folder))
    if kind != KIND:
        raise ValueError(
            f"{place} is not a {KIND} but {kind!r}: load_policy needs a policy of policies.train"
        )
    origin = read_origin(place)
    return TrainedPolicy(
        *open_student(place, device, encoder), "; ".join(origin["tasks"] or origin["envs"])
    )


def open_student(
    folder: Path,
    device: str,
    encoder: str | Path | None = None,
    interface: Interface | None = None,
) -> tuple[StudentPolicy, FrameEncoder | None]:
    """Open a student and its encoder; the encoder is None for a student without vision.

    Args:
        folder: the student's checkpoint.
        device: device of student and encoder: `cpu`, `cuda`, or `auto` (cuda if available).
        encoder: where the encoder is now; None: where it was in training.
        interface: action and observation spec of the environment or robot where the student will
            act; None: the spec of the training environment.

    Raises:
        FileNotFoundError: a file of the checkpoint or of the encoder is missing.
        ValueError: the checkpoint is damaged, or was trained for another interface or encoder, or
            `encoder` is given for a student without vision.
    """
    metadata, device = read_metadata(folder), choose_device(device)
    vision = relocated(folder, metadata.vision, encoder)
    opened = vision.build(torch.device(device))
    student = load_student(folder, opened, metadata.interface if interface is None else interface)
    return student.to(device), opened


def relocated(
    folder: Path, vision: VisionConfig, now: VisionConfig | str | Path | None
) -> VisionConfig:
    """Return the settings of a student's encoder, with the location replaced by `now`.

    Args:
        folder: the student's checkpoint, for messages.
        vision: settings of the encoder in training.
        now: where the encoder is now; None: where it was in training.

    Raises:
        FileNotFoundError: the encoder does not exist.
        ValueError: the student has no encoder, or `now` changes layer, pool or temporal context.
    """
    if now is not None:
        if isinstance(vision, Unlocated):
            what = "images" if isinstance(vision, Blind) else "an encoder, on raw pixels"
            raise ValueError(f"{folder} was trained without {what}: remove encoder=")
        if isinstance(now, Unlocated):
            raise ValueError(f"{folder} was trained with an encoder: remove encoder={now.kind}")
        place = str(now) if isinstance(now, (str, Path)) else now.name_or_path
        before = to_dict(vision)
        changed = [
            f"{key}={value}"
            for key, value in ({} if isinstance(now, (str, Path)) else to_dict(now)).items()
            if key not in ("kind", "name_or_path") and value not in (None, False, before.get(key))
        ]
        if changed:
            raise ValueError(
                f"{folder} was trained with {before}; set only the location of the encoder: "
                f"encoder=FOLDER, without {', '.join(changed)}"
            )
        vision = replace(vision, name_or_path=place)
    if not isinstance(vision, Unlocated):
        name = vision.name_or_path
        shipped = (*shipped_encoders(), *shipped_baselines())
        if not is_hub_name(name) and name not in shipped and not Path(name).exists():
            raise FileNotFoundError(
                f"{folder} was trained with the encoder {name}, which does not exist; set its "
                "location: encoder=<name, folder or file>"
                if now is None
                else f"the encoder of {folder} was not found at {name}"
            )
    return vision


def find_checkpoint(folder: Path) -> tuple[Path, str]:
    """Return the folder of a policy's checkpoint, and the kind of the checkpoint.

    Args:
        folder: the checkpoint, or a run's folder with `policy/` in it.

    Raises:
        FileNotFoundError: the folder has no checkpoint.
        ValueError: `config.json` is damaged.
    """
    for place in (folder / "policy", folder):
        path = place / "config.json"
        try:
            kind = json.loads(path.read_text()).get("kind") if path.is_file() else None
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        if kind is not None:
            return place, kind
    rounds = sorted(folder.glob("rounds/*/policy"))
    hint = f"; the newest round's policy: {rounds[-1]}" if rounds else ""
    raise FileNotFoundError(
        f"no policy in {folder}: a checkpoint's config.json is missing, here and in "
        f"{folder / 'policy'}{hint}"
    )

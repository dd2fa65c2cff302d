"""Open a policy from the folder of a checkpoint, or from a policy server.

agent = find_policy("runs/train/policy", acting).open(station.interface)
"""

from dataclasses import dataclass
from pathlib import Path

from envs.interface import Interface

from .remote import RemoteAgent
from .student import StudentAgent

SERVER = "server:"


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyConfig:
    """Settings of how a policy runs.

    Attributes:
        device: device of the computation: `cpu`, `cuda`, or `auto` (cuda if available).
        num_threads: number of torch threads; 1 on a small machine, so that the robot has a core.
        encoder: folder of the policy's encoder; null: the folder that the checkpoint names.
        surprise: True to compute and record the surprisal of the frames, which needs more time.
        key_file: key file of the policy server.
        timeout_s: longest time for an answer of the policy server.
    """

    device: str
    num_threads: int
    encoder: str | None
    surprise: bool
    key_file: Path
    timeout_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyFolder:
    """A policy checkpoint on this machine; see `PolicyConfig` for the attributes."""

    folder: Path
    device: str
    num_threads: int
    encoder: str | None
    surprise: bool

    def open(self, interface: Interface) -> StudentAgent:
        """Load the policy and its encoder.

        Raises:
            ValueError: the policy does not fit the robot.
            FileNotFoundError: the folder contains no policy.
        """
        import torch

        torch.set_num_threads(self.num_threads)
        return StudentAgent(
            self.folder,
            interface,
            device=self.device,
            encoder=self.encoder,
            surprise=self.surprise,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyAddress:
    """A policy server at `HOST:PORT`; see `PolicyConfig` for the other attributes."""

    address: str
    key_file: Path
    timeout_s: float

    def open(self, interface: Interface) -> RemoteAgent:
        """Connect to the server.

        Raises:
            ValueError: the policy does not fit the robot.
            ConnectionError: there is no policy server at the address.
        """
        return RemoteAgent(self.address, self.key_file, interface, timeout_s=self.timeout_s)


def find_policy(policy: str, acting: PolicyConfig) -> PolicyFolder | PolicyAddress:
    """Return the policy that `policy` names: a checkpoint's folder, or `server:HOST:PORT`.

    Raises:
        ValueError: `acting` has a setting that must be set at the server.
    """
    if policy.startswith(SERVER):
        if acting.encoder is not None or acting.surprise:
            raise ValueError(
                "acting.encoder and acting.surprise do not apply to a policy server: "
                "set them in the command of the server"
            )
        return PolicyAddress(
            address=policy.removeprefix(SERVER),
            key_file=acting.key_file,
            timeout_s=acting.timeout_s,
        )
    return PolicyFolder(
        folder=Path(policy),
        device=acting.device,
        num_threads=acting.num_threads,
        encoder=acting.encoder,
        surprise=acting.surprise,
    )

"""Open a policy from the folder of its checkpoint, or connect to a policy on a policy server.

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
    """Settings of the computation of a policy: on this machine, or on a policy server.

    Attributes:
        device: device that computes the policy: `cpu`, `cuda`, or `auto` (cuda if available).
        num_threads: number of CPU threads of torch. Use 1 on a machine with few cores, so that one
            core is free for the control of the robot.
        encoder: folder of the policy's encoder; null uses the folder whose path is stored in the
            checkpoint.
        surprise: True to compute and record the surprisal (negative log-likelihood) of the
            frames; this takes more time per frame.
        key_file: path of the file with the shared key of the policy server; only used with a
            server.
        timeout_s: longest time to wait for an answer of the policy server, s; only used with a
            server.
    """

    device: str
    num_threads: int
    encoder: str | None
    surprise: bool
    key_file: Path
    timeout_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyFolder:
    """Policy checkpoint on this machine, not yet loaded.

    `PolicyConfig` explains the other attributes.

    Attributes:
        folder: folder of the checkpoint, or of a training run.
    """

    folder: Path
    device: str
    num_threads: int
    encoder: str | None
    surprise: bool

    def open(self, interface: Interface) -> StudentAgent:
        """Load the policy and its encoder, and check that the policy can control a robot.

        Args:
            interface: the robot's action and observation spec.

        Raises:
            ValueError: the policy needs other actions or observations than the robot has, or the
                checkpoint is damaged or does not match the encoder.
            FileNotFoundError: a file of the checkpoint or of its encoder is missing.
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
    """Address of a policy server; `PolicyConfig` explains the other attributes.

    Attributes:
        address: `HOST:PORT`.
    """

    address: str
    key_file: Path
    timeout_s: float

    def open(self, interface: Interface) -> RemoteAgent:
        """Connect to the policy server, and check that its policy can control a robot.

        Args:
            interface: the robot's action and observation spec.

        Raises:
            ValueError: the policy needs other actions or observations than the robot has, or the
                key file or the address is invalid.
            FileNotFoundError: the key file does not exist.
            ConnectionError: there is no policy server at the address, or it does not accept this
                client.
        """
        return RemoteAgent(self.address, self.key_file, interface, timeout_s=self.timeout_s)


def find_policy(policy: str, acting: PolicyConfig) -> PolicyFolder | PolicyAddress:
    """Return the policy in a checkpoint folder, or on a policy server; nothing is loaded yet.

    Args:
        policy: the folder of a checkpoint, or `server:HOST:PORT`.
        acting: settings of the computation.

    Raises:
        ValueError: `policy` is a server, and `acting` sets `encoder` or `surprise`. These two must
            be set in the command of the server.
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

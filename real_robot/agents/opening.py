"""Where a policy is: a checkpoint's folder here, or a policy server elsewhere.

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
    """Return where and how a policy runs.

    Attributes:
        device: `cpu`, `cuda`, or `auto` (cuda if there is one).
        num_threads: of torch; on a small machine one, so that the robot has a core.
        encoder: where its encoder is now; None: where it was.
        surprise: whether it tells how unexpected the frames are, which costs time.
        key_file: of a policy server.
        timeout_s: how long a policy server may take to answer.
    """

    device: str
    num_threads: int
    encoder: str | None
    surprise: bool
    key_file: Path
    timeout_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyFolder:
    """A checkpoint on this machine; the attributes are those of `PolicyConfig`."""

    folder: Path
    device: str
    num_threads: int
    encoder: str | None
    surprise: bool

    def open(self, interface: Interface) -> StudentAgent:
        """Load the policy and its encoder.

        Raises:
            ValueError: the policy does not fit the robot.
            FileNotFoundError: no policy is there.
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
    """A policy server, `HOST:PORT`; the other attributes are those of `PolicyConfig`."""

    address: str
    key_file: Path
    timeout_s: float

    def open(self, interface: Interface) -> RemoteAgent:
        """Connect to the server.

        Raises:
            ValueError: the policy does not fit the robot.
            ConnectionError: no policy server is there.
        """
        return RemoteAgent(self.address, self.key_file, interface, timeout_s=self.timeout_s)


def find_policy(policy: str, acting: PolicyConfig) -> PolicyFolder | PolicyAddress:
    """Read what `policy` names: a checkpoint's folder, or `server:HOST:PORT`.

    Raises:
        ValueError: a setting that only the server can have.
    """
    if policy.startswith(SERVER):
        if acting.encoder is not None or acting.surprise:
            raise ValueError("encoder and surprise are the server's business: say them there")
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

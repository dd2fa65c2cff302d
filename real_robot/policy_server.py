"""Command `python -m real_robot.policy_server`: compute a policy for an arm on another machine.

python -m real_robot.policy_server policy=runs/train/policy
python -m real_robot.deploy policy=server:127.0.0.1:5555 robot=twin     # in another shell

By default, the server accepts only clients on the same machine (loopback address). Clients must
have the server's key, see `real_robot.agents.wire`. The client, which is the computer of the arm,
sends images and proprioception, and receives actions. Its safety layer checks these actions like
the actions of a local policy.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from toto_robot.cli import command

from .agents.opening import PolicyConfig, PolicyFolder
from .agents.serving import PolicyServer
from .agents.wire import make_key, read_key

_LOOPBACK = ("127.", "localhost", "::1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    """Settings of the policy server.

    Attributes:
        policy: folder of a training run or of a policy's checkpoint.
        host: address at which the server listens. A loopback address, such as 127.0.0.1, accepts
            only clients on this machine.
        port: TCP port at which the server listens; 0 selects a free port.
        idle_timeout_s: a client that sends no message for this time, s, is disconnected.
        acting: where and how the policy is computed: device, threads, encoder. The file
            `key_file` is created if it does not exist.
    """

    policy: str
    host: str
    port: int
    idle_timeout_s: float
    acting: PolicyConfig


def policy_server(config: ServerConfig, out: Path) -> None:
    """Load a policy, and answer the requests of clients until Ctrl-C."""
    from policies.student import read_metadata
    from policies.trained_policy import find_checkpoint

    acting = config.acting
    policy = PolicyFolder(
        folder=Path(config.policy),
        device=acting.device,
        num_threads=acting.num_threads,
        encoder=acting.encoder,
        surprise=acting.surprise,
    )
    try:
        if acting.key_file.exists():
            key = read_key(acting.key_file)
        else:
            key = make_key(acting.key_file)
            print(
                f"a new key was written to {acting.key_file}, mode 0600: copy it to the robot's "
                "machine"
            )
        interface = read_metadata(find_checkpoint(policy.folder)[0]).interface
        agent = policy.open(interface)
        server = PolicyServer(
            agent,
            interface,
            key,
            host=config.host,
            port=config.port,
            idle_timeout_s=config.idle_timeout_s,
            log=lambda line: print(line, flush=True),
        )
    except (OSError, ValueError) as error:
        sys.exit(f"policy_server: {error}")
    if not config.host.startswith(_LOOPBACK):
        print(
            f"note: {config.host} is not a loopback address. Messages are authenticated but not "
            "encrypted: others in the network can read the images. Use an SSH tunnel for secrecy."
        )
    host, port = server.address
    print(f"{agent.name}, weights {agent.weights_hash[:12]}, at {host}:{port}; end with Ctrl-C")
    print(f"use: python -m real_robot.deploy policy=server:{host}:{port}", flush=True)
    try:
        server.serve()
    except KeyboardInterrupt:
        print("ended")
    finally:
        server.close()


main = command("policy_server", ServerConfig)(policy_server)

if __name__ == "__main__":
    main()

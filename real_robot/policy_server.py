"""`python -m real_robot.policy_server`: let a policy act from another machine than the robot's.

python -m real_robot.policy_server policy=runs/train/policy
python -m real_robot.deploy policy=server:127.0.0.1:5555 robot=twin     # in another shell

It listens on loopback unless told otherwise, and believes nobody without the key (see `wire`). The
robot's machine sends pictures and proprioception, nothing else, and takes actions back, which its
safety layer judges like any other's.
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
    """Say what acts for whom.

    Attributes:
        policy: a checkpoint's folder.
        host: the address to listen on; loopback for this machine alone.
        port: 0 for a free one.
        idle_timeout_s: a client that says nothing for so long is let go.
        acting: where and how the policy runs; `key_file` is made if it is not there.
    """

    policy: str
    host: str
    port: int
    idle_timeout_s: float
    acting: PolicyConfig


def policy_server(config: ServerConfig, out: Path) -> None:
    """Serve a policy until Ctrl-C."""
    from policies.student import read_metadata

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
                f"a new key was written to {acting.key_file}, mode 0600: the robot's machine "
                "needs it"
            )
        interface = read_metadata(policy.folder).interface
        agent = policy.open(interface)
        server = PolicyServer(
            agent,
            interface,
            key,
            host=config.host,
            port=config.port,
            idle_timeout_s=config.idle_timeout_s,
            tell=lambda line: print(line, flush=True),
        )
    except (OSError, ValueError) as error:
        sys.exit(f"policy_server: {error}")
    if not config.host.startswith(_LOOPBACK):
        print(
            f"note: {config.host} is not loopback. Messages are authenticated and not encrypted: "
            "who shares the network can see the pictures. An SSH tunnel hides them."
        )
    host, port = server.address
    print(f"{agent.name}, weights {agent.weights_hash[:12]}, at {host}:{port}; Ctrl-C ends it")
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

"""Learn and evaluate policies: demonstrations, rollouts, DAgger, behaviour cloning, evaluation.

A `gymnasium.Env` can be used if its observation is a Dict of `image_<camera>` and `proprio`, its
`info` contains `success`, and it has an attribute `interface`: the action and observation spec
(`envs.interface.Interface`).
"""

from typing import TYPE_CHECKING

from toto_robot.moved import keep_old_paths

if TYPE_CHECKING:
    from .trained_policy import TrainedPolicy, load_policy

__all__ = ["TrainedPolicy", "load_policy"]


def __getattr__(name: str) -> object:
    """Import a public name at its first use (PEP 562), so that `import policies` is fast.

    All public names need torch, which takes seconds to import.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import trained_policy

    return getattr(trained_policy, name)


keep_old_paths(
    __name__,
    {
        "clone": "learning.behaviour_cloning",
        "dagger": "learning.dagger",
        "episode": "demonstrations.episode",
        "features": "demonstrations.features",
        "imitation": "learning.fit",
        "joint_paths": "demonstrations.joint_paths",
        "lerobot": "demonstrations.lerobot",
        "lerobot.episode": "demonstrations.lerobot.demonstration",
        "lerobot.layout": "demonstrations.lerobot.layout",
        "lerobot.reader": "demonstrations.lerobot.reader",
        "lerobot.statistics": "demonstrations.lerobot.statistics",
        "lerobot.tables": "demonstrations.lerobot.tables",
        "lerobot.video": "demonstrations.lerobot.video",
        "lerobot.writer": "demonstrations.lerobot.writer",
        "ppo": "learning.ppo",
        "privileged": "teacher_policy",
        "robomimic": "demonstrations.robomimic",
        "rollout": "rollouts.job rollouts.pool rollouts.rollout",
        "rpt": "demonstrations.rpt",
        "seeds": "rollouts.seeds",
        "store": "demonstrations.store",
        "tokenised": "demonstrations.tokenised",
        "video": "rollouts.video",
        "world": "environment",
    },
)

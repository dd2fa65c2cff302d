"""Learn and judge policies: demonstrations, rollouts, DAgger, behaviour cloning, evaluation.

Works with any `gymnasium.Env` whose observation is a Dict of `image_<camera>` and `proprio`, that
has an `interface` (`envs.interface.Interface`) and says `info["success"]`.
"""

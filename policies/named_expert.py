"""Use a function or a class of the user as the expert: `expert=module:function`."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ADAPTER", "NamedExpert", "named", "with_env"]

# key of the environment in the observation of an expert, see `policies.gymnasium_env.AdaptedEnv`
ADAPTER = "adapter"


def named(text: str, setting: str) -> Any:
    """Return the object that `module:name` names.

    Args:
        text: module and name.
        setting: name of the setting in error messages.

    Raises:
        ValueError: the text has another form, or there is no such module or object.
    """
    module, _, name = text.partition(":")
    if not module or not name:
        raise ValueError(f"{setting}: expected module:function, got {text!r}")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{setting}={text}: {error}") from error
    if not callable(found):
        raise ValueError(f"{setting}={text}: expected a function or a class, got {found!r}")
    return found


class NamedExpert:
    """An expert from `module:name`: a function, or a class with `act` and, if needed, `reset`.

    It gets the observation as the environment returned it, and the environment if it takes a second
    argument. The returned action is in the units of the environment's action space.

    Args:
        text: module and name.

    Raises:
        ValueError: there is no such function or class, or its arguments do not fit.
    """

    def __init__(self, text: str) -> None:
        found = named(text, "expert")
        self._text = text
        self._expert = found() if inspect.isclass(found) else None
        function = found if self._expert is None else getattr(self._expert, "act", None)
        if function is None:
            raise ValueError(f"expert={text}: the class has no method `act`")
        self._act = with_env(function, f"expert={text}", "observation")

    def reset(self) -> None:
        """Clear the state of the previous episode, if the expert has any."""
        if hasattr(self._expert, "reset"):
            self._expert.reset()

    def act(self, observation: Mapping[str, Any]) -> NDArray[np.float32]:
        """Return the action for one observation.

        Raises:
            ValueError: the action does not fit the environment's action space.
        """
        env = observation.get(ADAPTER)
        if env is None:  # not adapted: actions are within [-1, 1]
            return np.asarray(self._act(observation, None), np.float32)
        action = np.asarray(self._act(env.raw, env.unwrapped))
        size = env.unwrapped.action_space.shape
        if action.shape != size or not np.issubdtype(action.dtype, np.number):
            raise ValueError(
                f"expert={self._text}: expected an action of shape {list(size)}, got "
                f"{action.dtype} {list(action.shape)}"
            )
        return env.scaled(action)


def with_env(function: Callable[..., Any], name: str, first: str) -> Callable[[Any, Any], Any]:
    """Return a function of a value and the environment; the latter is dropped if it takes one.

    Args:
        function: the function of the user.
        name: name of the setting in error messages.
        first: name of its first argument in error messages.

    Raises:
        ValueError: the function takes other arguments.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:  # a builtin without signature
        return lambda value, _: function(value)
    places = [
        one
        for one in signature.parameters.values()
        if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    needed = [one for one in places if one.default is one.empty]
    if not places or len(needed) > 2:
        raise ValueError(
            f"{name}: the function must take ({first}) or ({first}, env), it takes {signature}"
        )
    if len(needed) == 2:
        return function
    return lambda value, _: function(value)

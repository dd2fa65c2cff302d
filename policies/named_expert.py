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
        text: the module and the name, separated by a colon.
        setting: name of the setting, for error messages.

    Raises:
        ValueError: the text has another form, there is no such module or object, or the object
            cannot be called.
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
    """An expert that the user wrote: a function, or a class with the methods `act` and `reset`.

    The first argument of the function or of `act` is the observation, as the environment returned
    it. A second argument that is needed or named `env` is the third-party environment; in an
    environment of this project it is None. The returned action is in the units of the environment's
    action space. The method `reset` is optional.

    Args:
        text: `module:name` of the function or class.

    Raises:
        ValueError: there is no such function or class, or it takes other arguments.
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
        """Call `reset` of the user's expert, if the expert has this method."""
        if hasattr(self._expert, "reset"):
            self._expert.reset()

    def act(self, observation: Mapping[str, Any]) -> NDArray[np.float32]:
        """Return the action [a] for one observation, scaled to [-1, 1].

        Raises:
            ValueError: the expert's action does not have the shape of the action space.
        """
        env = observation.get(ADAPTER)
        if env is None:  # not adapted: actions are within [-1, 1]
            return np.asarray(self._act(observation, None), np.float32)
        action = np.asarray(self._act(env.raw, env.unwrapped))
        size = env.raw_action_shape
        if action.shape != size or not np.issubdtype(action.dtype, np.number):
            raise ValueError(
                f"expert={self._text}: expected an action of shape {list(size)}, got "
                f"{action.dtype} {list(action.shape)}"
            )
        return env.scaled(action)


def with_env(function: Callable[..., Any], name: str, first: str) -> Callable[[Any, Any], Any]:
    """Return a function with two arguments, a value and the environment, that calls `function`.

    The environment is passed if `function` needs a second argument, or if its second parameter is
    named `env`. Another optional parameter keeps its default.

    Args:
        function: the function of the user.
        name: name of the setting, for error messages.
        first: name of the first argument, for error messages.

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
    if len(needed) == 2 or [one.name for one in places[1:2]] == ["env"]:
        return function
    return lambda value, _: function(value)

"""Tensors that behave as if they were on a GPU: they do not mix with tensors of the host."""

import torch

DEVICE = torch.device("cuda:0")


class Stale(AssertionError):
    """A call that breaks a rule of Isaac Gym's manual."""


class DeviceTensor(torch.Tensor):
    """A tensor on the pretended GPU; its memory is on the host."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunction():
            return _call(function, args, kwargs or {})


def _call(function, args, kwargs):
    name = function.__name__
    plain_args, plain_kwargs = _map(args, _plain), _map(kwargs, _plain)
    if name in ("numpy", "__array__"):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")
    if name == "__get__":
        return function(*plain_args, **plain_kwargs)
    if name == "cpu":
        return plain_args[0].clone()
    tensors = []
    _map((args, kwargs), lambda value: tensors.append(value) or value)
    kinds = {type(one) is DeviceTensor for one in tensors if one.dim() > 0}
    if name != "copy_" and len(kinds) > 1:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found cuda:0 and cpu! ({name})"
        )
    out = function(*plain_args, **plain_kwargs)
    if name == "copy_":
        return args[0]
    return _map(out, lambda value: value.as_subclass(DeviceTensor))


def _plain(tensor):
    return tensor.as_subclass(torch.Tensor)


def _map(value, function):
    """Apply a function to all tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, (tuple, list)):
        return type(value)([_map(one, function) for one in value])
    if isinstance(value, dict):
        return {key: _map(one, function) for key, one in value.items()}
    return value

"""Conversion between torch tensors and the descriptors of Isaac Gym, which keep only an address."""

import weakref

import torch

from .device import DeviceTensor, Stale


class Descriptor:
    """The address of a tensor; it does not keep the tensor alive (L4)."""

    def __init__(self, tensor, *, on_gpu, owner=None):
        self._tensor, self.on_gpu, self._owner = weakref.ref(tensor), on_gpu, owner

    def read(self):
        """Return the tensor, without the pretended device."""
        tensor = self._tensor()
        if tensor is None:
            raise Stale("a tensor was freed before simulate used it (L4)")
        return tensor.as_subclass(torch.Tensor)


def wrap_tensor(descriptor):
    tensor = descriptor.read()
    return tensor.as_subclass(DeviceTensor) if descriptor.on_gpu else tensor


def unwrap_tensor(tensor):
    if not tensor.is_contiguous():
        raise Stale("a tensor that is not contiguous (S2)")
    return Descriptor(tensor, on_gpu=type(tensor) is DeviceTensor)

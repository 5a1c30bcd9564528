"""A device without hardware, on which every wait of the host is an error.

Tensors on it look like torch's "meta" tensors and compute on the CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
aten = torch.ops.aten
# their result is needed by the host, or the host must know the size of their result
WAITING = {
    *(aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.masked_select),
    *(aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.bincount, aten.isin),
    *(aten.repeat_interleave, aten.histc),
}
SELECTING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
FACTORIES = {
    *(torch.arange, torch.zeros, torch.ones, torch.full, torch.empty, torch.rand, torch.randn),
    *(torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like, torch.eye),
}
OF_VALUES = {torch.tensor, torch.as_tensor}


class Waits(AssertionError):
    """The host would wait for the device."""


class OnDevice(Tensor):
    """A tensor on the fake device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        return Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self) -> str:
        return f"OnDevice({tuple(self.shape)})"

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        packet = func.overloadpacket
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if packet in WAITING:
            raise Waits(str(func))
        if packet in SELECTING and any(x.dtype == torch.bool for x in tree_leaves(args[1])):
            raise Waits(f"{func} by a mask")
        if any(x.ndim and x.device != DEVICE for x in tensors):
            raise AssertionError(f"{func}: tensors of the host and of the device")
        if kwargs.get("device") is not None:
            if torch.device(kwargs["device"]) != DEVICE:
                raise Waits(f"{func}: a copy to the host")
            kwargs["device"] = "cpu"
        out = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        if func._schema.is_mutable:
            return args[0]
        return tree_map(lambda x: OnDevice(x) if isinstance(x, Tensor) else x, out)


def _inner(x: Any) -> Any:
    if isinstance(x, OnDevice):
        return x.inner
    # C++ makes zeros on the device in the backward of some functions
    is_made = isinstance(x, Tensor) and x.device == DEVICE
    return torch.zeros(x.shape, dtype=x.dtype) if is_made else x


class NoWaiting(TorchFunctionMode):
    """Tensors made for, or moved to, the fake device are `OnDevice`; blocking copies are errors."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (Tensor.tolist, Tensor.numpy) and isinstance(args[0], OnDevice):
            raise Waits(func.__name__)
        if func is Tensor.__setitem__ and isinstance(args[0], OnDevice):
            assert isinstance(args[1], slice), "C++ would make a tensor of the value"
            args[0].inner[args[1]] = args[2]
            return None
        if func is Tensor.to and not isinstance(args[0], OnDevice):
            devices = [x for x in (*args[1:], kwargs.get("device")) if _is_device(x)]
            if devices:
                if not kwargs.get("non_blocking"):
                    raise Waits("a copy to the device that is not non_blocking")
                return OnDevice(args[0].to(dtype=kwargs.get("dtype") or args[0].dtype))
        if _is_device(kwargs.get("device")) and func in FACTORIES | OF_VALUES:
            if func in OF_VALUES and not isinstance(args[0], Tensor):
                raise Waits(f"{func.__name__} of values of the host")
            if not any(isinstance(x, OnDevice) for x in args):
                return OnDevice(func(*args, **{**kwargs, "device": "cpu"}))
        return func(*args, **kwargs)


def _is_device(x: Any) -> bool:
    return isinstance(x, (torch.device, str)) and str(x) == DEVICE.type


def move(model: nn.Module) -> nn.Module:
    """`model` with parameters and buffers on the fake device."""
    for module in model.modules():
        for name, value in module._parameters.items():
            if value is not None:
                module._parameters[name] = nn.Parameter(OnDevice(value.data), value.requires_grad)
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = OnDevice(value)
    return model

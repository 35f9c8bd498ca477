"""A second kind of device, in Python: what runs on it has a host's numbers and an accelerator's manners.

A tensor on it hides a tensor of the host. Every operator is torch's own for the host, after it was seen that
none of its operands was left on the host, which a real accelerator would refuse; numpy cannot see inside.
Copies on a stream of its own happen when somebody waits for them and not before. So an engine that runs here,
whatever the layout, makes each tensor where it belongs and waits where it must; nothing is learnt of CUDA's
kernels, of its memory, nor of NCCL: what ranks tell one another goes over gloo.

`install` is for a forked rank, before its first backward pass: torch knows one such device in a process, and
for good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor
from torch.utils import _pytree as tree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "other"
_FROM_THE_HOST = {"aten::copy_", "aten::_to_copy", "aten::index.Tensor", "aten::index_put_"}
"""Operators that take a host's tensor beside the device's on CUDA too: copies, and an index."""

_KEPT: list[object] = []


class LeftOnTheHost(RuntimeError):
    """An operator was given tensors of both."""


class Stream:
    """Work that is done when it is waited for; the device's own stream does all at once."""

    current: Stream | None = None

    def __init__(self, device: object = None, priority: int = 0) -> None:
        self.waiting: list[Callable[[], object]] = []

    def run(self) -> None:
        """Do what waits."""
        waiting, self.waiting = self.waiting, []
        for work in waiting:
            work()

    def wait_event(self, event: Event) -> None:
        event.synchronize()

    def wait_stream(self, other: Stream) -> None:
        other.run()

    def synchronize(self) -> None:
        self.run()

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event


class Event:
    """What was handed to a stream before it."""

    def __init__(self, *arguments: object, **named: object) -> None:
        self._stream: Stream | None = None

    def record(self, stream: Stream | None = None) -> None:
        self._stream = stream

    def synchronize(self) -> None:
        if self._stream is not None:
            self._stream.run()

    def wait(self, stream: Stream | None = None) -> None:
        self.synchronize()

    def query(self) -> bool:
        return True


class _Module:
    """`torch.other`; `seed` is its generators' latest."""

    Stream, Event = Stream, Event
    seed = 0

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def set_device(self, device: object) -> None:
        pass

    def manual_seed_all(self, seed: int) -> None:
        self.seed = seed

    def get_rng_state(self, device: object = None) -> Tensor:
        return torch.empty(0)

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False

    def current_stream(self, device: object = None) -> Stream:
        return Stream()

    @contextmanager
    def device(self, device: object) -> Iterator[None]:
        yield

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        Stream.current, before = stream, Stream.current
        yield
        Stream.current = before


class OtherTensor(Tensor):
    """`inside` is its memory."""

    inside: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inside: Tensor) -> OtherTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            inside.shape,
            strides=inside.stride(),
            storage_offset=inside.storage_offset(),
            dtype=inside.dtype,
            device=torch.device(NAME, 0),
        )
        made.inside = inside
        return made

    def __init__(self, inside: Tensor) -> None:
        pass

    def tolist(self) -> Any:
        return self.inside.tolist()

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, args, kwargs or {})


def _run(op: Any, args: Any, kwargs: Any) -> Any:
    flat, form = tree.tree_flatten((args, kwargs))
    own = {id(each.inside): each for each in flat if isinstance(each, OtherTensor)}
    homes = [each for each in flat if isinstance(each, torch.device)]
    bare = [_bare(op, each) for each in flat]
    if op.name() == "aten::copy_" and not isinstance(args[0], OtherTensor) and Stream.current is not None:
        target, source = args[0], args[1].inside
        Stream.current.waiting.append(lambda: target.copy_(source))
        return target
    inner, named = tree.tree_unflatten(bare, form)
    made = op(*inner, **named)
    if op.name() == "aten::copy_":
        return args[0]
    elsewhere = any(home.type != NAME for home in homes)

    def dressed(each: Any) -> Any:
        if not isinstance(each, Tensor):
            return each
        if elsewhere:
            return each.clone() if id(each) in own else each
        return own[id(each)] if id(each) in own else OtherTensor(each)

    return tree.tree_map(dressed, made)


def _bare(op: Any, value: Any) -> Any:
    if isinstance(value, OtherTensor):
        return value.inside
    if isinstance(value, torch.device):
        return torch.device("cpu") if value.type == NAME else value
    if isinstance(value, Tensor) and value.dim() and op.name() not in _FROM_THE_HOST:
        raise LeftOnTheHost(f"{op.name()}: {value.dtype} {tuple(value.shape)} is on the host.")
    return value


def install() -> torch.device:
    """Teach this process the device; its first and only one."""
    if not _KEPT:
        _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
        everything, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
        # What makes tensors has none to be dispatched by.
        everything.fallback(_made, "PrivateUse1")
        aten.impl("_copy_from", _copy_from, "PrivateUse1")
        for overload in ("default", "start", "start_step"):  # torch would make an empty one, and let it grow
            aten.impl(_arange(overload), partial(_made, _arange(overload)), "PrivateUse1")
        _join(distributed.group.WORLD)
        _without_memory()
        _KEPT.extend((everything, aten))
    return torch.device(NAME, 0)


def _join(world: Any) -> None:
    """Ranks' groups take its tensors as they take the host's: this one, and those made later."""
    distributed.Backend.backend_capability["gloo"].append(NAME)
    gloo = world._get_backend(torch.device("cpu"))
    world._register_backend(torch.device(NAME), distributed.ProcessGroup.BackendType.GLOO, gloo)


def _arange(overload: str) -> Any:
    return getattr(torch.ops.aten.arange, overload)


def _made(op: Any, *args: Any, **kwargs: Any) -> Any:
    return _run(op, args, kwargs)


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    bare = [each.inside if isinstance(each, OtherTensor) else each for each in (source, target)]
    bare[1].copy_(bare[0])
    return target


def _without_memory() -> None:
    """FSDP gives memory back by shrinking a storage, which these tensors have none of; nor is it pinned."""
    from torch.distributed.fsdp._fully_shard import _fsdp_param

    _fsdp_param.free_storage = _fsdp_param.alloc_storage = lambda *arguments: None
    Tensor.pin_memory = lambda self: self

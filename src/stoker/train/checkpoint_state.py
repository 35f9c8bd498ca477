"""What of a model and an optimizer goes into a checkpoint: tensors by name, and the rest as JSON.

Names are `model/NAME` and `optimizer/NAME/STATE`, NAME being the parameter's; nothing in them depends on the
number of ranks. See docs/design/train.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from stoker.core.canonical import JsonValue
from stoker.train.checkpoint_errors import CheckpointUnfit


def tensors_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Every tensor of both, by name, sharing their memory; an optimizer without state gets its first one."""
    weights: Mapping[str, Any] = get_model_state_dict(model)
    tensors: dict[str, Tensor] = {f"model/{name}": value for name, value in weights.items()}
    state: Mapping[str, Any] = get_optimizer_state_dict(model, optimizer)
    for parameter, values in state["state"].items():
        for name, value in values.items():
            if not isinstance(value, Tensor):
                raise CheckpointUnfit(f"The optimizer's {name!r} of {parameter!r} is no tensor.")
            tensors[f"optimizer/{parameter}/{name}"] = value
    return tensors


def scalars_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[JsonValue]:
    """The optimizer's parameter groups: names of their parameters, and every setting."""
    state: Mapping[str, Any] = get_optimizer_state_dict(model, optimizer)
    return [
        {name: _scalar(value, f"The optimizer's {name!r}") for name, value in group.items()}
        for group in state["param_groups"]
    ]


def restore_scalars(
    model: nn.Module, optimizer: torch.optim.Optimizer, groups: JsonValue, place: str
) -> None:
    """Give the optimizer the settings that `scalars_of` returned, and its (already loaded) state.

    Under a pipeline a rank names its own stage's parameters only, when it saves and when it loads: what both
    name must be in the same group. Raises CheckpointUnfit, naming `place`, when it is not, or when a group
    has other settings.
    """
    state: dict[str, Any] = dict(get_optimizer_state_dict(model, optimizer))
    present = state["param_groups"]
    if not isinstance(groups, list) or len(groups) != len(present):
        raise CheckpointUnfit(f"{place}: its parameter groups are not the {len(present)} of this optimizer.")
    numbers = {name: number for number, group in enumerate(present) for name in group["params"]}
    for number, (group, saved) in enumerate(zip(present, groups, strict=True)):
        if (
            not isinstance(saved, Mapping)
            or set(saved) != set(group)
            or not isinstance(saved["params"], list)
            or any(numbers.get(str(name), number) != number for name in saved["params"])
        ):
            raise CheckpointUnfit(
                f"{place}: parameter group {number} has other parameters or settings than this optimizer's."
            )
        for name, value in saved.items():
            if name != "params":
                group[name] = tuple(value) if isinstance(group[name], tuple) else value
    set_optimizer_state_dict(model, optimizer, state)
    for group, settings in zip(optimizer.param_groups, present, strict=True):
        if not group["params"]:  # a stage without such parameters: torch finds settings by a parameter's name
            group.update({name: value for name, value in settings.items() if name != "params"})


def _scalar(value: Any, what: str) -> JsonValue:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_scalar(item, what) for item in value]
    raise CheckpointUnfit(f"{what} is a {type(value).__name__}, which a commit record cannot hold.")

"""AdamW that keeps fp32 masters of bf16 parameters and updates all of a tensor in one pass.

See docs/design/train-gpu.md. The gradient's norm and its clipping stay on the device: nothing waits for them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from stoker.train.fused.kernels.update import adamw_


class MasterAdamW:
    """Masters and both moments in fp32, beside parameters that the products read in bf16."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        epsilon: float = 1e-8,
        decay: float = 0.1,
        clip: float = 1.0,
    ) -> None:
        """Norms (one dimension) have no weight decay. `clip` bounds the 2-norm of the whole gradient."""
        self._parameters = list(parameters)
        self._masters = [each.detach().float().clone() for each in self._parameters]
        self._moments = [(torch.zeros_like(each), torch.zeros_like(each)) for each in self._masters]
        self._betas, self._epsilon, self._decay, self._clip = betas, epsilon, decay, clip
        self._step = 0

    def step(self, rate: float) -> Tensor:
        """Update every parameter from its gradient and let go of that; the unclipped norm, on the device."""
        self._step += 1
        gradients = [each.grad for each in self._parameters]
        norm = torch.nn.utils.get_total_norm([each for each in gradients if each is not None])
        clip = (self._clip / (norm + 1e-6)).clamp(max=1.0).float()
        for parameter, master, (first, second), gradient in zip(
            self._parameters, self._masters, self._moments, gradients, strict=True
        ):
            assert gradient is not None and gradient.is_contiguous()
            adamw_(
                master,
                first,
                second,
                gradient,
                parameter.data,
                clip,
                rate=rate,
                betas=self._betas,
                epsilon=self._epsilon,
                decay=self._decay if parameter.dim() > 1 else 0.0,
                step=self._step,
            )
            parameter.grad = None
        return norm

"""A short sample of what a model writes. See docs/design/train-model.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch
import torch.distributed as distributed
from torch import nn

from stoker.core.events import Section
from stoker.train.device import HOST
from stoker.train.step import no_section

TEMPERATURE: Final = 0.7


def generate(
    model: nn.Module,
    prompt: Sequence[int],
    *,
    tokens: int,
    context_tokens: int,
    seed: int,
    temperature: float = TEMPERATURE,
    section: Callable[[Section], None] = no_section,
    device: torch.device = HOST,
) -> list[int]:
    """`prompt` and then up to `tokens` tokens drawn one by one; stops at token 0, which ends a text.

    Every rank calls this with the same arguments, since each forward pass gathers parameters from all; rank
    0's draw is everybody's. The model sees the last `context_tokens` tokens, as many as it was trained on.
    The whole window is computed anew for each token, on `device`: a sample is short.
    """
    assert prompt, "A model predicts from at least one token."
    generator = torch.Generator().manual_seed(seed)
    written = list(prompt)
    training = model.training
    model.eval()
    with torch.no_grad():
        for _ in range(tokens):
            section(Section.EVALUATE)
            window = torch.tensor([written[-context_tokens:]], device=device)
            logits = model(window)[0, -1].float()
            weights = torch.softmax(logits / temperature, dim=-1).cpu()
            drawn = torch.multinomial(weights, 1, generator=generator)
            if distributed.is_initialized():
                distributed.broadcast(drawn, src=0)
            token = int(drawn.item())
            if token == 0:
                break
            written.append(token)
    model.train(training)
    return written

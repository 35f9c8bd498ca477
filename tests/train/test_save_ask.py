"""A checkpoint that is asked for: one rank hears it, all ranks save the same step."""

from __future__ import annotations

import os
import signal

import torch

from stoker.train.save_ask import SaveAsk, nobody_asks
from stoker.train.watch.together import said_by_first
from support.ranks import run_ranks

CPU = torch.device("cpu")


def test_one_process_hears_the_signal_once() -> None:
    earlier = signal.getsignal(signal.SIGUSR1)
    try:
        ask = SaveAsk()
        assert not ask(CPU)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert [ask(CPU), ask(CPU)] == [True, False]
    finally:
        signal.signal(signal.SIGUSR1, earlier)
    assert not nobody_asks(CPU)


def test_all_ranks_hear_in_the_same_step_what_the_first_one_heard() -> None:
    def steps(rank: int) -> list[bool]:
        ask, heard = SaveAsk(), []
        for step in range(6):
            if step == rank * 2 + 1:  # rank 0 in step 1; others, whom nobody asks, later
                os.kill(os.getpid(), signal.SIGUSR1)
            heard.append(ask(CPU))
        return [*heard, said_by_first(rank == 1, CPU)]

    expected = [False, True, False, False, False, False, False]
    assert run_ranks(3, steps) == [expected] * 3

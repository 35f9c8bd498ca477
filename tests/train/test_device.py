"""What differs by the kind of device a rank computes on, as far as a machine without one can tell."""

from __future__ import annotations

import pytest
import torch

from stoker.spec.layout import LayoutSpec
from stoker.spec.run import Device, LaunchSpec
from stoker.train.checkpoint_errors import BadJob
from stoker.train.device import (
    BACKENDS,
    HOST,
    Arrivals,
    pins_batches,
    settle_arithmetic,
    take_device,
    weights_device,
)
from stoker.train.hardware import DeviceMissing
from stoker.train.models import build_model, materialise
from stoker.train.worker import local_rank
from support.layouts import MIXTURE, VOCABULARY
from support.ranks import run_ranks

CUDA = torch.device("cuda", 0)


def test_a_rank_takes_the_device_of_its_place_on_the_node() -> None:
    assert take_device(Device.CPU, 3) == HOST
    with pytest.raises(DeviceMissing, match="Rank 4096 of this node needs CUDA device 4096") as refused:
        take_device(Device.CUDA, 4096)
    assert "CUDA_VISIBLE_DEVICES" in refused.value.hint
    assert local_rank(5, {}) == 5
    assert local_rank(5, {"LOCAL_RANK": "1"}) == 1
    for wrong in ("6", "-1", "one"):
        with pytest.raises(BadJob, match="LOCAL_RANK"):
            local_rank(5, {"LOCAL_RANK": wrong})


def test_what_lies_on_the_host_goes_over_gloo_on_every_kind() -> None:
    assert BACKENDS == {Device.CPU: "gloo", Device.CUDA: "cpu:gloo,cuda:nccl"}


def test_memory_is_pinned_for_cuda_alone_and_weights_stay_on_the_host_when_asked() -> None:
    assert pins_batches(LaunchSpec(), CUDA)
    assert not pins_batches(LaunchSpec(pin_batches=False), CUDA)
    assert not pins_batches(LaunchSpec(), HOST)
    assert weights_device(LayoutSpec(), CUDA) == CUDA
    assert weights_device(LayoutSpec(cpu_offload=True), CUDA) == HOST


def test_a_batch_on_the_host_stays_as_it_is() -> None:
    batch = torch.arange(4)
    arrivals = Arrivals(HOST)
    assert arrivals.bring(batch) is batch
    arrivals.settle()


def test_parameters_may_lie_elsewhere_than_what_is_computed_with() -> None:
    model = materialise(build_model(MIXTURE, VOCABULARY), 5, torch.device("meta"), weights=HOST)
    assert {parameter.device for parameter in model.parameters()} == {HOST}
    buffers = dict(model.named_buffers())
    assert {name.rpartition(".")[2] for name in buffers} == {"selection_bias", "load"}
    assert {buffer.device.type for buffer in buffers.values()} == {"meta"}
    plain = materialise(build_model(MIXTURE, VOCABULARY), 5, HOST)
    assert all(
        torch.equal(mine, theirs) for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True)
    )


@pytest.mark.parametrize("deterministic", [True, False])
def test_arithmetic_is_as_the_run_file_says(deterministic: bool) -> None:
    def settings(rank: int) -> tuple[bool, bool, bool, str, int]:
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high")
        settle_arithmetic(7, 2, deterministic=deterministic)
        cudnn = torch.backends.cudnn
        return (
            torch.are_deterministic_algorithms_enabled(),
            cudnn.benchmark,
            cudnn.allow_tf32,
            torch.get_float32_matmul_precision(),
            torch.get_num_threads(),
        )

    assert run_ranks(1, settings) == [(deterministic, not deterministic, False, "highest", 2)]

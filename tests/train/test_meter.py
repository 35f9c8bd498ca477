"""Rates of a step and their share of the peak."""

from __future__ import annotations

import pytest
import torch

from stoker.core.clock import ManualClock
from stoker.core.events import Section
from stoker.spec.run import Precision
from stoker.train.watch import meter as meter_module
from stoker.train.watch.meter import Meter, Peak, SectionTimes, peak_by_name, peak_of

CPU = torch.device("cpu")


def test_mfu_is_model_flops_over_the_peak_of_all_devices_and_hfu_counts_what_is_done_again() -> None:
    meter = Meter(flops_per_token=6e9, recomputed_per_token=2e9, peak=Peak(1e15, "a device"), devices=4)
    figures = meter.figures(
        tokens=1_000_000, samples=500, step_s=10.0, parts_s={Section.COMPUTE: 8.5}, device=CPU
    )
    assert figures["tokens_per_s"] == 100_000.0
    assert figures["samples_per_s"] == 50.0
    assert figures["mfu"] == pytest.approx(6e9 * 1e5 / 4e15)
    assert figures["hfu"] == pytest.approx(8e9 * 1e5 / 4e15)
    assert figures["compute_s"] == 8.5
    assert meter.facts()["peak"] == "4 x a device"
    assert meter.facts()["peak_flops"] == 4e15


def test_where_nobody_knows_what_is_done_again_no_hfu_is_told() -> None:
    meter = Meter(6e9, None, Peak(1e15, "a device"), 1)
    figures = meter.figures(tokens=1000, samples=1, step_s=1.0, parts_s={}, device=CPU)
    assert "mfu" in figures
    assert "hfu" not in figures
    assert meter.facts()["recomputed_per_token"] is None


def test_the_figures_of_a_published_run_come_out() -> None:
    """Llama-3.2-1B untied, 61.5 k tokens/s on one H100: 56.1 %, by 6 N + 12 L d S without the embedding."""
    per_token = 6 * (1.498e9 - 128_256 * 2048) + 12 * 16 * 2048 * 4096
    meter = Meter(per_token, 0.0, Peak(989e12, "H100"), 1)
    figures = meter.figures(tokens=61_500, samples=15, step_s=1.0, parts_s={}, device=CPU)
    assert figures["mfu"] == pytest.approx(0.561, abs=0.004)


def test_an_unknown_accelerator_gives_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tachyon 9")
    assert peak_of(torch.device("cuda"), Precision.BF16) is None
    figures = Meter(6e9, 0.0, None, 1).figures(tokens=10, samples=1, step_s=1.0, parts_s={}, device=CPU)
    assert "mfu" not in figures
    assert figures["tokens_per_s"] == 10.0
    assert Meter(6e9, 0.0, None, 1).facts()["peak"] == "unknown device"


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H200 NVL", "H200 NVL"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA GB200", "GB200"),
        ("NVIDIA L40S", "L40S"),
    ],
)
def test_a_known_accelerator_has_its_data_sheets_peak(
    monkeypatch: pytest.MonkeyPatch, told: str, name: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: told)
    peak = peak_of(torch.device("cuda"), Precision.BF16)
    assert peak == Peak(meter_module.PEAKS[name], f"{name}, dense bf16, data sheet")


@pytest.mark.parametrize("told", ["NVIDIA A100-SXM4-80GB MIG 1g.10gb", "NVIDIA H20", "NVIDIA A10G"])
def test_a_part_of_a_card_and_one_with_a_name_like_anothers_have_no_peak(told: str) -> None:
    assert peak_by_name(told) is None


def test_a_processors_peak_is_measured_and_says_how() -> None:
    peak = peak_of(CPU, Precision.FP32)
    assert peak is not None
    assert peak.flops > 1e6
    assert peak.name == f"measured: float32 product of 768, {torch.get_num_threads()} threads"


def test_sections_are_passed_on_and_their_times_added_up_until_asked() -> None:
    clock, told = ManualClock(), list[Section]()
    times = SectionTimes(told.append, clock)
    for section, spent_s in ((Section.COMPUTE, 2.0), (Section.OPTIMIZER, 0.5), (Section.COMPUTE, 1.0)):
        times.enter(section)
        clock.advance(spent_s)
    assert times.take() == {Section.COMPUTE: 3.0, Section.OPTIMIZER: 0.5}
    assert times.take() == {}
    assert told == [Section.COMPUTE, Section.OPTIMIZER, Section.COMPUTE]

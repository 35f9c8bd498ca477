"""GPUs: all there, their memory sound, their links whole, not slowed down. Figures come from `gpu_query`."""

from __future__ import annotations

from collections.abc import Sequence

from stoker.fleet.nodes.finding import Finding, fail, not_present, ok, warn, worst
from stoker.fleet.nodes.gpu_query import Gpu, gpus_of, nvlinks_of, pci_devices, remaps_of
from stoker.fleet.nodes.machine_view import Absent, MachineView, Unreadable


def gpu_count(view: MachineView) -> Finding:
    """GPUs that answer, against those on the PCI bus and those that are expected."""
    on_bus, wanted = pci_devices(view), view.settings.gpus
    try:
        found = len(gpus_of(view))
    except Absent as error:
        if on_bus or wanted:
            return fail(f"{max(on_bus, wanted)} GPUs are to be here, and {error}")
        return not_present(f"there is no GPU ({error})")
    if wanted and found != wanted:
        return fail(f"{found} GPUs answer, {wanted} are expected")
    if found < on_bus:
        return fail(f"{found} of {on_bus} GPUs on the PCI bus answer")
    return ok(f"{found} GPUs answer") if found else not_present("the driver knows of no GPU")


def _known(view: MachineView) -> tuple[Gpu, ...]:
    """The GPUs for the other checks: what keeps nvidia-smi from answering is told once, by gpu_count."""
    try:
        found = gpus_of(view)
    except Unreadable as error:
        raise Absent("no figures of GPUs; see gpu_count") from error
    if not found:
        raise Absent("there is no GPU")
    return found


def _judged(
    gpus: Sequence[Gpu], figures: Sequence[object | None], problems: list[Finding], told: str
) -> Finding:
    if problems or any(figure is not None for figure in figures):
        return worst(problems, told)
    return not_present(f"none of {len(gpus)} GPUs tells it")


def gpu_ecc(view: MachineView) -> Finding:
    """Memory errors that could not be corrected since the driver was loaded; error correction is on."""
    gpus = _known(view)
    problems = [fail(f"GPU {each.index}: {each.uncorrected:.0f} errors") for each in gpus if each.uncorrected]
    problems += [warn(f"GPU {each.index}: ECC is switched off") for each in gpus if each.ecc is False]
    figures = [each.uncorrected for each in gpus]
    return _judged(gpus, figures, problems, f"{len(gpus)} GPUs without uncorrected errors")


def gpu_remapped_rows(view: MachineView) -> Finding:
    """Rows that wait for a reset to be remapped, and remapping that failed, which ends in a repair."""
    gpus, remaps = _known(view), remaps_of(view)
    problems = []
    for each in remaps:
        if each.failure:
            problems.append(fail(f"{each.bus}: remapping failed"))
        elif each.pending:
            problems.append(fail(f"{each.bus}: rows wait for a reset"))
    rows = sum((each.correctable or 0) + (each.uncorrectable or 0) for each in remaps)
    figures = [each.failure for each in remaps]
    return _judged(gpus, figures, problems, f"{rows:.0f} rows are remapped, none waits")


def gpu_nvlink(view: MachineView) -> Finding:
    """Every NVLink of every GPU is active, and all GPUs have as many."""
    _known(view)
    links = nvlinks_of(view)
    active = {gpu: sum("GB/s" in each for each in states) for gpu, states in links.items()}
    most = max(active.values())
    if not most:
        return not_present("no NVLink is in use here")
    problems = [fail(f"GPU {gpu}: {count} of {most} links") for gpu, count in active.items() if count < most]
    return worst(problems, f"{len(active)} GPUs with {most} links each")


def gpu_pcie(view: MachineView) -> Finding:
    """The width of each PCIe link. Its generation is not judged, since idle links slow down."""
    gpus = _known(view)
    problems = [
        fail(f"GPU {each.index}: width {each.pcie_width:.0f} of {each.pcie_width_max:.0f}")
        for each in gpus
        if each.pcie_width is not None
        and each.pcie_width_max is not None
        and each.pcie_width < each.pcie_width_max
    ]
    figures = [each.pcie_width for each in gpus]
    return _judged(gpus, figures, problems, f"{len(gpus)} links at their full width")


def gpu_temperature(view: MachineView) -> Finding:
    """The hottest GPU against the limit."""
    gpus, limit = _known(view), view.settings.gpu_temperature_limit_c
    problems = [
        fail(f"GPU {each.index} at {each.temperature_c:.0f} °C, the limit is {limit:.0f}")
        for each in gpus
        if each.temperature_c is not None and each.temperature_c > limit
    ]
    figures = [each.temperature_c for each in gpus if each.temperature_c is not None]
    return _judged(gpus, figures, problems, f"at most {max(figures, default=0):.0f} °C")


def gpu_clocks(view: MachineView) -> Finding:
    """Whether the hardware itself slows a GPU down: heat, or the power supply; and equal maxima."""
    gpus = _known(view)
    problems = [fail(f"GPU {each.index} is slowed down by its hardware") for each in gpus if each.slowed_down]
    most = max((each.clock_max_mhz or 0 for each in gpus), default=0)
    problems += [
        warn(f"GPU {each.index} may run at {each.clock_max_mhz:.0f} of {most:.0f} MHz")
        for each in gpus
        if each.clock_max_mhz is not None and each.clock_max_mhz < most
    ]
    figures = [each.slowed_down for each in gpus]
    return _judged(gpus, figures, problems, f"{len(gpus)} GPUs at full clocks")


def gpu_power_cap(view: MachineView) -> Finding:
    """A power limit below the one that is expected, or below the GPU's own."""
    gpus, wanted = _known(view), view.settings.gpu_power_cap_w
    problems = []
    for each in gpus:
        least = wanted or each.power_default_w
        if each.power_limit_w is not None and least is not None and each.power_limit_w < least:
            problems.append(warn(f"GPU {each.index} is held to {each.power_limit_w:.0f} of {least:.0f} W"))
    figures = [each.power_limit_w for each in gpus]
    return _judged(gpus, figures, problems, f"{len(gpus)} GPUs at their power")


def gpu_driver(view: MachineView) -> Finding:
    """One driver, the one that is expected, and the one that is loaded."""
    gpus, wanted = _known(view), view.settings.gpu_driver
    found = sorted({each.driver for each in gpus})
    if wanted and found != [wanted]:
        return fail(f"driver {', '.join(found)}, {wanted} is expected")
    return ok(f"driver {', '.join(found)}")

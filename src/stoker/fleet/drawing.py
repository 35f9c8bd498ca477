"""A run's figures in every form that it is drawn in as it goes. See docs/design/watch.md, "Curves"."""

from __future__ import annotations

import contextlib

from stoker.core.events import Event
from stoker.fleet.curves import Curves
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.wandb_log import WandbLog, WandbRun


class Drawing:
    """TensorBoard's event files, and W&B's offline file where the run asks for one, in the run's folder."""

    def __init__(self, folder: RunFolder, wandb: WandbRun | None) -> None:
        self._curves = Curves(folder.curves)
        self._wandb = None if wandb is None else WandbLog(folder.wandb, wandb)

    def take(self, event: Event) -> None:
        """Write what is drawn of an event. Raises DiskFull."""
        self._curves.take(event)
        if self._wandb is not None:
            self._wandb.take(event)

    def close(self) -> None:
        """All files are whole. Raises DiskFull, once each was tried."""
        with contextlib.ExitStack() as stack:
            if self._wandb is not None:
                stack.callback(self._wandb.close)
            stack.callback(self._curves.close)

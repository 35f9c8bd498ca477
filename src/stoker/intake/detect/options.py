"""How RE2 is asked to read bytes. See docs/design/detect.md."""

from __future__ import annotations

from typing import Any

import re2


def byte_options() -> Any:
    """RE2 options for bytes; the memory limit is far above what these patterns need."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.max_mem = 64 * 1024 * 1024
    options.log_errors = False
    return options

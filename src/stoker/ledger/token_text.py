"""What a token looks like: for whoever reads one, and for whoever searches for one that leaked. Pure."""

from __future__ import annotations

import re
from typing import Final

TOKEN_SHAPE: Final = re.compile(r"stoker-token-1\.([0-9a-f]{16})\.([0-9a-f]{64})")
"""`stoker-token-1.ID.SECRET`: 64 bits that name the token and 256 that prove it, in hexadecimal digits."""

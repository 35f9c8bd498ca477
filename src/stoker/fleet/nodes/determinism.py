"""One matrix product whose every bit is known beforehand: a processor that gives other bits is broken.

The matrices hold whole numbers below 2^20 in float64, so that each product and each sum is exact whatever
the order of adding: the digest is the same on every sound machine, with any BLAS and any number of threads.
GPUs are not tried here; this room loads no torch.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stoker.fleet.nodes.finding import Finding, fail, ok
from stoker.fleet.nodes.machine_view import MachineView

SIDE: Final = 512
_MULTIPLIER: Final = 1_103_515_245
_INCREMENT: Final = 12_345
_MODULUS: Final = 1 << 31
_LARGEST: Final = 1 << 20
"""512 sums of products below 2^40 stay below 2^49: exact in a float64's 53 bits."""

DIGEST: Final = "40b679498dfbbd03d52d2c1b7803ab28132a0d94489ab9e6fdc35afbdc2ec1ea"
"""SHA-256 over the product's float64 values, little-endian, row by row; a test makes it from integers."""


def matrix(seed: int) -> NDArray[np.int64]:
    """SIDE x SIDE whole numbers in [0, 2^20) from a linear congruence: made by arithmetic alone."""
    place = np.arange(SIDE * SIDE, dtype=np.uint64) + np.uint64(seed * SIDE * SIDE)
    mixed = (place * np.uint64(_MULTIPLIER) + np.uint64(_INCREMENT)) % np.uint64(_MODULUS)
    mixed = (mixed * np.uint64(_MULTIPLIER) + np.uint64(_INCREMENT)) % np.uint64(_MODULUS)
    return ((mixed >> np.uint64(11)) % np.uint64(_LARGEST)).astype(np.int64).reshape(SIDE, SIDE)


def product_digest() -> str:
    """The digest of the product as this machine makes it."""
    product = matrix(1).astype(np.float64) @ matrix(2).astype(np.float64)
    return hashlib.sha256(product.astype("<f8").tobytes()).hexdigest()


def determinism(view: MachineView) -> Finding:
    """Compare this machine's product with the one on record."""
    found = product_digest()
    if found != DIGEST:
        return fail(f"the product's digest is {found[:16]}…, on record is {DIGEST[:16]}…")
    return ok(f"a product of {SIDE} x {SIDE} has the bits on record ({found[:16]}…)")

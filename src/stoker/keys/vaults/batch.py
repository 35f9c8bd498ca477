"""Many keys opened by several threads at once: all of them, or none. See docs/design/vaults.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

from stoker.keys.secret import SecretKey

Wrapped = tuple[bytes, bytes]
"""A wrapped key and its context."""

LEAST_A_THREAD = 32
"""Fewer keys than this are not worth a thread."""


def open_all(
    wrapped: Sequence[Wrapped], open_slice: Callable[[Sequence[Wrapped]], list[SecretKey]], threads: int
) -> list[SecretKey]:
    """What `open_slice` makes of `wrapped`, in order, by up to `threads` threads on slices of their own.

    Raises the error of the first slice that failed; then all keys that were opened are wiped.
    """
    workers = max(1, min(threads, len(wrapped) // LEAST_A_THREAD))
    if workers == 1:
        return open_slice(wrapped)
    borders = [len(wrapped) * each // workers for each in range(workers + 1)]
    with ThreadPoolExecutor(workers, thread_name_prefix="unwrap") as pool:
        futures = [pool.submit(open_slice, wrapped[start:end]) for start, end in pairwise(borders)]
    failed = next((each.exception() for each in futures if each.exception() is not None), None)
    if failed is None:
        return [key for each in futures for key in each.result()]
    _wipe(futures)
    raise failed


def open_each(wrapped: Sequence[Wrapped], open_one: Callable[[bytes, bytes], SecretKey]) -> list[SecretKey]:
    """One after the other; on an error those that are open are wiped."""
    opened: list[SecretKey] = []
    try:
        for each, context in wrapped:
            opened.append(open_one(each, context))
    except BaseException:
        for key in opened:
            key.wipe()
        raise
    return opened


def _wipe(futures: Sequence[Future[list[SecretKey]]]) -> None:
    for each in futures:
        if each.exception() is None:
            for key in each.result():
                key.wipe()

"""What a worker makes of the texts of one page under a policy, each in a child that may be killed.

Bytes in, bytes out; no store, and of keys only the one that pseudonyms are made under. A text that crashes
its child, takes too long or is too much for it is held back: nothing is known about it, so nothing of it goes
on. See docs/design/policy.md, "Quarantine".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from stoker.intake.bounded import Bounded, Lost
from stoker.intake.policy.pseudonym import Pseudonyms
from stoker.intake.policy.treat import Treated, treat
from stoker.intake.quality.normalise import normalised
from stoker.keys.secret import SecretKey
from stoker.spec.kinds import Kind
from stoker.spec.policy import Treatment
from stoker.spec.quality import Normalisation


@dataclass(frozen=True, slots=True)
class TreatingSettings:
    """What a treating worker needs to know. `key` is inherited by forked processes and never sent."""

    treatments: Mapping[Kind, Treatment]
    normalise: Normalisation
    document_s: float
    worker_bytes: int
    key: SecretKey | None


def start_treating(settings: TreatingSettings) -> Callable[[Sequence[bytes]], list[Treated]]:
    """A function from UTF-8 texts to what the policy leaves of them, in order."""
    treat(b"", settings.treatments)  # compiles every pattern here, once, and not in each child

    def treat_page(texts: Sequence[bytes]) -> list[Treated]:
        with Bounded(
            1,
            _start_child,
            settings,
            limit_s=lambda _: settings.document_s,
            memory_bytes=settings.worker_bytes,
        ) as child:
            return [_or_held(child.call(text)) for text in texts]

    return treat_page


def _start_child(settings: TreatingSettings) -> Callable[[bytes], Treated]:
    pseudonyms = None if settings.key is None else Pseudonyms(settings.key)
    return lambda text: treat(normalised(text, settings.normalise), settings.treatments, pseudonyms)


def _or_held(found: Treated | Lost) -> Treated:
    return Treated(b"", held=f"scan {found.why.value}") if isinstance(found, Lost) else found

"""What a worker makes of the texts of one page under a policy, each in a child that may be killed.

Bytes in, bytes out; no store, and of keys only the one that pseudonyms are made under. A text that crashes
its child, takes too long or is too much for it is held back: nothing is known about it, so nothing of it goes
on. See docs/design/policy.md, "Quarantine".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from stoker.intake import names_model
from stoker.intake.bounded import Bounded, Lost
from stoker.intake.policy.pseudonym import Pseudonyms
from stoker.intake.policy.treat import Finder, Treated, exactly, treat
from stoker.intake.quality.normalise import normalised
from stoker.keys.secret import SecretKey
from stoker.spec.kinds import Kind
from stoker.spec.policy import Treatment
from stoker.spec.quality import Normalisation

MODEL_BYTES: Final = 1 << 18
"""The name model is hundreds of times slower than exact recognisers, so long texts may take longer."""


@dataclass(frozen=True, slots=True)
class TreatingSettings:
    """What a treating worker needs to know. `key` is inherited by forked processes and never sent.

    With `name_model` what only the name model sees is treated too.
    """

    treatments: Mapping[Kind, Treatment]
    normalise: Normalisation
    document_s: float
    worker_bytes: int
    key: SecretKey | None
    name_model: bool = False

    def limit_s(self, text: bytes) -> float:
        """How long a text may take: `document_s`, and with the model so much for each MODEL_BYTES of it."""
        return self.document_s * (max(1.0, len(text) / MODEL_BYTES) if self.name_model else 1.0)


def start_treating(settings: TreatingSettings) -> Callable[[Sequence[bytes]], list[Treated]]:
    """A function from UTF-8 texts to what the policy leaves of them, in order. Raises MissingExtra."""
    treat(b"", settings.treatments)  # compiles every pattern here, once, and not in each child
    if settings.name_model:
        names_model.load()  # once, too: its children inherit it

    def treat_page(texts: Sequence[bytes]) -> list[Treated]:
        with Bounded(
            1,
            _start_child,
            settings,
            limit_s=settings.limit_s,
            memory_bytes=settings.worker_bytes,
        ) as child:
            return [_or_held(child.call(text)) for text in texts]

    return treat_page


def _start_child(settings: TreatingSettings) -> Callable[[bytes], Treated]:
    pseudonyms = None if settings.key is None else Pseudonyms(settings.key)

    def treat_one(text: bytes) -> Treated:
        finder: Finder = names_model.Names().find if settings.name_model else exactly
        return treat(normalised(text, settings.normalise), settings.treatments, pseudonyms, finder)

    return treat_one


def _or_held(found: Treated | Lost) -> Treated:
    return Treated(b"", held=f"scan {found.why.value}") if isinstance(found, Lost) else found

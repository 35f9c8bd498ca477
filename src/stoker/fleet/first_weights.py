"""First weights from elsewhere, as a run begins with them: judged, named by digest, and on record.

See docs/design/exchange.md, "First weights".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from stoker.core.ids import RunId
from stoker.fleet.errors import DatasetGone
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import DatasetRecord
from stoker.spec.run import RunSpec

DIGEST_FIELD: Final = "first_weights"
"""What the log calls the digest where it records the run's beginning."""


def with_first_weights(spec: RunSpec, datasets: Sequence[DatasetRecord]) -> tuple[RunSpec, str]:
    """The run with the whole path of its first weights, and the digest of that folder; empty without any.

    Raises BadWeights, FormUnknown, and WeightsUnfit when they are of another model or vocabulary.
    """
    if not spec.train.init_from:
        return spec, ""
    from stoker.train.exchange.first_weights import judged_digest

    whole = str(Path(spec.train.init_from).expanduser().resolve())
    spec = replace(spec, train=replace(spec.train, init_from=whole))
    return spec, judged_digest(spec, _vocabulary(datasets[0]))


def digest_on_record(ledger: Ledger, run: RunId) -> str:
    """What the log says of the folder that the run began with; empty when it began from its seed."""
    begun = ledger.audit.acts(["run.start"], f"run/{run}")
    found = begun[-1].detail.get(DIGEST_FIELD, "") if begun else ""
    return found if isinstance(found, str) else ""


def _vocabulary(dataset: DatasetRecord) -> int:
    tokens = dataset.figures.get("vocabulary")
    if not isinstance(tokens, int):
        raise DatasetGone(
            f"Dataset {dataset.name} ({dataset.version}) has no tokenizer, so no weights can fit it.",
            hint="Leave train.init_from out, or name a dataset that was prepared from text.",
        )
    return tokens

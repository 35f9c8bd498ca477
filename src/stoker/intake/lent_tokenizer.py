"""The tokenizer of another dataset, used instead of one of one's own. See docs/design/intake.md, "Prepare".

Only datasets of one tokenizer can be mixed in one run. A tokenizer holds pieces of the text that it was
trained on, so using it is a use of that dataset: it takes a review in force, and what is made with it does
not outlive the lender.
"""

from __future__ import annotations

from stoker.core.clock import Clock
from stoker.core.errors import ConfigError
from stoker.intake.errors import BrokenRecord
from stoker.intake.permission import require_permission, require_usable
from stoker.intake.reading import DatasetRows
from stoker.keys.backend import KeyBackend
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import DatasetRecord, DatasetState
from stoker.spec.recipe import RecipeSpec
from stoker.store.objects import ObjectStore


def find_lender(recipe: RecipeSpec, *, purpose: str, ledger: Ledger, clock: Clock) -> DatasetRecord | None:
    """The dataset that the recipe takes its tokenizer from, its newest live version; None when it trains one.

    Raises UnknownDataset, DatasetEnded, intake's refusals when its use for `purpose` is not allowed, and
    ConfigError when its tokenizer does not fit the recipe.
    """
    if not recipe.tokenizer_of:
        return None
    newest = ledger.catalogue.latest_dataset(recipe.tokenizer_of)
    versions = ledger.catalogue.datasets(recipe.tokenizer_of)
    live = [record for record in versions if record.state is DatasetState.LIVE]
    lender = live[-1] if live else newest
    require_usable(lender, clock)
    require_permission(ledger, lender, purpose, clock)
    tokens = lender.figures.get("vocabulary")
    if not isinstance(tokens, int):
        raise ConfigError(
            f"tokenizer_of is {recipe.tokenizer_of!r}, a dataset without a tokenizer.",
            hint="Name a dataset that was prepared from text.",
        )
    if tokens > recipe.vocabulary:
        raise ConfigError(
            f"tokenizer_of is {recipe.tokenizer_of!r}, whose tokenizer has {tokens} tokens; vocabulary is "
            f"{recipe.vocabulary}.",
            hint=f"Set vocabulary to what that dataset was prepared with: {lender.recipe.get('vocabulary')}.",
        )
    return lender


def lent_tokenizer(
    lender: DatasetRecord, *, ledger: Ledger, backend: KeyBackend, store: ObjectStore
) -> bytes:
    """The lender's tokenizer as JSON. Raises BrokenRecord when it has none, and what opening it raises."""
    tokenizer_json = DatasetRows.open(lender, ledger=ledger, backend=backend, store=store).tokenizer_json()
    if tokenizer_json is None:
        raise BrokenRecord(
            f"Dataset {lender.name} ({lender.version}) has no tokenizer, against its record.",
            hint="Restore the dataset from a copy, or prepare it again.",
        )
    return tokenizer_json.encode()

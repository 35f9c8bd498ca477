"""The card of an exported model: where it came from, by digests, and on which terms. No torch.

It leaves the house in plain, so it holds no name of a person and no text of the data: who asked and who
decided stands in the ledger, under the review that the card names. See docs/design/exchange.md, "The card".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from stoker.core.canonical import JsonValue
from stoker.core.clock import iso_utc
from stoker.core.result import plain
from stoker.spec.terms import Protection, ReviewTerms

MANIFEST_FORMAT: Final = "stoker model export 1"


@dataclass(frozen=True, slots=True)
class CardDataset:
    """One dataset that the model was trained on: its share of the samples, its lineage, its review's terms.

    `exposure` is what was measured of the model's knowing it by heart, as a sentence.
    """

    name: str
    version: str
    root: str
    weight: float
    source: str
    source_version: str
    source_root: str
    recipe_digest: str
    policy_digest: str
    review: str
    purpose: str
    review_expires_s: float
    terms: ReviewTerms
    exposure: str


@dataclass(frozen=True, slots=True)
class CardFigure:
    """One figure of the run's evaluation, in bits per byte of held-out text."""

    name: str
    bits_per_byte: float


@dataclass(frozen=True, slots=True)
class Card:
    """All that the card says. `released` is why a reviewer released it although it was not to be; or empty.

    `first_weights` names the folder's digest when the run began from weights from elsewhere.
    """

    run: str
    run_name: str
    spec_digest: str
    events_digest: str
    checkpoint_sequence: int
    checkpoint_step: int
    checkpoint_digest: str
    steps_planned: int
    code_version: str
    form: str
    dtype: str
    parameters: int
    vocabulary: int
    exported_s: float
    datasets: tuple[CardDataset, ...]
    figures: tuple[CardFigure, ...] = ()
    released: str = ""
    first_weights: str = ""


def card_text(card: Card, library: str | None) -> str:
    """The card as README.md; `library` is what loads the files, for the hub's front matter."""
    lines = ["---", *([f"library_name: {library}", "pipeline_tag: text-generation"] if library else [])]
    lines += ["tags:", "- stoker", "---", "", f"# {_plain(card.run_name)}", ""]
    lines += [
        f"A model of {card.parameters:,} parameters"
        + (f" and a vocabulary of {card.vocabulary:,} tokens" if card.vocabulary else "")
        + f", in the form {_code(card.form)}, weights as {_code(card.dtype)}. "
        f"Exported at {iso_utc(card.exported_s)}.",
        "",
        "These files are plaintext: whoever reads them has the model and its tokenizer, and what both have "
        "learnt of the data. Where they came from they were sealed; here nothing protects them.",
        "",
        "## Where it came from",
        "",
        *_table(
            [
                ("run", card.run),
                ("specification, SHA-256", card.spec_digest),
                ("events, SHA-256", card.events_digest),
                ("checkpoint", f"step {card.checkpoint_step} of {card.steps_planned}"),
                ("its record, SHA-256", f"{card.checkpoint_digest} (number {card.checkpoint_sequence})"),
                ("code", card.code_version),
                *([("first weights, SHA-256", card.first_weights)] if card.first_weights else []),
            ]
        ),
        "",
        "## Data and terms",
        "",
    ]
    for dataset in card.datasets:
        lines += [*_dataset(dataset), ""]
    lines += [
        "A review allows the use of its data for its purpose, to those who train under it. It says nothing "
        "of other purposes: whoever uses this model for another one has no review to point to.",
        "",
    ]
    if card.released:
        lines += [
            f"**Released by a reviewer's decision, against the rule above:** {_plain(card.released)}",
            "",
        ]
    if card.figures:
        lines += ["## Measured on held-out text", "", "| what | bits per byte |", "|---|---|"]
        lines += [f"| {_plain(each.name)} | {each.bits_per_byte:.4f} |" for each in card.figures] + [""]
    lines += [f"`export.json` says the same for programs, with the digest of every file ({MANIFEST_FORMAT})."]
    return "\n".join(lines) + "\n"


def manifest(card: Card, files: Iterable[object], digest: str) -> dict[str, JsonValue]:
    """The card as JSON, with every file and the digest over them."""
    body = plain(card)
    assert isinstance(body, Mapping)
    return {"format": MANIFEST_FORMAT, **body, "files": plain(tuple(files)), "digest": digest}


def _dataset(dataset: CardDataset) -> list[str]:
    terms = dataset.terms
    rows = [
        ("share of the samples", f"{dataset.weight:.1%}"),
        ("version", dataset.version),
        ("manifest root", dataset.root),
        ("source", f"{dataset.source}, version {dataset.source_version}"),
        ("source's manifest root", dataset.source_root),
        ("recipe, SHA-256", dataset.recipe_digest),
        ("policy, SHA-256", dataset.policy_digest),
        ("review", dataset.review),
        ("purpose", dataset.purpose),
        ("review ends", iso_utc(dataset.review_expires_s)),
        ("recipes allowed", ", ".join(terms.recipes) or "any"),
        ("runs allowed", ", ".join(terms.runs) or "any"),
    ]
    if terms.least_protection is not Protection.NONE:
        rows.append(("links protected at least by", terms.least_protection.value))
    if terms.least_recall:
        rows.append(("scan's recall at least", f"{terms.least_recall:.3f}"))
    rows.append(("known by heart", dataset.exposure))
    return [f"### {_plain(dataset.name)}", "", *_table(rows)]


def _table(rows: Iterable[tuple[str, str]]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {_code(value)} |" for name, value in rows)]


def _code(text: str) -> str:
    """As code, on one line: no text can end it, or the table, or bring markup of its own."""
    return f"`{_line(text).replace('`', chr(39)).replace('|', '/')}`"


def _plain(text: str) -> str:
    """As text, on one line, with every character that Markdown or HTML gives a meaning made harmless."""
    return "".join(f"&#{ord(char)};" if char in "\\`*_{}[]<>()#!|&~$@" else char for char in _line(text))


def _line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())

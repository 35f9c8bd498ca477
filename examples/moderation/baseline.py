"""TF-IDF and logistic regression on the same treated texts, split and thresholds, beside the run's figures.

    python examples/moderation/baseline.py mails --purpose research --as ada

It reads the sealed dataset that the run read, so it sees the same pseudonyms; its probabilities are
calibrated and its threshold chosen on the held-out records with an even number, and judged on the others, by
the same code as the model's (`stoker.train.objectives.label_figures`). Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer

from stoker.feed.dataset import Dataset
from stoker.fleet.elsewhere import open_dataset
from stoker.spec.moderation import ModerationSpec
from stoker.train.objectives.label_figures import report_on, table


def records(dataset: Dataset, split: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Texts, whether each is harmful, and their numbers."""
    tokenizer = Tokenizer.from_buffer(bytes(dataset.artefact("tokenizer")))
    classes = json.loads(dataset.artefact("classes"))
    texts, labels, numbers = [], [], []
    for batch in dataset.split(split).sequential():
        for number, record in zip(batch.numbers.tolist(), batch, strict=True):
            texts.append(tokenizer.decode(np.asarray(record["text"]).tolist()))
            labels.append(classes[int(record["label"])] != "none")
            numbers.append(number)
    return texts, np.array(labels), np.array(numbers)


def judged(dataset: Dataset) -> Sequence[str]:
    """The baseline's figures, as a table."""
    texts, harmful, _ = records(dataset, "train")
    others, truth, numbers = records(dataset, "heldout")
    words = TfidfVectorizer(min_df=2, sublinear_tf=True)
    model = LogisticRegression(C=10.0, max_iter=2000).fit(words.fit_transform(texts), harmful)
    logits = model.decision_function(words.transform(others))[:, None]
    groups = np.full(len(numbers), -1)
    return table(report_on(logits, truth[:, None], groups, numbers, ModerationSpec(labels=("spam",))))


def main() -> int:
    """Read the words; print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--purpose", default="research")
    parser.add_argument("--as", dest="actor", required=True)
    options = parser.parse_args()
    with open_dataset(options.dataset, purpose=options.purpose, actor=options.actor) as dataset:
        print("\n".join(judged(dataset)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Quality steps: each drops what it names, of equals the first stays, and the rest is left alone."""

from __future__ import annotations

import random
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.intake.errors import UnknownLanguage
from stoker.intake.quality.duplicates import near_duplicates, signature, similarity
from stoker.intake.quality.judge import Dropped, check_languages, facts_of, select
from stoker.intake.quality.language import language_of
from stoker.intake.quality.normalise import normalised
from stoker.intake.quality.repetition import duplicate_lines, duplicate_ngrams, top_ngram
from stoker.spec.quality import Normalisation, QualitySpec

WORDS = [f"word{number}" for number in range(400)]


def article(seed: int, length: int = 300) -> list[str]:
    return random.Random(seed).choices(WORDS, k=length)


def fate(documents: list[str], spec: QualitySpec) -> list[Dropped | None]:
    return list(select((facts_of(each.encode(), spec) for each in documents), spec).dropped)


@given(st.text(), st.sampled_from([Normalisation.NFC, Normalisation.NFKC]))
def test_normalising_gives_the_form_and_twice_is_once(text: str, form: Normalisation) -> None:
    once = normalised(text.encode(), form)
    assert unicodedata.is_normalized(form.value.upper(), once.decode())  # type: ignore[arg-type]
    assert normalised(once, form) == once


def test_compatibility_letters_become_plain_ones_and_no_form_changes_nothing() -> None:
    wide = "ｂob＠example".encode()
    assert normalised(wide, Normalisation.NFKC) == b"bob@example"
    assert normalised(wide, Normalisation.NFC) == wide
    assert normalised("e\u0301".encode(), Normalisation.NONE) == "e\u0301".encode()


def test_nothing_is_dropped_by_default() -> None:
    documents = ["", "a", "a a a a a a", "same", "same"]
    assert fate(documents, QualitySpec()) == [None] * 5
    assert not QualitySpec().judges_documents
    assert not QualitySpec(normalise=Normalisation.NFC).judges_documents
    assert QualitySpec(max_top_3gram=0.5).judges_documents


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (QualitySpec(min_characters=4), [Dropped.TOO_SHORT, None, None]),
        (QualitySpec(min_words=2), [Dropped.TOO_SHORT, Dropped.TOO_SHORT, None]),
        (QualitySpec(max_characters=4), [None, None, Dropped.TOO_LONG]),
        (QualitySpec(max_words=1), [None, None, Dropped.TOO_LONG]),
    ],
)
def test_length_limits(spec: QualitySpec, expected: list[Dropped | None]) -> None:
    assert fate(["abc", "abcd", "three words here"], spec) == expected


def test_measures_of_repetition_by_hand() -> None:
    assert duplicate_lines("ab\ncd\nab\n\n\nab\n") == pytest.approx(4 / 8)
    assert duplicate_lines("") == 0.0
    assert top_ngram(["a", "b", "a", "b", "c"], 2) == pytest.approx(4 / 5)
    assert top_ngram(["a", "b", "c"], 2) == 0.0
    # The second "a b c" and the third overlap nothing: 6 of 10 letters stood before.
    assert duplicate_ngrams([*"abc", *"abc", *"abc", "z"], 3) == pytest.approx(6 / 10)
    assert duplicate_ngrams(["a"] * 5, 2) == pytest.approx(4 / 5)  # overlapping runs count a letter once
    assert duplicate_ngrams([], 5) == 0.0


@given(st.lists(st.sampled_from("abcd"), max_size=60), st.integers(2, 10))
def test_fractions_are_fractions(words: list[str], length: int) -> None:
    assert 0.0 <= duplicate_ngrams(words, length) <= 1.0
    assert 0.0 <= top_ngram(words, length) <= 1.0


def test_repetitive_documents_go() -> None:
    spec = QualitySpec(max_duplicate_lines=0.3, max_top_2gram=0.2, max_duplicate_5gram=0.15)
    natural = " ".join(article(1))
    boilerplate = "\n".join(["Buy now!"] * 20)
    stutter = " ".join(["yes no"] * 50)
    copied = " ".join([*article(2, 40)] * 2)
    assert fate([natural, boilerplate, stutter, copied], spec) == [None, *[Dropped.REPETITIVE] * 3]


def test_languages_are_told_tagged_and_kept() -> None:
    english = "The committee decided that the meeting should be held again on the following morning."
    german = "Der Ausschuss hat beschlossen, dass die Sitzung am folgenden Morgen wiederholt werden soll."
    assert language_of(english)[0] == "en"
    assert language_of(german)[0] == "de"
    keep = QualitySpec(languages=("en",))
    assert fate([english, german], keep) == [None, Dropped.OTHER_LANGUAGE]
    tag = QualitySpec(tag_language=True)
    found = select([facts_of(each.encode(), tag) for each in (english, german, english)], tag)
    assert found.dropped == (None, None, None)
    assert dict(found.languages) == {"de": 1, "en": 2}
    sure = QualitySpec(languages=("en",), min_language_confidence=1.0)
    assert fate([english], sure) == [Dropped.OTHER_LANGUAGE]


def test_a_language_that_cannot_be_told_is_refused() -> None:
    check_languages(QualitySpec(languages=("en", "de")))
    with pytest.raises(UnknownLanguage, match="xx"):
        check_languages(QualitySpec(languages=("en", "xx")))


def test_of_equal_documents_the_first_stays_also_after_normalising() -> None:
    spec = QualitySpec(drop_exact_duplicates=True)
    documents = ["one", "two", "one", "e\u0301", "\u00e9"]
    assert fate(documents, spec) == [None, None, Dropped.EXACT_DUPLICATE, None, None]
    same_form = QualitySpec(normalise=Normalisation.NFC, drop_exact_duplicates=True)
    assert fate(documents, same_form)[4] is Dropped.EXACT_DUPLICATE


def test_a_document_that_goes_for_another_reason_hides_no_duplicate() -> None:
    spec = QualitySpec(max_words=3, drop_exact_duplicates=True)
    assert fate(["one two three four", "one two", "one two"], spec) == [
        Dropped.TOO_LONG,
        None,
        Dropped.EXACT_DUPLICATE,
    ]


def test_near_duplicates_go_and_different_documents_stay() -> None:
    spec = QualitySpec(near_duplicates=0.7)
    original, other = article(1), article(2)
    edited = [*original]
    edited[150] = "changed"  # five shingles of 296 differ
    cut = original[30:]
    documents = [" ".join(words) for words in (original, other, edited, cut, article(3))]
    assert fate(documents, spec) == [None, None, Dropped.NEAR_DUPLICATE, Dropped.NEAR_DUPLICATE, None]


def test_similarity_estimates_jaccard() -> None:
    shared, mine, others = article(1, 300), article(2, 100), article(3, 100)

    def shingles(words: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words[at : at + 5]) for at in range(len(words) - 4)}

    left, right = shared + mine, shared + others
    exact = len(shingles(left) & shingles(right)) / len(shingles(left) | shingles(right))
    estimate = similarity(*(signature(words, shingle_words=5, permutations=1024) for words in (left, right)))
    assert estimate == pytest.approx(exact, abs=0.06)  # four standard deviations of 1,024 draws


def test_signatures_are_fixed() -> None:
    """They are stored between tasks: another version of the library must not change them."""
    found = signature(["the", "same", "words", "each", "time", "again"], shingle_words=5, permutations=16)
    assert found.hex() == KNOWN_SIGNATURE


def test_pairs_at_the_threshold_share_a_band() -> None:
    documents = []
    for seed in range(40):
        words = article(100 + seed, 204)  # 200 shingles
        documents += [words, words[:-20]]  # Jaccard 180 / 200
    sketches = [signature(words, shingle_words=5, permutations=128) for words in documents]
    found = near_duplicates(sketches, 0.8, 128)
    assert all(each is None for each in found[::2])
    assert sum(each is not None for each in found[1::2]) >= 38


def test_empty_documents_equal_nothing_nearly() -> None:
    assert near_duplicates([b"", b""], 0.5, 16) == [None, None]


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (QualitySpec(min_words=-1), "min_words"),
        (QualitySpec(min_words=5, max_words=4), "max_words"),
        (QualitySpec(max_top_2gram=1.5), "max_top_2gram"),
        (QualitySpec(languages=("English",)), "languages"),
        (QualitySpec(min_language_confidence=0.5), "min_language_confidence"),
        (QualitySpec(near_duplicates=2.0), "near_duplicates"),
        (QualitySpec(permutations=4), "permutations"),
        (QualitySpec(shingle_words=0), "shingle_words"),
    ],
)
def test_wrong_settings_are_named(spec: QualitySpec, name: str) -> None:
    assert any(name in problem for problem in spec.problems())


KNOWN_SIGNATURE = (
    "fab8104ddd2812352fc5fd62e9bc238c22dbe90eb918aa058522decf488abc4e"
    "a63f4f2f81b342198fc0ad1f3034554519e0e4427233554d79ce934540cdafc6"
)

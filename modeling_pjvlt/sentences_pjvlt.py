"""Checks and cleans sentences before they are tokenised. Needs no torch."""

import logging

logger = logging.getLogger(__name__)

DEFAULT_SENTENCE = "the target"  # what an empty or missing sentence becomes
MAX_WORDS = 40  # tokens, [CLS] and [SEP] included


def clean_sentences(text: str | list[str] | None, count: int) -> list[str]:
    """`count` sentences without extra spaces; empty and missing ones become "the target", with one warning.

    One sentence is used for all rows. Raises `ValueError` if the numbers differ, and for anything but valid text.
    """
    sentences = list(text) if isinstance(text, (list, tuple)) else [text] * count
    if len(sentences) != count:
        raise ValueError(f"Got {count} images but {len(sentences)} sentences.")
    for row, sentence in enumerate(sentences):
        if sentence is not None and not isinstance(sentence, str):
            raise ValueError(f"Sentence {row} must be a string, got {type(sentence).__name__}: {sentence!r}.")
        if sentence is not None and any("\ud800" <= letter <= "\udfff" for letter in sentence):
            raise ValueError(f"Sentence {row} is not valid UTF-8: {sentence!r}.")
    cleaned = [" ".join((sentence or "").split()) for sentence in sentences]
    empty = sum(not sentence for sentence in cleaned)
    if empty:
        logger.warning(f"{empty} of {count} sentences are empty and read as {DEFAULT_SENTENCE!r}.")
    return [sentence or DEFAULT_SENTENCE for sentence in cleaned]


def check_sentence(text: str | None) -> None:
    """Raises `ValueError` for a target's sentence that is neither a string nor None: a list of one, for example."""
    if text is not None and not isinstance(text, str):
        raise ValueError(f"A target has one sentence, a string, got {type(text).__name__}: {text!r}.")


def cut_warning(tokens: int, limit: int = MAX_WORDS) -> str:
    """The warning about a sentence that is too long."""
    return f"A sentence of {tokens} tokens was cut to its first {limit}."


__all__ = ["DEFAULT_SENTENCE", "MAX_WORDS", "check_sentence", "clean_sentences", "cut_warning"]

"""What there is to search: a given corpus, or every text of the rows, each document under one key."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.data.ranking.cells import Text
from tasks.data.ranking.corpus import Document
from tasks.data.schema import Problem, Report


class Pool:
    """Documents by key. Without a corpus, texts become documents as they are placed.

    The key is the id; without one the text (and the document has the id ""); of several texts with one id `<id>`,
    `<id>#2`, `<id>#3` ….

    Args:
        given: a corpus, which is not changed.
    """

    def __init__(self, given: Mapping[str, Document] | None) -> None:
        self.given: Mapping[str, Document] = given or {}
        self.added: dict[str, Document] = {}
        self._has_corpus = given is not None
        self._keys: dict[tuple[str, str], str] = {}  # (id, text) -> key
        self._by_text: dict[str, str] = {}
        self._texts_of: dict[str, int] = {}  # id -> how many texts
        self._indexed = False

    @property
    def corpus(self) -> Mapping[str, Document]:
        """All documents by key."""
        return {**self.given, **self.added} if self.added and self.given else self.given or self.added

    def place(self, report: Report, source: str, row: int, text: Text) -> tuple[Text, str] | None:
        """The positive of a row as the corpus has it, and its key; None, and an error, where an id leads nowhere."""
        if not self._has_corpus:
            return text, self._add(text)
        if text.id is not None and text.id in self.given:
            document = self.given[text.id]
            if text.text and text.text not in (document.text, document.full):
                what = f"the positive differs from document {text.id!r} of the corpus, which is taken"
                mend = "Leave the text out, or correct the id"
                report.add(Problem("warning", "positive-differs", source, row, "positive", what, mend))
            return Text(document.full, text.id), text.id
        if not text.text:
            what = "the row has no positive" if text.id is None else f"the corpus has no document {text.id!r}"
            mend = "Write the id of a document of the corpus, or delete the row"
            report.add(Problem("error", "positive-unknown", source, row, "positive_id", what, mend))
            return None
        key = self._find_text(text.text)
        if key is not None:
            return Text(self.given[key].full, key), key
        what = "the corpus does not have this positive; it is searched too"
        mend = "Add the text to the corpus, so that others search it too"
        report.add(Problem("warning", "positive-not-in-corpus", source, row, "positive", what, mend))
        return text, self._add(text)

    def place_negative(self, text: Text) -> str:
        """The key of a negative; to be called after all positives, whose ids it takes over. A corpus does not grow."""
        if text.id is not None and text.id in self.given:
            return text.id
        if self._has_corpus:
            return self._find_text(text.text) or text.text
        if text.id is None and text.text in self._by_text:
            return self._by_text[text.text]
        return self._add(text)

    def notes(self) -> list[str]:
        """What a person should know of the ids."""
        several = sum(count > 1 for count in self._texts_of.values())
        if not several:
            return []
        return [f"document ids with several texts, read as passages of one document: {several:,}"]

    def _add(self, text: Text) -> str:
        if not text.text.strip():
            return ""  # a missing positive, which the doctor reports
        if text.id is None:
            key = text.text
        elif (text.id, text.text) in self._keys:
            return self._keys[text.id, text.text]
        else:
            count = self._texts_of[text.id] = self._texts_of.get(text.id, 0) + 1
            key = text.id if count == 1 else f"{text.id}#{count}"
            self._keys[text.id, text.text] = key
        self.added.setdefault(key, Document("" if text.id is None else key, "", text.text))
        self._by_text.setdefault(text.text, key)
        return key

    def _find_text(self, text: str) -> str | None:
        """The document with this text, its title included or not."""
        if not self._indexed:
            for key, document in self.given.items():
                self._by_text.setdefault(document.full, key)
            for key, document in self.given.items():
                self._by_text.setdefault(document.text, key)
            self._indexed = True
        found = self._by_text.get(text)
        return found if found in self.given else None

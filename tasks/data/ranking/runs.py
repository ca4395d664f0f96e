"""TREC run files: for each query the documents that a system found, best first."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from modernbert.errors import DataError
from tasks.data.ranking.cells import UnreadableError, as_number
from tasks.data.readers.encoding import detect_encoding, open_text, readable
from tasks.data.readers.malformed import Malformed
from tasks.data.readers.source import File

MEND = "Each line is: query id, Q0, document id, rank, score, name of the system"

Ranking = list[tuple[str, float]]  # (document id, score), best first


def read_run(source: str | Path) -> dict[str, Ranking]:
    """Rankings by query id, best score first; of equal scores the greater id first, as trec_eval has it.

    The ranks in the file do not count, as in trec_eval.

    Raises:
        DataError: no such file, a line that is no line of a run, or a document twice for a query.
    """
    path = Path(source).expanduser()
    if not path.is_file() or path.stat().st_size == 0:
        raise DataError(f"{source} is empty" if path.is_file() else f"there is no file {source}")
    bad = Malformed(str(source))
    run: dict[str, dict[str, float]] = {}
    file = File(str(source), path, "run", compressed=path.suffix == ".gz")
    encoding, _ = detect_encoding(file)
    with readable(file), open_text(file, encoding) as stream:
        for number, line in enumerate(stream, start=1):
            cells = line.split()
            if not cells:
                continue
            if len(cells) != 6:
                bad.add(f"line {number}: {len(cells)} cells, expected 6: {line.strip()[:60]!r}")
                continue
            query, _, document, _, score, _ = cells
            try:
                value = as_number(score)
            except UnreadableError as error:
                bad.add(f"line {number}: the score is {error}")
                continue
            found = run.setdefault(query, {})
            if document in found:
                bad.add(f"line {number}: document {document} is there twice for query {query}")
            found[document] = value
    bad.raise_if_any(MEND)
    if not run:
        raise DataError(f"{source} has only blank lines. {MEND}")
    # Sorted by id, then stably by score: both descending.
    return {
        query: sorted(sorted(found.items(), reverse=True), key=lambda hit: -hit[1]) for query, found in run.items()
    }


def write_run(path: str | Path, run: Iterable[tuple[str, Ranking]], tag: str) -> None:
    """Write rankings, best first, as a run named `tag`; scores with all their digits.

    Raises:
        DataError: an id or tag that is empty or has white space, which the format cannot hold.
    """
    lines = []
    for query, ranking in run:
        for rank, (document, score) in enumerate(ranking, start=1):
            for what, value in (("query id", query), ("document id", document), ("name of the system", tag)):
                if len(value.split()) != 1 or value != value.strip():
                    raise DataError(f"a TREC run cannot hold the {what} {value!r}: it must be one word")
            lines.append(f"{query} Q0 {document} {rank} {float(score)!r} {tag}\n")
    Path(path).write_text("".join(lines), encoding="utf-8")

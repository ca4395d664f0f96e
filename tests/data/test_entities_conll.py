"""CoNLL in its dialects gives the same texts, words and entities."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from modernbert.errors import ConfigError
from tasks.data.entities import read_entities
from tasks.data.readers import Table
from tasks.data.schema import Report

TEXTS = ["Hanna Virtanen flew to Graz .", "It rained ."]
ENTITIES = [[(0, 14, "PER"), (23, 27, "LOC")], []]
WORDS = [[(0, 5), (6, 14), (15, 19), (20, 22), (23, 27), (28, 29)], [(0, 2), (3, 9), (10, 11)]]
TOKENS = [text.split() for text in TEXTS]
BIO = [["B-PER", "I-PER", "O", "O", "B-LOC", "O"], ["O", "O", "O"]]
SPELT = {
    "BIO": {},
    "IOB1": {"B-": "I-"},
    "BIOES": {"I-PER": "E-PER", "B-LOC": "S-LOC"},
    "BILOU": {"I-PER": "L-PER", "B-LOC": "U-LOC"},
    "IO": {"B-": "", "I-": ""},
}


def lines(tags: list[list[str]], row: str = "{word}\t{tag}", end: str = "\n") -> str:
    sentences = [
        end.join(row.format(word=w, tag=t, n=n) for n, (w, t) in enumerate(zip(ws, ts, strict=True), start=1))
        for ws, ts in zip(TOKENS, tags, strict=True)
    ]
    return (end + end).join(sentences) + end


def spelt(scheme: str) -> list[list[str]]:
    def respell(tag: str) -> str:
        for old, new in SPELT[scheme].items():
            if tag.startswith(old):
                return new + tag[len(old) :]
        return tag

    return [[respell(tag) for tag in tags] for tags in BIO]


def read(path: Path, content: str, **more: object) -> tuple[Table, Report]:
    path.write_bytes(content.encode())
    report = Report()
    return read_entities(str(path), report=report, **more), report  # type: ignore[arg-type]


def check(table: Table, report: Report) -> None:
    assert table.columns["text"] == TEXTS
    assert table.columns["entities"] == ENTITIES
    assert table.columns["words"] == WORDS
    assert report.problems == []


@pytest.mark.parametrize("scheme", SPELT)
def test_schemes(tmp_path: Path, scheme: str) -> None:
    table, report = read(tmp_path / "a.conll", lines(spelt(scheme)))
    check(table, report)
    assert table.notes == [f"tag scheme: {'BIOES' if scheme == 'BILOU' else scheme}"]
    assert table.rows == [1, 8]


LAYOUTS = {
    "spaces": "{word} {tag}",
    "runs of blanks": "{word} \t {tag}",
    "CoNLL-2003": "{word} NNP B-NP {tag}",
    "three columns": "{word}\tNNP\t{tag}",
    "numbered, two levels": "{n}\t{word}\t{tag}\tO",
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_layouts(tmp_path: Path, layout: str, end: str) -> None:
    check(*read(tmp_path / "a.txt", lines(BIO, LAYOUTS[layout], end)))


def test_documents_comments_and_blank_lines_are_left_out_and_told(tmp_path: Path) -> None:
    body = lines(BIO).replace("It\t", "-DOCSTART- -X- O O\n\n\n# sent_id = 2\nIt\t")
    table, report = read(tmp_path / "a.conll", "\ufeff-DOCSTART-\tO\n\n" + body + "\n\n")
    check(table, report)
    assert table.notes == ["1 comment line left out", "2 -DOCSTART- lines left out", "tag scheme: BIO"]


def test_a_hash_is_a_word_where_it_has_a_tag(tmp_path: Path) -> None:
    table, _ = read(tmp_path / "a.conll", "#\tO\n#Graz\tB-LOC\n# O nothing\nx\tO\n")
    assert table.columns["text"] == ["# #Graz x"]
    assert table.columns["entities"] == [[(2, 7, "LOC")]]


def test_columns_by_number(tmp_path: Path) -> None:
    content = lines(BIO, "{n}\tO\t{word}\t{tag}\tX")
    check(*read(tmp_path / "a.conll", content, columns={"tokens": 3, "tags": "4"}))
    with pytest.raises(ConfigError, match=r"data.columns.tags=ner: .* has 5 columns without names; give a number"):
        read(tmp_path / "a.conll", content, columns={"tags": "ner"})


def test_space_after_no(tmp_path: Path) -> None:
    content = "1\tGraz\tB-LOC\tSpaceAfter=No\n2\t.\tO\t_\n3\tYes\tO\t_\n"
    table, _ = read(tmp_path / "a.conllu", content)
    assert table.columns["text"] == ["Graz. Yes"]
    assert table.columns["entities"] == [[(0, 4, "LOC")]]
    assert table.columns["words"] == [[(0, 4), (4, 5), (6, 9)]]


def test_tsv_is_told_from_a_table_by_its_tags(tmp_path: Path) -> None:
    check(*read(tmp_path / "a.tsv", lines(BIO)))


def test_a_header_line_is_left_out_and_told(tmp_path: Path) -> None:
    table, report = read(tmp_path / "a.tsv", "Token\tNER\n" + lines(BIO))
    assert table.notes == ["line 1 is a header, left out", "tag scheme: BIO"]
    assert table.rows == [2, 9]
    table.rows = [1, 8]
    check(table, report)


def test_gzip(tmp_path: Path) -> None:
    path = tmp_path / "a.conll.gz"
    path.write_bytes(gzip.compress(lines(BIO).encode()))
    report = Report()
    check(read_entities(str(path), report=report), report)


def test_only_line_feeds_end_a_line(tmp_path: Path) -> None:
    table, _ = read(tmp_path / "a.conll", "a\u2028b\tO\n10\u00a0000\tO\nx\x85\tB-A\n")
    assert table.columns["text"] == ["a\u2028b 10\u00a0000 x\x85"]
    assert table.columns["entities"] == [[(11, 13, "A")]]


def test_words_alone_are_enough_to_predict(tmp_path: Path) -> None:
    content = "\n\n".join("\n".join(words) for words in TOKENS)
    table, _ = read(tmp_path / "a.conll", content, predict=True)
    assert table.columns == {"text": TEXTS, "words": WORDS}


@pytest.mark.parametrize(
    ("repair", "entities", "level"),
    [("repair", [(0, 4, "LOC")], "warning"), ("drop", [], "warning"), ("error", [], "error")],
)
def test_invalid_tags_are_repaired_dropped_or_errors(
    tmp_path: Path, repair: str, entities: list[object], level: str
) -> None:
    content = "Graz\tI-LOC\nis\tO\n\nBo\tB-PER\n\nAnna\tB-PER\n"
    table, report = read(tmp_path / "a.conll", content, repair=repair)
    assert table.columns["entities"][0] == entities
    (problem,) = report.problems
    assert (problem.level, problem.code, problem.row) == (level, "tag-sequence", 1)
    with pytest.raises(ConfigError, match=r"data.repair=ignore: allowed are repair, drop, error"):
        read(tmp_path / "a.conll", content, repair="ignore")


@pytest.mark.parametrize(
    ("name", "sentences", "entities", "scheme"),
    [
        ("wnut17/train", 3394, 1975, "BIO"),
        ("wnut17/validation", 1009, 836, "BIO"),
        ("wnut17/test", 1287, 1079, "BIO"),
        ("germeval2014/validation", 2198, 2673, "BIOES"),
        ("germeval2014/test", 5099, 6176, "BIOES"),
    ],
)
def test_real_sets(shared: Path, name: str, sentences: int, entities: int, scheme: str) -> None:
    report = Report()
    table = read_entities(str(shared / "data" / "ner" / f"{name}.conll"), report=report)
    assert len(table) == sentences
    assert sum(map(len, table.columns["entities"])) == entities
    assert table.notes == [f"tag scheme: {scheme}"]
    assert report.problems == []

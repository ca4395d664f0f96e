"""From what the user typed to a file that exists and is what its name says, or to a hub data set."""

from __future__ import annotations

import difflib
import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from modernbert.errors import DataError

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
}
TEXT_FORMATS = ("csv", "tsv", "jsonl", "json")
ALLOWED = ".csv, .tsv, .jsonl, .json (each also with .gz), .parquet, .xlsx"

# The first bytes of what people rename to .csv by mistake, and the mend.
MAGIC = {
    b"PK\x03\x04": "an Excel or zip file: name it .xlsx, or save it as CSV",
    b"\xd0\xcf\x11\xe0": "an old or protected Excel file: save it as .xlsx or CSV, without a password",
    b"PAR1": "a Parquet file: name it .parquet",
    b"%PDF": "a PDF",
}
GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class File:
    """A file that exists. `source` is what the user typed, `format` a value of FORMATS."""

    source: str
    path: Path
    format: str
    compressed: bool

    def open(self) -> BinaryIO:
        """The bytes, decompressed; reading damaged ones raises EOFError, BadGzipFile or zlib.error."""
        return cast(BinaryIO, gzip.open(self.path, "rb")) if self.compressed else self.path.open("rb")


@dataclass(frozen=True)
class HubSet:
    """A Hugging Face data set, not yet looked for."""

    source: str
    name: str
    config: str | None
    split: str


#: A file of text packs to a tenth or a twentieth; one that grows more than this, and to a size that matters, is made
#: to fill memory.
MOST_GROWTH, MATTERS = 200, 1 << 28


def check_unpacked(source: str, unpacked: int, packed: int) -> None:
    """DataError for a file of `packed` bytes that unpacks to so many that it must be a bomb."""
    if unpacked > MATTERS and unpacked > MOST_GROWTH * packed:
        raise DataError(
            f"{source} unpacks to {unpacked >> 20:,} MB or more, over {MOST_GROWTH} times its size: it is not read. "
            "If you trust it, unpack it yourself and give the plain file"
        )


def locate(source: str) -> File | HubSet:
    """What `source` names. DataError for a folder, a missing or empty file and for an unknown format."""
    if not source.strip():
        raise DataError("the name of the data file is empty")
    if source.startswith("hf:"):
        return _hub_set(source)
    path = Path(source).expanduser()
    if path.is_dir():
        raise DataError(f"{source} is a folder: name one file in it{_list(_data_files(path), ', for example ')}")
    if not path.exists():
        if _may_be_hub_name(source):
            return HubSet(source, source, None, "train")
        raise DataError(f"there is no file {source}{_closest(path)}")
    kind, compressed = format_of(path)
    if kind is None:
        ending = f"files ending in {path.suffix!r}" if path.suffix else "files without a suffix"
        raise DataError(f"{source}: cannot read {ending}; allowed are {ALLOWED}")
    _check_first_bytes(source, path, kind, compressed)
    return File(source, path, kind, compressed)


def format_of(path: Path) -> tuple[str | None, bool]:
    """The format that a file's name says (`None`: unknown) and whether it is gzip-compressed."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compressed = suffixes[-1:] == [".gz"]
    kind = FORMATS.get(suffixes[-2] if compressed and len(suffixes) > 1 else suffixes[-1]) if suffixes else None
    if compressed and kind not in TEXT_FORMATS:
        kind = None
    return kind, compressed


def _check_first_bytes(source: str, path: Path, kind: str, compressed: bool) -> None:
    with path.open("rb") as stream:
        start = stream.read(4)
    if not start:
        raise DataError(f"{source} is empty")
    if compressed and not start.startswith(GZIP):
        raise DataError(f"{source} is not gzip-compressed: take .gz off its name")
    if not compressed and start.startswith(GZIP):
        raise DataError(f"{source} is gzip-compressed: add .gz to its name")
    if kind in TEXT_FORMATS and start in MAGIC:
        raise DataError(f"{source} is not text but {MAGIC[start]}")


def _hub_set(source: str) -> HubSet:
    """`hf:name[:config][:split]`; a single extra part that is a usual split name is the split."""
    name, *rest = source.removeprefix("hf:").split(":")
    if not name or len(rest) > 2 or not all(rest):
        raise DataError(f"{source!r} is not hf:name, hf:name:split or hf:name:config:split")
    if len(rest) == 2:
        return HubSet(source, name, rest[0], rest[1])
    if rest and rest[0].split("[")[0] in ("train", "validation", "test", "dev"):
        return HubSet(source, name, None, rest[0])
    return HubSet(source, name, rest[0] if rest else None, "train")


def _may_be_hub_name(source: str) -> bool:
    """`name` or `owner/name`: no known suffix, nothing that only a path has."""
    looks_like_path = source.startswith(("/", ".", "~")) or "\\" in source or source.count("/") > 1
    owner = Path(source).parent
    folder_is_there = str(owner) != "." and owner.is_dir()
    return not (looks_like_path or folder_is_there or any(c.isspace() for c in source) or "." in Path(source).name)


def _data_files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_file() and format_of(p)[0])[:5]


def _list(names: list[str], lead: str) -> str:
    return lead + ", ".join(names) if names else ""


def _closest(path: Path) -> str:
    """What to say about the names near a missing file."""
    folder = path.parent
    if not folder.is_dir():
        return f": the folder {folder} does not exist"
    names = [p.name for p in folder.iterdir() if p.is_file()]
    close = difflib.get_close_matches(path.name, names, n=2, cutoff=0.8)
    if close:
        return f". Did you mean {' or '.join(str(folder / name) for name in close)}?"
    return _list(_data_files(folder), f". {folder.resolve()} has ")

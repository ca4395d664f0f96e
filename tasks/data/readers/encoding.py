"""Which characters the bytes of a text file are: BOM, then strict UTF-8, then a guess that is told."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from charset_normalizer import from_bytes

from modernbert.errors import DataError
from tasks.data.readers.source import File, check_unpacked

BLOCK = 1 << 20
LINE_LIMIT = 1 << 28  # bytes: a line is held in memory several times over
SAMPLE = 1 << 16  # bytes of non-UTF-8 lines that a guess rests on; more made no difference, less does on short lines

# UTF-32 before UTF-16: its little-endian mark starts with UTF-16's.
BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What spreadsheets and old exports write; unrestricted, a short sample is taken for an exotic DOS page.
CANDIDATES = [
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "iso8859_15", "koi8_r"),
    *("cp932", "euc_jp", "gb18030", "big5", "euc_kr"),
]


@contextmanager
def readable(file: File) -> Iterator[None]:
    """Turns the errors of a damaged file into one DataError."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file.source}: not valid {error.encoding} ({error.reason}): save the file as UTF-8"
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{file.source}: the compressed file is damaged or incomplete ({error})") from error
    except OSError as error:
        raise DataError(f"{file.source} cannot be read: {error.strerror or error}") from error


def detect_encoding(file: File) -> tuple[str, list[str]]:
    """The encoding and what to tell about it. Reads the whole file once, so a late byte is no surprise.

    Raises DataError where bytes are neither UTF-8 nor another encoding throughout, for NUL bytes, for a line that
    would fill memory and for a compressed file that unpacks to more than it could hold.
    """
    with readable(file), file.open() as stream:
        block = stream.read(BLOCK)
        known, notes = _marked(block)
        decoder = codecs.getincrementaldecoder("utf-8")()
        valid = True
        size = Size(file)
        while block:
            if known is None and b"\0" in block:
                line = size.line + block[: block.index(b"\0")].count(b"\n")
                raise DataError(f"{file.source}: line {line} has a NUL byte: the file is damaged or not text")
            valid = valid and (known is not None or _decodes(decoder, block))
            size.add(block)
            block = stream.read(BLOCK)
        valid = valid and (known is not None or _decodes(decoder, b"", final=True))
    if known is not None:
        return known, notes
    return ("utf-8", []) if valid else _guess(file)


def _marked(block: bytes) -> tuple[str | None, list[str]]:
    """The encoding that a file's first bytes say, and what to tell about it."""
    for mark, name in BOMS:
        if block.startswith(mark):
            return name, [] if name == "utf-8-sig" else [f"encoding {name}"]
    wide = _utf16_without_bom(block)
    return wide, [f"encoding {wide}"] if wide else []


class Size:
    """Counts the lines and bytes of a file; DataError for too many bytes in one line, or in a packed file."""

    def __init__(self, file: File) -> None:
        self.file, self.packed = file, file.path.stat().st_size
        self.line, self.bytes, self.run = 1, 0, 0

    def add(self, block: bytes) -> None:
        """Take in the next bytes."""
        self.bytes += len(block)
        if self.file.compressed:
            check_unpacked(self.file.source, self.bytes, self.packed)
        last = block.rfind(b"\n")
        self.line += block.count(b"\n")
        self.run = self.run + len(block) if last < 0 else len(block) - last - 1
        if self.run > LINE_LIMIT:
            raise DataError(
                f"{self.file.source}: line {self.line} is longer than {LINE_LIMIT >> 20} MB: "
                "are the line ends lost?"
            )


def open_text(file: File, encoding: str) -> TextIO:
    """The characters, line ends as they are (the csv module wants them so)."""
    return io.TextIOWrapper(file.open(), encoding=encoding, newline="")


def _decodes(decoder: codecs.IncrementalDecoder, block: bytes, final: bool = False) -> bool:
    try:
        decoder.decode(block, final)
    except UnicodeDecodeError:
        return False
    return True


def _utf16_without_bom(block: bytes) -> str | None:
    """UTF-16 of mostly Latin text has a NUL in nearly every second byte."""
    sample = block[:4096]
    half = len(sample) // 2
    if half and sample[1::2].count(0) > 0.4 * half and not sample[0::2].count(0):
        return "utf-16-le"
    if half and sample[0::2].count(0) > 0.4 * half and not sample[1::2].count(0):
        return "utf-16-be"
    return None


def _guess(file: File) -> tuple[str, list[str]]:
    """The encoding of a file that is not UTF-8, from its lines that are not."""
    good, first_bad, sample = 0, 0, bytearray()
    bad = 0
    with readable(file), file.open() as stream:
        for number, line in enumerate(stream, start=1):
            if line.isascii():
                continue
            try:
                line.decode("utf-8")
                good += 1
            except UnicodeDecodeError:
                bad += 1
                first_bad = first_bad or number
                sample += line
            if len(sample) >= SAMPLE:
                break
    # Other encodings are hardly ever valid UTF-8 by chance: this is UTF-8 with a damaged place, and read as
    # another encoding its good lines would turn into mojibake.
    if good >= bad:
        raise DataError(
            f"{file.source}: line {first_bad} is not valid UTF-8, though {good} other lines with non-ASCII "
            "characters are: two encodings are mixed, or the file is damaged. Mend it, or save all as UTF-8"
        )
    best = from_bytes(bytes(sample), cp_isolation=CANDIDATES).best()
    if best is None:
        raise DataError(f"{file.source}: line {first_bad} is not valid UTF-8 and no encoding fits: save it as UTF-8")
    # cp1252 is what Windows programs of the West write, and they are most. It wins where it reads the same,
    # and where the sample is too short to tell the language (coherence 0) but is plausible in it.
    plain = best.coherence == 0 and from_bytes(bytes(sample), cp_isolation=["cp1252"]).best() is not None
    name = "cp1252" if plain or "cp1252" in best.could_be_from_charset else best.encoding
    return name, [f"encoding {name} (guessed: line {first_bad} is not UTF-8)"]

"""Text files as the reader of rows takes them: unpacked, UTF-8 without a mark, one kind of line end.

Most files are that already and are read where they lie; of another one a copy is made, piece by piece.
"""

import codecs
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, cast

import pyarrow as pa

from store.imports.files import TableFile

UTF_8 = "utf-8"
_PIECE = 4 << 20
# A byte that is none of the encoding becomes one of these characters, which nobody's text holds.
_STRANGE = 0x10FF00
STRANGE = f"[\\x{{{_STRANGE + 0x80:X}}}-\\x{{{_STRANGE + 0xFF:X}}}]"
_MARKS = {0xDC00 + byte: _STRANGE + byte for byte in range(0x80, 0x100)}
_BOMS = (
    (codecs.BOM_UTF8, UTF_8),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LINE_ENDS = re.compile("[\r\n]+")
_REST_OF_FIELD = re.compile('(?:[^"]+|"")*')
DELIMITERS = {"csv": ",", "tsv": "\t"}


class UnknownEncodingError(ValueError):
    """The asked encoding is none that Python can decode text with."""

    def __init__(self, encoding: str) -> None:
        super().__init__(
            f"encoding {encoding!r} is unknown: name one such as utf-8, latin-1, cp1252, utf-16 or gb18030"
        )
        self.encoding = encoding


class UnreadableFileError(ValueError):
    """A file is not of the format that its name says."""

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{file} cannot be read: {reason}")
        self.file = file


@dataclass(frozen=True)
class PlainFile:
    """A file to read rows from; `strange` is the reason to refuse the rows that hold marks, or None."""

    path: Path
    strange: str | None = None


def check_encoding(encoding: str) -> None:
    """Raise UnknownEncodingError unless text can be decoded with an encoding."""
    try:
        b"a".decode(encoding, errors="replace")
        codecs.getincrementaldecoder(encoding)
    except (LookupError, UnicodeError, ValueError) as error:
        raise UnknownEncodingError(encoding) from error


def not_in(encoding: str) -> str:
    """Return the reason to refuse a row with bytes that are none of an encoding, such as not_utf8."""
    return "not_" + "".join(char for char in encoding.lower() if char.isalnum())


def strange_byte(text: str) -> int:
    """Return the first byte that is marked in a text."""
    return next(ord(char) - _STRANGE for char in text if ord(char) > _STRANGE)


def plain_file(file: TableFile, encoding: str, copy: Path) -> PlainFile:
    """Return a file that is as plain as DuckDB needs it: itself, or else `copy`, written now.

    Bytes that are none of the encoding are marked (see `STRANGE`), so that only their rows are refused.  Line
    ends inside quoted fields stay; blank lines between rows are left out.

    Raises:
        UnreadableFileError: the compression is broken off, or text of this encoding cannot hold such bytes.
    """
    if file.form == "parquet" and not file.packing:
        return PlainFile(file.path)
    try:
        if file.form == "parquet":
            with closing(_stream(file)) as source, copy.open("wb") as target:
                while piece := source.read(_PIECE):
                    target.write(piece)
            return PlainFile(copy)
        if not file.packing and codecs.lookup(encoding).name == UTF_8 and _is_plain(file):
            return PlainFile(file.path)
        return PlainFile(copy, not_in(encoding) if _write_plain(file, encoding, copy) else None)
    except UnicodeError as error:
        raise UnreadableFileError(file.path, f"it is no {encoding} text; say --encoding") from error
    except OSError as error:
        if error.errno is not None or not file.packing:
            raise  # of the disk, and says so
        raise UnreadableFileError(file.path, f"it is no whole {file.packing} file") from error


def _stream(file: TableFile) -> IO[bytes]:
    if not file.packing:
        return file.path.open("rb")
    return cast("IO[bytes]", pa.CompressedInputStream(pa.OSFile(str(file.path)), file.packing))


def _is_plain(file: TableFile) -> bool:
    """Return whether a file is valid UTF-8 without a mark, with one kind of line end and no blank lines.

    Where that is not sure the answer is no, which costs a copy and nothing else.
    """
    if file.path.stat().st_size == 1:
        return False  # of a single byte DuckDB reads nothing
    decoder = codecs.getincrementaldecoder(UTF_8)()
    ends: set[bytes] = set()
    with file.path.open("rb") as source:
        if source.read(4).startswith(tuple(mark for mark, _ in _BOMS)):
            return False
        source.seek(0)
        while piece := source.read(_PIECE):
            piece += source.readline(_PIECE)  # no line end across the border of two pieces
            try:
                if not piece.isascii() or decoder.getstate()[0]:
                    decoder.decode(piece)
            except UnicodeDecodeError:
                return False
            ends |= _line_ends(piece)
            if b"\r" in ends if file.form == "jsonl" else len(ends) > 1 or _has_blank_line(piece):
                return False
    return not decoder.getstate()[0]


def _line_ends(piece: bytes) -> set[bytes]:
    """Return which line ends a piece has: of the old Mac, of Unix, of DOS."""
    if b"\r" not in piece:
        return {b"\n"} if b"\n" in piece else set()
    both = piece.count(b"\r\n")
    counts = {b"\r\n": both, b"\r": piece.count(b"\r") - both, b"\n": piece.count(b"\n") - both}
    return {ends for ends, count in counts.items() if count}


def _has_blank_line(piece: bytes) -> bool:
    if piece[:1] in (b"\r", b"\n") or b"\n\n" in piece:
        return True
    return b"\r" in piece and (b"\n\r" in piece or b"\r\r" in piece)


def _write_plain(file: TableFile, encoding: str, copy: Path) -> bool:
    """Write the plain copy; return whether bytes were marked in it."""
    strange = False
    pieces = _decoded(file, encoding)
    plain = _newlines_alone(pieces) if file.form == "jsonl" else _tidy(pieces, DELIMITERS[file.form])
    with copy.open("wb") as target:
        for text in plain:
            try:
                target.write(text.encode())
            except UnicodeEncodeError:  # a byte that could not be decoded stands as a lone surrogate
                strange = True
                target.write(text.translate(_MARKS).encode(errors="replace"))
    return strange


def _decoded(file: TableFile, encoding: str) -> Iterator[str]:
    with closing(_stream(file)) as source:
        piece = source.read(_PIECE)
        if codecs.lookup(encoding).name == UTF_8:  # a mark says which Unicode it is
            encoding = next((name for mark, name in _BOMS if piece.startswith(mark)), encoding)
        decoder = codecs.getincrementaldecoder(encoding)(errors="surrogateescape")
        start = True
        while piece:
            text = decoder.decode(piece)
            yield text.removeprefix("\ufeff") if start else text
            start = start and not text
            piece = source.read(_PIECE)
        yield decoder.decode(b"", final=True)


def _newlines_alone(pieces: Iterator[str]) -> Iterator[str]:
    """Yield JSON text without carriage returns: a raw one can only stand between values."""
    for text in pieces:
        yield text.replace("\r", "\n")
    yield "\n"


def _tidy(pieces: Iterator[str], delimiter: str) -> Iterator[str]:
    """Yield CSV text whose rows end in a newline alone, without blank lines; quoted fields stay."""
    opening = re.compile(f'(?<=[{delimiter}\r\n])"')
    quoted, field_starts, row_starts = False, True, True
    held = ""
    for piece in chain(pieces, [None]):
        text, held = held + (piece or ""), ""
        at = 0
        while at < len(text):
            if quoted:
                match = _REST_OF_FIELD.match(text, at)
                end = match.end() if match else at
                if end == len(text) - 1 and piece is not None:
                    held = text[end:]  # a quote that ends the field, or is the first of two
                    yield text[at:end]
                    break
                quoted, field_starts, row_starts = end == len(text), False, False
                yield text[at : end + 1]
                at = end + 1
            elif field_starts and text[at] == '"':
                quoted = True
                yield '"'
                at += 1
            else:
                match = opening.search(text, at)
                end = match.start() if match else len(text)
                part = text[at:end].lstrip("\r\n") if row_starts else text[at:end]
                part = _LINE_ENDS.sub("\n", part)
                if part:
                    yield part
                    row_starts = part[-1] == "\n"
                    field_starts = row_starts or part[-1] == delimiter
                at = end

"""Make text files plain for DuckDB: uncompressed, UTF-8 without a byte order mark, one kind of line end.

Most files are plain already and are read in place; of the others a copy is written, piece by piece.
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
_PIECE_BYTES = 4 << 20
# A byte that cannot be decoded becomes one of these unassigned characters.
_UNDECODABLE = 0x10FF00
UNDECODABLE = f"[\\x{{{_UNDECODABLE + 0x80:X}}}-\\x{{{_UNDECODABLE + 0xFF:X}}}]"
_MARKS = {0xDC00 + byte: _UNDECODABLE + byte for byte in range(0x80, 0x100)}
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
OTHER_DELIMITERS = (";", "\t", "|")  # of a file called .csv whose header has no comma


class UnknownEncodingError(ValueError):
    """Python has no text encoding of this name."""

    def __init__(self, encoding: str) -> None:
        super().__init__(
            f"encoding {encoding!r} is unknown: name one such as utf-8, latin-1, cp1252, utf-16 or gb18030"
        )
        self.encoding = encoding


class UnreadableFileError(ValueError):
    """A file is not of the format of its suffix."""

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{file} cannot be read: {reason}")
        self.file = file


@dataclass(frozen=True)
class PlainFile:
    """A plain file.

    Attributes:
        undecodable: the reason to refuse rows with undecodable bytes, None without any.
        delimiter: between the values of a row of CSV or TSV, "" in other files.
    """

    path: Path
    undecodable: str | None = None
    delimiter: str = ""


def check_encoding(encoding: str) -> None:
    """Check that Python knows a text encoding.  Raises: UnknownEncodingError."""
    try:
        b"a".decode(encoding, errors="replace")
        codecs.getincrementaldecoder(encoding)
    except (LookupError, UnicodeError, ValueError) as error:
        raise UnknownEncodingError(encoding) from error


def undecodable_reason(encoding: str) -> str:
    """Return the reason to refuse rows with bytes that an encoding cannot decode, such as not_utf8."""
    return "not_" + "".join(char for char in encoding.lower() if char.isalnum())


def undecodable_byte(text: str) -> int:
    """Return the first byte of a text that could not be decoded."""
    return next(ord(char) - _UNDECODABLE for char in text if ord(char) > _UNDECODABLE)


def marked_undecodable(text: str) -> str:
    """Return text in which each byte that could not be decoded, a lone surrogate so far, can be named."""
    return text if text.isascii() else text.translate(_MARKS).encode(errors="replace").decode()


def plain_file(file: TableFile, encoding: str, copy: Path) -> PlainFile:
    """Return a file as it is where DuckDB can read it, otherwise write a plain copy and return that.

    Bytes that cannot be decoded become characters of UNDECODABLE, so that only their rows are refused. Line
    ends inside quoted fields are kept, blank lines between rows are not.

    Raises:
        UnreadableFileError: the compressed data is cut off, or the file is no text of this encoding.
    """
    if file.form == "parquet" and not file.packing:
        return PlainFile(file.path)
    try:
        if file.form == "parquet":
            with closing(_stream(file)) as source, copy.open("wb") as target:
                while piece := source.read(_PIECE_BYTES):
                    target.write(piece)
            return PlainFile(copy)
        delimiter = _delimiter(file, encoding)
        if not file.packing and codecs.lookup(encoding).name == UTF_8 and _is_plain(file):
            return PlainFile(file.path, None, delimiter)
        undecodable = _write_plain(file, encoding, copy, delimiter)
        return PlainFile(copy, undecodable_reason(encoding) if undecodable else None, delimiter)
    except UnicodeError as error:
        raise UnreadableFileError(file.path, f"it is no {encoding} text; say --encoding") from error
    except OSError as error:
        if error.errno is not None or not file.packing:
            raise  # an error of the disk
        raise UnreadableFileError(file.path, f"it is no whole {file.packing} file") from error


def _stream(file: TableFile) -> IO[bytes]:
    if not file.packing:
        return file.path.open("rb")
    return cast("IO[bytes]", pa.CompressedInputStream(pa.OSFile(str(file.path)), file.packing))


def _delimiter(file: TableFile, encoding: str) -> str:
    """Return what lies between the values of a file: a CSV header without a comma may have another one."""
    usual = DELIMITERS.get(file.form, "")
    if file.form != "csv":
        return usual
    header = next(_decoded(file, encoding)).lstrip("\r\n").splitlines()[:1]
    if not header or usual in header[0]:
        return usual
    return next((one for one in OTHER_DELIMITERS if one in header[0]), usual)


def _is_plain(file: TableFile) -> bool:
    """Return whether a file is UTF-8 without a byte order mark, with one kind of line end and no blank lines.

    May return False for such a file, which costs a copy.
    """
    if file.path.stat().st_size == 1:
        return False  # DuckDB reads no row of a file of one byte
    decoder = codecs.getincrementaldecoder(UTF_8)()
    ends: set[bytes] = set()
    with file.path.open("rb") as source:
        if source.read(4).startswith(tuple(mark for mark, _ in _BOMS)):
            return False
        source.seek(0)
        while piece := source.read(_PIECE_BYTES):
            piece += source.readline(_PIECE_BYTES)  # no line end across the border of two pieces
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
    """Return the kinds of line end in a piece: CR, LF, CR LF."""
    if b"\r" not in piece:
        return {b"\n"} if b"\n" in piece else set()
    both = piece.count(b"\r\n")
    counts = {b"\r\n": both, b"\r": piece.count(b"\r") - both, b"\n": piece.count(b"\n") - both}
    return {ends for ends, count in counts.items() if count}


def _has_blank_line(piece: bytes) -> bool:
    if piece[:1] in (b"\r", b"\n") or b"\n\n" in piece:
        return True
    return b"\r" in piece and (b"\n\r" in piece or b"\r\r" in piece)


def _write_plain(file: TableFile, encoding: str, copy: Path, delimiter: str) -> bool:
    """Write the plain copy; return whether it has undecodable bytes."""
    undecodable = False
    pieces = _decoded(file, encoding)
    plain = _newlines_alone(pieces) if file.form == "jsonl" else _tidy(pieces, delimiter)
    with copy.open("wb") as target:
        for text in plain:
            try:
                target.write(text.encode())
            except UnicodeEncodeError:  # a byte that could not be decoded stands as a lone surrogate
                undecodable = True
                target.write(marked_undecodable(text).encode())
    return undecodable


def _decoded(file: TableFile, encoding: str) -> Iterator[str]:
    with closing(_stream(file)) as source:
        piece = source.read(_PIECE_BYTES)
        if codecs.lookup(encoding).name == UTF_8:  # a byte order mark may say UTF-16 or UTF-32
            encoding = next((name for mark, name in _BOMS if piece.startswith(mark)), encoding)
        decoder = codecs.getincrementaldecoder(encoding)(errors="surrogateescape")
        start = True
        while piece:
            text = decoder.decode(piece)
            yield text.removeprefix("\ufeff") if start else text
            start = start and not text
            piece = source.read(_PIECE_BYTES)
        yield decoder.decode(b"", final=True)


def _newlines_alone(pieces: Iterator[str]) -> Iterator[str]:
    """Replace carriage returns in JSON text with newlines: a raw one can only be between values."""
    for text in pieces:
        yield text.replace("\r", "\n")
    yield "\n"


def _tidy(pieces: Iterator[str], delimiter: str) -> Iterator[str]:
    """Make rows of CSV text end in a newline, and drop blank lines; quoted fields are kept as they are."""
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
                    held = text[end:]  # this quote ends the field, or is the first of two
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

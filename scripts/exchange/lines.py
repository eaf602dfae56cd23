"""Lines of a file, plain or packed, from any line on, with the bytes that were read of it so far."""

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, cast

from store.imports import UnreadableFileError

PACKINGS = {".gz": "gzip", ".zst": "zstd"}
MAX_LINE_BYTES = 16 << 20
_BUFFER = 1 << 20
_UTF_8_MARK = b"\xef\xbb\xbf"


class Lines:
    """An iterator of the lines of a file, as bytes with their ends; a longer one than 16 MiB is cut there.

    Attributes:
        path: of the file.
        number: lines read so far, so the number of the last one, from 1.
        offset: bytes read so far of the unpacked text.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0
        self.offset = 0
        self._by_lines = True
        self._packing = PACKINGS.get(path.suffix.lower(), "")
        self._file = path.open("rb")
        self._text = self._opened()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """Return the next line.  Raises: UnreadableFileError: packed content is broken."""
        line = self._read(MAX_LINE_BYTES)
        if not line:
            raise StopIteration
        size = len(line)
        while size % MAX_LINE_BYTES == 0 and line[-1:] != b"\n":  # the rest of a line without an end
            rest = self._read(MAX_LINE_BYTES)
            if not rest:
                break
            size += len(rest)
            if rest[-1:] == b"\n":
                break
        self.offset += size
        self.number += 1
        return line.removeprefix(_UTF_8_MARK) if self.number == 1 else line

    def skip_to(self, offset: int, number: int) -> None:
        """Go on behind a line that was read before: `offset` and `number` as they were then.

        Raises:
            UnreadableFileError: the file is shorter, or packed content is broken.
        """
        if not self._packing:
            self._text.seek(offset)
        else:
            while self.offset < offset:
                piece = self._read(min(_BUFFER, offset - self.offset), whole=True)
                if not piece:
                    raise UnreadableFileError(self.path, "it is shorter than it was")
                self.offset += len(piece)
        self.offset, self.number = offset, number

    def go_to(self, offset: int, number: int) -> None:
        """Note how far something else has read the file, which is not read by lines."""
        self.offset, self.number, self._by_lines = offset, number, False

    @property
    def consumed(self) -> int:
        """Bytes read so far of the file itself, packed as it may be."""
        return self._file.tell() if self._by_lines else self.offset

    def _opened(self) -> BinaryIO:
        if self._packing == "gzip":
            return io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=self._file)), _BUFFER)
        if self._packing == "zstd":
            import pyarrow as pa

            stream = pa.CompressedInputStream(pa.PythonFile(self._file, "r"), "zstd")
            return io.BufferedReader(stream, _BUFFER)
        return self._file

    def _read(self, most: int, *, whole: bool = False) -> bytes:
        try:
            return self._text.read(most) if whole else self._text.readline(most)
        except (EOFError, zlib.error, OSError) as error:
            if not self._packing or (isinstance(error, OSError) and error.errno is not None):
                raise
            raise UnreadableFileError(self.path, f"it is no whole {self._packing} file") from error

"""What Ingest tells, as messages that every gRPC client takes."""

from collections.abc import Iterator, Sequence

from server.pb.triptych.v1 import ingest_pb2 as pb

MAX_PART_BYTES = 3_000_000  # of rows; a client that sets no limit of its own takes messages below 4 MiB
_ROW_BYTES = 8  # what the message needs beside the text of a row


def parts_of(table: str, rows: Sequence[str]) -> Iterator[pb.ExportUserResponse]:
    """Yield rows of one table in messages of at most `MAX_PART_BYTES`; a longer row goes on in the next."""
    part, size = pb.ExportUserResponse(table=table), 0
    for row in rows:
        *begun, last = _pieces(row)
        for piece, unfinished in (*((piece, True) for piece in begun), (last, False)):
            needed = len(piece.encode()) + _ROW_BYTES
            if part.rows and size + needed > MAX_PART_BYTES:
                yield part
                part, size = pb.ExportUserResponse(table=table), 0
            part.rows.append(piece)
            size += needed
            if unfinished:
                part.unfinished = True
                yield part
                part, size = pb.ExportUserResponse(table=table), 0
    if part.rows:
        yield part


def _pieces(row: str) -> list[str]:
    """Return a row in pieces of which each fits into a message of its own, whatever its characters are."""
    most = (MAX_PART_BYTES - _ROW_BYTES) // 4  # characters, of up to four bytes
    return [row[start : start + most] for start in range(0, len(row), most)] or [row]

"""Imports: a folder of files in many formats becomes rows of the six tables, in one transaction.

`files` finds the files of each table. `text_files` makes plain copies of text files where DuckDB needs them,
and `readers` stages the files as relations of raw values, with `values` saying how a value of each kind is
taken and `time_columns` what the numbers of a time column mean. `validation` types and checks every row,
`rejects` writes the refused ones down (`converted` remembers from which line of another layout a row came),
and `upsert` merges the accepted ones into the store, those of impressions by `impressions`. `run` tells the
whole and reports.
"""

from store.imports.converted import ConvertedParts
from store.imports.files import FORMATS, AmbiguousFilesError, NothingToImportError, UnknownFormatError
from store.imports.impressions import SAME_IMPRESSION
from store.imports.readers import MissingColumnError, Source
from store.imports.rejects import ImportRejectedError, rejects_about, remove_rejects
from store.imports.run import (
    ImportOptions,
    ImportReport,
    TableReport,
    UnusableColumnError,
    check_not_all_refused,
    import_folder,
)
from store.imports.text_files import UTF_8, UnknownEncodingError, UnreadableFileError, check_encoding
from store.imports.time_columns import AUTO, AmbiguousTimesError, UnknownTimesError
from store.imports.upsert import upsert_rows
from store.imports.validation import DUPLICATE, ITEM_VECTOR_LENGTH, UNKNOWN_VIEW, check, item_vector_length

__all__ = [
    "AUTO",
    "DUPLICATE",
    "FORMATS",
    "ITEM_VECTOR_LENGTH",
    "SAME_IMPRESSION",
    "UNKNOWN_VIEW",
    "UTF_8",
    "AmbiguousFilesError",
    "AmbiguousTimesError",
    "ConvertedParts",
    "ImportOptions",
    "ImportRejectedError",
    "ImportReport",
    "MissingColumnError",
    "NothingToImportError",
    "Source",
    "TableReport",
    "UnknownEncodingError",
    "UnknownFormatError",
    "UnknownTimesError",
    "UnreadableFileError",
    "UnusableColumnError",
    "check",
    "check_encoding",
    "check_not_all_refused",
    "import_folder",
    "item_vector_length",
    "rejects_about",
    "remove_rejects",
    "upsert_rows",
]

"""Data of others, both ways: `triptych import` with its layouts and mappings, and exports that others read.

`formats/` has the layouts, and `sources` says what one is: files, how records lie in them (`lines`,
`records`) and the rows that they make (`values`). `mapping` reads a mapping file, and `sniff` writes a first
one. `conversion` turns all of them into parts that the import of folders reads, going on where it was cut off
(`unfinished`). `command` is the command. `to_recbole` writes RecBole's files.
"""

from scripts.exchange.command import import_command, import_through, masking_of
from scripts.exchange.to_recbole import write_recbole

__all__ = ["import_command", "import_through", "masking_of", "write_recbole"]

"""The rights of users: erasure, subject access, and the audit log of both.

`erase` deletes a user's rows in one transaction, enters the erasure in the ledger (`store.ledger`) and
remembers what is still to be removed outside the store, so that a crash loses none of it. `subject_access`
lists what is stored about a user. `audit` appends a line for each such request, under a salted hash in place
of the user id.
"""

from store.privacy.audit import append_audit_line, pseudonym
from store.privacy.erase import (
    UnfinishedErasure,
    add_erasures,
    delete_user_rows,
    erase_user,
    finish_erasure,
    list_erasures,
    unfinished_erasures,
)
from store.privacy.subject_access import USER_TABLES, RowPart, rows_about, trained_on

__all__ = [
    "USER_TABLES",
    "RowPart",
    "UnfinishedErasure",
    "add_erasures",
    "append_audit_line",
    "delete_user_rows",
    "erase_user",
    "finish_erasure",
    "list_erasures",
    "pseudonym",
    "rows_about",
    "trained_on",
    "unfinished_erasures",
]

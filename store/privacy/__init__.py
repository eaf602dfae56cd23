"""The rights of users: erasure, subject access, and the audit log of both.

`erase` deletes a user's rows in one transaction, enters the erasure in the ledger (`store.ledger`) and
remembers what is still to be removed outside the store, so that a crash loses none of it. `subject_access`
lists what is stored about a user. `audit` appends a line for each such request, under a salted hash in place
of the user id.
"""

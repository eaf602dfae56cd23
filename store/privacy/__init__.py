"""People's rights: erasure, the ledger that keeps the erased out, subject access, the audit log."""

"""The derived state: what a query needs of each user, packed in LMDB beside the store, rebuilt in doubt."""

"""What changes while the server runs: writes, texts, items, users, publishing."""

"""Task heads on frozen user vectors: click, rating, category."""

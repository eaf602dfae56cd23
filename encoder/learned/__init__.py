"""Learned blocks of the tower: batches, model, losses and their training in torch."""

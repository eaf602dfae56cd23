"""Tuning of the language model in torch: adapters, continued pre-training, distillation."""

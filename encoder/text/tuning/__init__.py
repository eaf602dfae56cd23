"""Training of a language model on the texts of an export, before it is exported.

Three ways, one module each: `tune` trains low-rank adapters (`lora`) on pairs of a user's text and an item,
`pretrain` goes on with the model's own pre-training, `distill` teaches a model with fewer layers. `pairs`
draws their training data, `options` are their settings, `loop` their common training, and `registry` keeps
results, so that an equal request finds an earlier one.
"""

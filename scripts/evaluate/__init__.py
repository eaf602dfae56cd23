"""triptych evaluate: a published model and index measured on held-out rows, beside baselines.

`command` parses and calls; `report` puts the report of DESIGN section 5 together. `protocol` ranks and
measures: every figure comes from its Evaluator, also those of `amounts`, `baselines`, `diversity` and
`robustness`. `tables` prints the report, `page` draws it with `charts`.
"""

from scripts.evaluate.command import evaluate_command

__all__ = [
    "evaluate_command",
]

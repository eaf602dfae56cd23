"""Low-rank adapters on the attention of a transformer: attach, regularise, merge."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from encoder.text.tuning.options import TuneOptions

# Names of the attention projections by family of models; the first line that matches is used.
_PROJECTIONS: tuple[tuple[str, ...], ...] = (
    ("query", "key", "value"),  # BERT, RoBERTa, ELECTRA
    ("q_proj", "k_proj", "v_proj", "o_proj"),  # Llama, Qwen, Mistral, Gemma
    ("q_lin", "k_lin", "v_lin"),  # DistilBERT
    ("query_proj", "key_proj", "value_proj"),  # DeBERTa
    ("q", "k", "v", "o"),  # MPNet, T5
    ("c_attn",),  # GPT-2
    ("query_key_value",),  # GPT-NeoX, BLOOM, Falcon
    ("Wqkv",),  # ModernBERT
    ("qkv_proj", "o_proj"),  # Phi-3
)
_ORTHOGONAL = 0.5  # weight of the penalty, as peft has it
_ROOM = 1.5  # AdaLoRA starts with so many times the rank that it ends with
_NAMED = 20  # layers at most in an error


class NoAttentionLayersError(ValueError):
    """A transformer has no layer with a known name of an attention projection."""

    def __init__(self, layers: Sequence[str]) -> None:
        known = ", ".join("/".join(names) for names in _PROJECTIONS)
        super().__init__(
            f"no attention projection found to adapt: looked for {known}; "
            f"the model's linear layers are {', '.join(layers[:_NAMED]) or '(none)'}"
        )
        self.layers = tuple(layers)


@dataclass(frozen=True)
class Adapters:
    """The adapters inside one model; only they are trainable."""

    peft: Any
    adaptive: bool

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters by name."""
        return {name: one for name, one in self.peft.named_parameters() if one.requires_grad}

    def penalty(self) -> Tensor | float:
        """Compute the penalty that keeps AdaLoRA's factors orthogonal (its equation 4); 0 for LoRA."""
        if not self.adaptive:
            return 0.0

        distances = []
        for name, factor in self.parameters().items():
            if "lora_A" in name or "lora_B" in name:
                gram = factor @ factor.T if "lora_A" in name else factor.T @ factor  # (R, R)
                distances.append(torch.linalg.norm(gram - torch.eye(len(gram), device=gram.device)))
        return _ORTHOGONAL * torch.stack(distances).mean()

    def after_step(self, step: int) -> None:
        """Let AdaLoRA move its ranks; call it while the gradients of step 0, 1, … are still there."""
        if self.adaptive:
            self.peft.base_model.update_and_allocate(step)

    def merge(self) -> None:
        """Add the adapters to the weights and take them out of the model."""
        self.peft.merge_and_unload()


def attach(transformer: nn.Module, options: TuneOptions, steps: int) -> Adapters:
    """Build new adapters into a transformer; at first they do not change its output.

    Args:
        transformer: the model of transformers; altered in place, its own weights frozen.
        options: method, rank, alpha and dropout.
        steps: of the whole training, which AdaLoRA's schedule needs.

    Raises:
        NoAttentionLayersError: no layer to attach them to.

    Source:
        Hu et al. 2022, "LoRA: low-rank adaptation of large language models"; Zhang et al. 2023,
        "AdaLoRA: adaptive budget allocation for parameter-efficient fine-tuning".
    """
    import peft  # noqa: PLC0415  loads torch
    from transformers.pytorch_utils import Conv1D  # noqa: PLC0415

    targets = attention_projections(transformer)
    shared: dict[str, Any] = {
        "target_modules": targets,
        "lora_alpha": options.alpha,
        "lora_dropout": options.dropout,
        "fan_in_fan_out": isinstance(transformer.get_submodule(targets[0]), Conv1D),
    }
    if options.method == "lora":
        config = peft.LoraConfig(r=options.rank, **shared)
    else:
        config = peft.AdaLoraConfig(
            target_r=options.rank,
            init_r=max(options.rank + 1, round(options.rank * _ROOM)),
            tinit=steps // 10,
            tfinal=steps // 4,
            deltaT=max(1, steps // 100),
            total_step=steps,
            **shared,
        )
    return Adapters(peft.get_peft_model(transformer, config), options.method == "adalora")


def attention_projections(transformer: nn.Module) -> list[str]:
    """Find the full names of the attention projections of a transformer.

    Raises:
        NoAttentionLayersError: no name is known; the error lists the linear layers of the transformer.
    """
    from transformers.pytorch_utils import Conv1D  # noqa: PLC0415

    linear = [name for name, one in transformer.named_modules() if isinstance(one, nn.Linear | Conv1D)]
    for projections in _PROJECTIONS:
        known = [name for name in linear if name.rpartition(".")[2] in projections]
        if known:
            return known
    # Layers repeat: one name for all of their kind.
    raise NoAttentionLayersError(list(dict.fromkeys(re.sub(r"\.\d+\.", ".N.", name) for name in linear)))

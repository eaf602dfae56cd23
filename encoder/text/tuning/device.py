"""Where a language model is trained: the device, its random state, and texts as tensors on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@contextmanager
def reproducible(seed: int) -> Iterator["torch.device"]:
    """Yield the device to train on, with torch's random state seeded inside and untouched outside."""
    import torch  # noqa: PLC0415  only while training

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield device


def autocast(device: "torch.device") -> Any:
    """Return a context in which products run in bfloat16 on CUDA; on a CPU everything is float32."""
    import torch  # noqa: PLC0415

    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def tokens(model: Any, texts: list[str], max_tokens: int) -> "dict[str, Tensor]":
    """Return what the model's transformer takes for texts, its default prompt before each, padded.

    Shapes:
        input_ids, attention_mask: (B, L) int64, on the model's device.
    """
    prompt = model.prompts[model.default_prompt_name] if model.default_prompt_name else ""
    longest = min(max_tokens, model.max_seq_length or max_tokens)
    encoded = model.tokenizer(
        [prompt + text for text in texts],
        padding=True,
        truncation=True,
        max_length=longest,
        return_tensors="pt",
    )
    return {name: tensor.to(model.device) for name, tensor in encoded.items()}

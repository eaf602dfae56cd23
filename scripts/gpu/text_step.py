"""Text encoding on a card beside the CPU."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from encoder.text import DEFAULT_SOURCE, TextEncoder
from encoder.text.encoder import CUDA
from encoder.text.export import export_text_model
from encoder.text.source import fetch
from scripts.world.sentences import english_post, topics

SHORT, LONG = 4_096, 1_024  # texts of about 16 and 128 tokens
_DEVICES = {"card": "cuda", "CPU": "cpu"}
_ON_CPU = 8  # of so many texts the CPU encodes one


def measure_text(short: int = SHORT, long: int = LONG) -> dict[str, Any]:
    """Return texts a second by length and device.

    ONNX Runtime where it offers CUDA, else sentence-transformers in torch, which `by` names.
    """
    posts = _posts(short)
    longer = [" ".join(posts[(8 * row + part) % short] for part in range(8)) for row in range(long)]
    with tempfile.TemporaryDirectory() as name:
        by, encoders = _encoders(Path(name))
        rows = []
        for tokens, texts in ((16, posts), (128, longer)):
            for device, encode in encoders.items():
                some = texts if device == "card" else texts[: len(texts) // _ON_CPU]
                encode(some[:64])
                began = time.perf_counter()
                encode(some)
                seconds = time.perf_counter() - began
                rows.append({"tokens": tokens, "device": device, "texts_per_second": len(some) / seconds})
    return {"by": by, "results": rows}


def _posts(count: int) -> list[str]:
    generator = np.random.default_rng(0)
    subjects = topics()
    draws = generator.integers(1 << 30, size=(count, 6)).tolist()
    return [english_post(subjects[n % len(subjects)], n % 5, draw) for n, draw in enumerate(draws)]


def _encoders(folder: Path) -> tuple[str, dict[str, Callable[[list[str]], object]]]:
    """Return the library, and what encodes texts on the card and on the CPU."""
    if CUDA in onnxruntime.get_available_providers():
        directory = export_text_model(DEFAULT_SOURCE, folder)
        card, cpu = TextEncoder.load(directory, device="cuda"), TextEncoder.load(directory, device="cpu")
        return "ONNX Runtime", {"card": card.encode, "CPU": cpu.encode}
    from sentence_transformers import SentenceTransformer

    source = str(fetch(DEFAULT_SOURCE))
    models = {name: SentenceTransformer(source, device=device) for name, device in _DEVICES.items()}
    return "sentence-transformers", {name: model.encode for name, model in models.items()}

"""A language model of a few words, and a world written in them, to tune it on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SAID = (["sail", "wave", "harbour", "tide", "gull", "anchor"], list("秋天很美北京"))
SOLD = (["boat", "rope", "mast", "deck", "keel", "oar"], list("三体科幻小说"))
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_world(folder: Path) -> None:
    """Write 60 users of two topics, one of them Chinese: what they say and what they like."""
    rng = np.random.default_rng(0)
    texts, behaviors, items = [], [], []
    for topic in (0, 1):
        gap = "" if topic else " "
        for item in range(20):
            title = gap.join(rng.choice(SOLD[topic], 5))
            items.append({"item_id": f"{topic}-{item}", "title": title, "text": ""})
        for user in range(30):
            for _ in range(4):
                text = gap.join(rng.choice(SAID[topic], 6))
                texts.append({"user_id": f"u{topic}{user}", "item_id": None, "text": text})
            liked = rng.choice(20, 6, replace=False)
            behaviors += [{"user_id": f"u{topic}{user}", "item_id": f"{topic}-{item}"} for item in liked]
    folder.mkdir()
    for name, rows in (("items", items), ("texts", texts), ("behaviors", behaviors)):
        table = pa.Table.from_pylist(rows)
        if name == "texts":
            table = table.cast(pa.schema([(column, pa.string()) for column in table.column_names]))
        pq.write_table(table, folder / f"{name}.parquet")


def vocabulary() -> dict[str, int]:
    known = [*SPECIAL, *dict.fromkeys(word for words in (*SAID, *SOLD) for word in words)]
    return {word: row for row, word in enumerate(known)}


def write_model(folder: Path, transformer: Any, tokenizer: Any, pooling: str) -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    parts = folder.with_name("parts")
    transformer.save_pretrained(parts)
    tokenizer.save_pretrained(parts)
    modules = [Transformer(str(parts), max_seq_length=24), Pooling(32, pooling)]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    return folder


def metrics(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder.parent / "metrics.json").read_text("utf-8"))
    return loaded


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()

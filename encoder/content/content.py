"""The content of items as arrays: text, attributes, vector."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from encoder.arrays import IntArray
from encoder.content.attributes import AttributeEncoder, Described
from encoder.content.words import WordEncoder
from encoder.views import FloatArray, Matrix, unit_rows

PARTS = ("text", "attributes", "vector")
MOST_COORDINATES = 512  # of a brought vector
INPUTS = ("text", "words", "attributes", "vector")  # the coordinates of content, in their order
INPUTS_OF = {"text": ("text", "words"), "attributes": ("attributes",), "vector": ("vector",)}

Widths = tuple[int, int, int, int]


@dataclass(frozen=True)
class RawContent:
    """What is known of N items as it was written.

    Shapes:
        text_vectors: (N, D_T) float32 unit rows of the language model, zero for an item without text.
        vectors: (N, D_X) float32 of any length, which the user brought; zero for an item without one.

    Attributes:
        texts: title and text of each, "" for none.
        described: kinds and attributes.
    """

    texts: Sequence[str]
    text_vectors: FloatArray
    described: Described
    vectors: FloatArray

    def __len__(self) -> int:
        return len(self.texts)

    @classmethod
    def of_texts(cls, texts: Sequence[str], text_vectors: FloatArray) -> "RawContent":
        """Return the content of items that are nothing but texts."""
        none = Described([None] * len(texts), [None] * len(texts))
        return cls(texts, text_vectors, none, np.zeros((len(texts), 0), np.float32))

    def without(self, left_out: npt.NDArray[np.bool_]) -> "RawContent":
        """Return the content with nothing known of the items `left_out` (N,)."""
        kept = (~left_out)[:, None].astype(np.float32)
        gone = left_out.tolist()
        kinds = [None if out else kind for out, kind in zip(gone, self.described.kinds, strict=True)]
        attributes = [None if out else one for out, one in zip(gone, self.described.attributes, strict=True)]
        texts = ["" if out else text for out, text in zip(gone, self.texts, strict=True)]
        return RawContent(texts, self.text_vectors * kept, Described(kinds, attributes), self.vectors * kept)

    def take(self, rows: IntArray) -> "RawContent":
        """Return the content of the items `rows` (n,)."""
        texts = [self.texts[row] for row in rows.tolist()]
        return RawContent(texts, self.text_vectors[rows], self.described.take(rows), self.vectors[rows])


@dataclass(frozen=True)
class ItemContent:
    """What is known of N items, as numbers; the row of a part that an item lacks is zero.

    Shapes:
        text: (N, D_T) float32, unit rows of the language model.
        words: (N, D_W) sparse float32, of the part `text`, too.
        attributes: (N, D_A) sparse float32.
        vector: (N, D_X) float32, unit rows: what the user brought, `shortened`.
    """

    text: FloatArray
    words: Matrix
    attributes: Matrix
    vector: FloatArray

    def __len__(self) -> int:
        return len(self.text)

    @property
    def widths(self) -> Widths:
        """D_T, D_W, D_A and D_X."""
        text, words, attributes, vector = (
            one.shape[1] for one in (self.text, self.words, self.attributes, self.vector)
        )
        return text, words, attributes, vector

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """(N, 3) bool: which parts each item has."""
        named = np.diff(self.attributes.indptr) > 0
        return np.stack([self.text.any(axis=1), named, self.vector.any(axis=1)], axis=1)

    def take(self, rows: IntArray) -> "ItemContent":
        """Return the content of the items `rows` (n,)."""
        return ItemContent(self.text[rows], self.words[rows], self.attributes[rows], self.vector[rows])

    def inputs(self) -> dict[str, FloatArray]:
        """Return the dense coordinates by the names of INPUTS."""
        parts = self.text, self.words.toarray(), self.attributes.toarray(), self.vector
        return dict(zip(INPUTS, parts, strict=True))

    def dense(self) -> FloatArray:
        """Return all coordinates side by side, (N, D_T + D_W + D_A + D_X) float32."""
        return np.concatenate(list(self.inputs().values()), axis=1).astype(np.float32, copy=False)

    def only(self, parts: Sequence[str], among: npt.NDArray[np.bool_] | None = None) -> "ItemContent":
        """Return the content without the other parts, of the items `among` (N,) or of all."""
        gone = np.ones(len(self), dtype=bool) if among is None else among
        keep = (~gone).astype(np.float32)
        shown: dict[str, Any] = {}
        for name in (name for part in PARTS if part not in parts for name in INPUTS_OF[part]):
            values = getattr(self, name)
            if isinstance(values, np.ndarray):
                shown[name] = values * keep[:, None]
            else:
                shown[name] = sparse.csr_array(sparse.diags_array(keep) @ values)
                shown[name].eliminate_zeros()
        return replace(self, **shown)


@dataclass(frozen=True)
class ContentEncoder:
    """Turns what was written of items into numbers: their words, and their kinds and attributes.

    Attributes:
        vector_length: D_X of the vectors that it knows; 0 where no item had one.
    """

    words: WordEncoder = field(default_factory=WordEncoder)
    attributes: AttributeEncoder = field(default_factory=AttributeEncoder)
    vector_length: int = 0

    def encode(self, raw: RawContent) -> ItemContent:
        """Encode items; one of which only the kind is known has no content, as all of its kind are alike."""
        text, vector = raw.text_vectors, unit_rows(shortened(raw.vectors))
        described = np.array([bool(one) for one in raw.described.attributes], dtype=bool)
        known = (described | text.any(axis=1) | vector.any(axis=1)).astype(np.float32)
        attributes = sparse.csr_array(sparse.diags_array(known) @ self.attributes.encode(raw.described))
        attributes.eliminate_zeros()
        return ItemContent(text, self.words.encode(raw.texts), attributes, vector)

    def as_json(self) -> dict[str, Any]:
        """Return the encoder as JSON values."""
        return {
            "words": self.words.as_json(),
            "attributes": self.attributes.as_json(),
            "vector_length": self.vector_length,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ContentEncoder":
        """Make an encoder of the values that `as_json` returned."""
        words, attributes = WordEncoder.from_json(values["words"]), values["attributes"]
        return cls(words, AttributeEncoder.from_json(attributes), int(values["vector_length"]))


def shortened(vectors: FloatArray) -> FloatArray:
    """Fold vectors (N, D_X) that are longer than MOST_COORDINATES into as many, by a hash and a sign.

    Inner products stay the same but for noise; a regression takes the cube of the coordinates in time.

    Source:
        Charikar, Chen and Farach-Colton 2002, "Finding frequent items in data streams" (the count sketch).
    """
    if vectors.shape[1] <= MOST_COORDINATES:
        return vectors
    mixed = (np.arange(vectors.shape[1], dtype=np.uint64) + 1) * np.uint64(0x9E3779B97F4A7C15)  # modulo 2^64
    places = (mixed >> np.uint64(40)).astype(np.int64) % MOST_COORDINATES
    signs = np.where(mixed >> np.uint64(39) & np.uint64(1), 1.0, -1.0)
    shape = (len(places), MOST_COORDINATES)
    sketch = sparse.csr_array((signs, (np.arange(len(places)), places)), shape=shape)
    return np.asarray(vectors.astype(np.float64) @ sketch, dtype=np.float32)


def patterns_of(present: npt.NDArray[np.bool_]) -> IntArray:
    """Return which parts each item (n, 3) has, as one number: 1 text + 2 attributes + 4 vector."""
    return np.asarray(present @ np.array([1, 2, 4]), dtype=np.int64)


def combinations_of(parts: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the combinations that figures are given for: the first part, then one more each time."""
    return [tuple(parts[: n + 1]) for n in range(len(parts))]

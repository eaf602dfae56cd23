import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from encoder.text import cache as text_cache
from encoder.text.cache import BadVectorsError, TextCache, encode_with_cache
from encoder.text.encoder import (
    CPU,
    CUDA,
    CudaUnavailableError,
    NotATextModelError,
    TextEncoder,
    Vectors,
    item_text,
)
from encoder.text.source import DEFAULT_SOURCE, fetch, find_text_model
from store.artifact import DamagedArtifactError, build, read_manifest

ROOT = Path(__file__).parents[3]
TEXTS = (
    "A novel about the sea",
    "三体是一部科幻小说",
    "shoes",
    "",
    "北京的秋天很美,我们去爬长城。",
    "one two three four five six seven eight nine ten",
    "  \n",
    "x " * 400,
)
PUT_BATCHES = """
import sys, numpy as np
from encoder.text import cache as text_cache
text_cache._FIRST_MAP_BYTES = 1 << 18
cache = text_cache.TextCache.open(__import__("pathlib").Path(sys.argv[1]))
for batch in range(int(sys.argv[3])):
    texts = [f"{sys.argv[2]} {batch} {row}" for row in range(50)]
    cache.put("model", texts, np.full((50, 96), batch, dtype=np.float32))
    print(batch, flush=True)
"""


class CountingEncoder(TextEncoder):
    encoded = 0

    def encode_chunks(self, chunks: Iterable[Sequence[str]]) -> Iterator[Vectors]:
        for chunk in chunks:
            self.encoded += len(chunk)
            yield self.encode(chunk)


@pytest.fixture(scope="module")
def directory(text_models_dir: Path) -> Path:
    found = find_text_model(text_models_dir, DEFAULT_SOURCE)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def encoder(directory: Path) -> TextEncoder:
    return TextEncoder.load(directory)


@pytest.fixture
def counting(directory: Path) -> CountingEncoder:
    return CountingEncoder.load(directory, verify=False)


@pytest.fixture
def cache(tmp_path: Path) -> TextCache:
    return TextCache.open(tmp_path / "cache")


def writer(path: Path, name: str, batches: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PUT_BATCHES, str(path), name, str(batches)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_vectors_are_those_of_sentence_transformers(encoder: TextEncoder) -> None:
    from sentence_transformers import SentenceTransformer

    texts = [text for text in TEXTS if text.strip()]
    truth = SentenceTransformer(str(fetch(DEFAULT_SOURCE)), device="cpu").encode(texts)
    ours = encoder.encode(texts, pieces=1)  # as sentence-transformers, which cuts what is longer
    assert ours.dtype == np.float32
    assert np.abs(ours - truth).max() <= 1e-5
    assert encoder.dim == 384
    assert encoder.max_tokens == 256


def test_a_blank_text_gives_a_zero_row_and_the_others_unit_rows(encoder: TextEncoder) -> None:
    norms = np.linalg.norm(encoder.encode(TEXTS), axis=1)
    np.testing.assert_allclose(norms, [float(bool(text.strip())) for text in TEXTS], atol=1e-5)
    assert encoder.encode([]).shape == (0, 384)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.lists(st.sampled_from(range(len(TEXTS) - 1)), min_size=1, max_size=20))
def test_rows_keep_the_order_of_the_texts(encoder: TextEncoder, order: list[int]) -> None:
    alone = np.vstack([encoder.encode([text]) for text in TEXTS[:-1]])
    together = encoder.encode([TEXTS[row] for row in order])
    np.testing.assert_allclose(together, alone[order], atol=1e-5)


def test_text_beyond_max_tokens_is_cut_off_where_one_piece_is_asked_for(encoder: TextEncoder) -> None:
    texts = ["x " * 254, "x " * 254 + "and something else entirely"]
    once, twice = encoder.encode(texts, pieces=1)
    np.testing.assert_allclose(once, twice, atol=1e-5)
    once, twice = encoder.encode(texts)
    assert once @ twice < 0.9999


@given(order=st.lists(st.sampled_from(range(len(TEXTS) - 1)), max_size=12), cuts=st.lists(st.integers(0, 12)))
@settings(max_examples=10)
def test_chunks_give_what_each_gives_alone(encoder: TextEncoder, order: list[int], cuts: list[int]) -> None:
    chunks = [[TEXTS[row] for row in part.tolist()] for part in np.split(np.array(order, int), sorted(cuts))]
    together = list(encoder.encode_chunks(iter(chunks)))
    assert [len(vectors) for vectors in together] == [len(chunk) for chunk in chunks]
    for chunk, vectors in zip(chunks, together, strict=True):
        np.testing.assert_array_equal(vectors, encoder.encode(chunk))


def test_a_chunk_that_cannot_be_tokenised_is_an_error_of_the_caller(encoder: TextEncoder) -> None:
    with pytest.raises(AttributeError):
        list(encoder.encode_chunks([["a text"], [None]]))  # type: ignore[list-item]


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_damage_is_refused(directory: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / directory.name
    shutil.copytree(directory, copy)
    with (copy / name).open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)
        file.seek(1000)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(DamagedArtifactError, match=name):
        TextEncoder.load(copy)
    (copy / name).unlink()
    with pytest.raises(DamagedArtifactError, match=name):
        TextEncoder.load(copy, verify=False)


def test_a_renamed_model_is_refused(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "other").symlink_to(directory)
    with pytest.raises(NotATextModelError, match="manifest says"):
        TextEncoder.load(tmp_path / "other", verify=False)


def test_another_artifact_is_refused(tmp_path: Path) -> None:
    with build(tmp_path, "an-index") as draft:
        draft.facts["kind"] = "index"
    with pytest.raises(NotATextModelError, match="'index'"):
        TextEncoder.load(tmp_path / "an-index")


def test_a_graph_of_another_model_is_refused(directory: Path) -> None:
    facts = read_manifest(directory) | {"text_model_id": "other"}
    with pytest.raises(NotATextModelError, match="says it is"):
        TextEncoder(directory, facts)


@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="CUDA is offered here")
def test_cuda_is_refused_where_there_is_none(directory: Path) -> None:
    with pytest.raises(CudaUnavailableError, match="extra `gpu`"):
        TextEncoder.load(directory, device="cuda", verify=False)


@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="CUDA is offered here")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_cuda_build_without_a_gpu_falls_back_and_says_so(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    caplog.set_level("INFO")
    assert TextEncoder.load(directory, verify=False).provider == CPU
    assert caplog.messages == [
        "ONNX Runtime is built for CUDA but cannot use it here: texts are encoded on the CPU",
        f"text model {directory.name} runs on {CPU}",
    ]


@pytest.mark.gpu
@pytest.mark.skipif(CUDA not in onnxruntime.get_available_providers(), reason="no CUDA here")
def test_cuda_gives_the_vectors_of_the_cpu(directory: Path, encoder: TextEncoder) -> None:
    on_cuda = TextEncoder.load(directory, device="cuda")
    assert on_cuda.provider == CUDA
    on_cpu = TextEncoder.load(directory, device="cpu")
    np.testing.assert_allclose(on_cuda.encode(TEXTS), on_cpu.encode(TEXTS), atol=1e-4)


def test_the_runtime_loads_no_torch(directory: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from encoder.text.encoder import TextEncoder; "
        "import encoder.text.cache, encoder.text.export;"
        f"TextEncoder.load(Path({str(directory)!r})).encode(['a text']);"
        "print([name for name in ('torch', 'transformers', 'sentence_transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("title", "text", "joined"),
    [
        ("Dune", "A desert planet.", "Dune\nA desert planet."),
        ("Dune", "Dune is a desert planet.", "Dune is a desert planet."),
        (" Dune ", None, "Dune"),
        (None, "A desert planet.", "A desert planet."),
        ("三体", "三体是一部小说", "三体是一部小说"),
        (None, " ", ""),
    ],
)
def test_item_text_names_the_title_once(title: str | None, text: str | None, joined: str) -> None:
    assert item_text(title, text) == joined


def test_a_second_run_encodes_nothing(counting: CountingEncoder, cache: TextCache) -> None:
    texts = [*TEXTS, *TEXTS[:3]]
    first = encode_with_cache(counting, cache, texts, "items")
    assert counting.encoded == 6  # eight, two of them blank, and three repeated
    np.testing.assert_allclose(first, TextEncoder.encode(counting, texts), atol=1e-5)
    second = encode_with_cache(counting, cache, list(reversed(texts)), "items")
    assert counting.encoded == 6
    np.testing.assert_array_equal(second, first[::-1])
    assert encode_with_cache(counting, cache, ["", " "], "items").tolist() == [[0.0] * 384] * 2
    assert encode_with_cache(counting, cache, [], "items").shape == (0, 384)


class DyingEncoder(TextEncoder):
    def encode_chunks(self, chunks: Iterable[Sequence[str]]) -> Iterator[Vectors]:
        for chunk in chunks:
            if "l" in chunk:
                raise InterruptedError
            yield self.encode(chunk)


def test_an_interrupted_run_resumes(
    directory: Path, counting: CountingEncoder, cache: TextCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_cache, "CHUNK", 2)
    texts = ["l", "longer", "long", "longest of them"]
    with pytest.raises(InterruptedError):
        encode_with_cache(DyingEncoder.load(directory, verify=False), cache, texts, "items")
    encode_with_cache(counting, cache, texts, "items")
    assert counting.encoded == 2  # the first chunk, the two longest, was kept


def test_progress_is_logged_without_the_texts(
    counting: CountingEncoder, cache: TextCache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    encode_with_cache(counting, cache, ["a secret", "a secret", "another"], "items")
    assert f"items: encoding 2 of 3 texts with {counting.text_model_id}" in caplog.text
    assert "items: done in " in caplog.text
    assert "secret" not in caplog.text


def test_another_model_never_hits(cache: TextCache) -> None:
    vector = np.ones((1, 4), dtype=np.float32)
    cache.put("one", ["text"], vector)
    vectors, found = cache.get("two", ["text"], 4)
    assert not found.any()
    assert not vectors.any()
    vectors, found = cache.get("one", ["other", "text"], 4)
    assert found.tolist() == [False, True]
    np.testing.assert_array_equal(vectors, [[0, 0, 0, 0], [1, 1, 1, 1]])


def test_discarded_texts_are_gone(cache: TextCache) -> None:
    cache.put("one", ["a", "b"], np.ones((2, 4), dtype=np.float32))
    assert cache.discard("one", ["a", "never there"]) == 1
    assert cache.get("one", ["a", "b"], 4)[1].tolist() == [False, True]


@pytest.mark.parametrize(
    ("vectors", "reason"),
    [
        (np.ones((1, 4)), "float64"),
        (np.ones((2, 4), dtype=np.float32), r"\(2, 4\) for 1 texts"),
        (np.full((1, 4), np.nan, dtype=np.float32), "row 0 is not finite"),
        (np.ones((1, 5), dtype=np.float32), "dim 5, earlier 4"),
    ],
)
def test_bad_vectors_are_not_cached(cache: TextCache, vectors: Vectors, reason: str) -> None:
    cache.put("one", ["before"], np.ones((1, 4), dtype=np.float32))
    with pytest.raises(BadVectorsError, match=reason):
        cache.put("one", ["text"], vectors)
    assert not cache.get("one", ["text"], 4)[1].any()


def test_processes_and_threads_write_at_once(tmp_path: Path) -> None:
    processes = [writer(tmp_path / "cache", name, 40) for name in "ab"]
    cache = TextCache.open(tmp_path / "cache")

    def put(thread: int) -> None:
        for batch in range(20):
            texts = [f"{thread} {batch} {row}" for row in range(50)]
            cache.put("model", texts, np.full((50, 96), batch, dtype=np.float32))
            assert cache.get("model", texts, 96)[1].all()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, range(4)))
    assert [process.wait() for process in processes] == [0, 0]
    for name, batches in [("a", 40), ("b", 40), ("0", 20), ("1", 20), ("2", 20), ("3", 20)]:
        for batch in range(batches):
            vectors, found = cache.get("model", [f"{name} {batch} {row}" for row in range(50)], 96)
            assert found.all()
            assert (vectors == batch).all()


def test_a_killed_writer_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    process = writer(tmp_path / "cache", "a", 100_000)
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(30)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    acknowledged += [int(line) for line in process.stdout.read().split()]
    cache = TextCache.open(tmp_path / "cache")
    for batch in acknowledged:
        vectors, found = cache.get("model", [f"a {batch} {row}" for row in range(50)], 96)
        assert found.all()
        assert (vectors == batch).all()
    cache.put("model", ["after"], np.ones((1, 96), dtype=np.float32))
    assert cache.get("model", ["after"], 96)[1].all()

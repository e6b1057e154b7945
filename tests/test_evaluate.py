"""The command as a user meets it: what it prints and writes, and what it says of mistakes."""

import json
import shutil
from pathlib import Path

import ir_measures
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny import tiny_config

from jaxir import evaluate
from jaxir.benchmarks.report_comparison import compare_reports
from jaxir.benchmarks.report_folder import REPORT, VALUES
from jaxir.config import DualEncoderConfig, EncoderConfig
from jaxir.errors import RunError, UserError
from jaxir.evaluation.per_query import read_values
from jaxir.models.dual_encoder import init_params
from jaxir.models.hf import read_tokenizer, write_model
from jaxir.training import loop
from jaxir.training.retrieval import RETRIEVAL
from jaxir.training.run import run

MODEL = Path(__file__).parent / "fixtures" / "labse"
LANGUAGES = ("de", "en", "fr")
GROUPS = 50


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("JAXIR_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Fifty parallel questions and passages in three languages; letters that the model knows."""
    folder = tmp_path_factory.mktemp("files") / "letters"
    rng = np.random.default_rng(0)
    (folder / "qrels").mkdir(parents=True)
    words = ["".join(rng.choice(list("abcd"), 5)) for _ in range(80)]
    with (
        (folder / "corpus.jsonl").open("w") as corpus,
        (folder / "queries.jsonl").open("w") as asked,
    ):
        for number in range(GROUPS):
            for language in LANGUAGES:
                text = " ".join(rng.choice(words, 4))
                row = {"_id": f"p{number}-{language}", "text": text, "language": language}
                corpus.write(json.dumps(row) + "\n")
                row = {"_id": f"q{number}-{language}", "text": text[:11], "language": language}
                asked.write(json.dumps(row | {"question": str(number)}) + "\n")
    judged = [
        f"q{n}-{x}\tp{n}-{y}\t1\n" for n in range(GROUPS) for x in LANGUAGES for y in LANGUAGES
    ]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))
    return folder


def run_command(*arguments: object) -> int | None:
    return evaluate.main(["evaluate", *map(str, arguments)])


@pytest.fixture(scope="module")
def evaluated(collection, tmp_path_factory):
    """A report of the whole ranking and what was printed."""
    folder = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXIR_CACHE", str(folder / "cache"))
        arguments = ("--model", MODEL, "--benchmark", collection, "--resamples", 50)
        assert run_command(*arguments, "--output", folder / "whole") == 0
        cut = ("--depth", 100, "--run_depth", 20, "--runs", "cross_lingual,monolingual")
        assert run_command(*arguments, *cut, "--output", folder / "cut") == 0
    return folder


def read_report(folder: Path) -> dict:
    return json.loads((folder / REPORT).read_text())


def test_report_holds_what_is_needed_to_do_it_again(evaluated):
    report = read_report(evaluated / "whole")
    assert report["model"]["name"] == str(MODEL)
    assert len(report["model"]["sha256"]) == len(report["fingerprint"]) == 64
    assert report["model"]["query_prefix"] is not None
    assert {"jax", "transformers"} <= report["packages"].keys()
    assert {"encoding", "ranking and measuring", "BM25", "all"} <= report["seconds"].keys()
    figures = report["systems"][str(MODEL)]
    assert (figures["queries"], figures["passages"]) == (3 * GROUPS, 3 * GROUPS)
    for key, (low, high) in report["intervals"].items():
        setting, measure = key.split("/")
        value = figures[setting][measure]
        assert (value is None) == (low is None), key
        assert value is None or low <= high, key
    shares = np.array(report["language_shares"]["10"])
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    np.testing.assert_allclose(report["pool_shares"], 1 / 3)
    assert set(report["systems"]) == {str(MODEL), "BM25"}
    for picture in ("heat_map", "rank_distance", "language_shares_10"):
        assert (evaluated / "whole" / f"{picture}.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize("setting", ["monolingual", "multilingual"])
def test_trec_eval_finds_our_figures_in_the_run_files(evaluated, setting):
    folder = evaluated / "whole"
    qrels = list(ir_measures.read_trec_qrels(str(folder / f"qrels.{setting}.trec")))
    ranked = list(ir_measures.read_trec_run(str(folder / f"run.{setting}.trec")))
    measures = {"recall@100": ir_measures.R @ 100, "ndcg@10": ir_measures.nDCG @ 10}
    measures |= {"recall@10": ir_measures.R @ 10, "success@1": ir_measures.Success @ 1}
    if setting == "monolingual":  # whose rankings the files hold whole
        measures |= {"map": ir_measures.AP, "mrr": ir_measures.RR}
    theirs = ir_measures.pytrec_eval.calc_aggregate(list(measures.values()), qrels, ranked)
    # every language asks as much as the others, so the mean over languages is that over queries
    ours = read_report(folder)["systems"][str(MODEL)][setting]
    for name, measure in measures.items():
        assert ours[name] == pytest.approx(theirs[measure], abs=1e-12), name


def test_cross_lingual_runs_hold_the_other_languages_queries(evaluated):
    folder = evaluated / "cut"
    ours = np.array(read_report(folder)["systems"][str(MODEL)]["matrix"]["ndcg@10"])
    for column, language in enumerate(LANGUAGES):
        name = f"cross_lingual.{language}.trec"
        qrels = list(ir_measures.read_trec_qrels(str(folder / f"qrels.{name}")))
        ranked = list(ir_measures.read_trec_run(str(folder / f"run.{name}")))
        assert {one.doc_id[-2:] for one in ranked} == {language}
        assert language not in {one.query_id[-2:] for one in ranked}
        theirs = ir_measures.pytrec_eval.calc_aggregate([ir_measures.nDCG @ 10], qrels, ranked)
        others = np.delete(ours[:, column], column)
        assert others.mean() == pytest.approx(theirs[ir_measures.nDCG @ 10], abs=1e-12)


def test_the_first_places_alone_give_the_same_figures_where_they_suffice(evaluated):
    whole, cut = (read_report(evaluated / name)["systems"] for name in ("whole", "cut"))
    for system in (str(MODEL), "BM25"):
        for setting in ("monolingual", "cross_lingual", "multilingual"):
            for measure in ("ndcg@10", "recall@10", "success@1", "map@20"):
                ours, theirs = cut[system][setting][measure], whole[system][setting][measure]
                assert ours == pytest.approx(theirs, abs=1e-12), (system, setting, measure)
        # what needs every rank is not told from some
        assert "rank_distance" not in cut[system]["multilingual"]
        assert cut[system]["multilingual"]["map"] < whole[system]["multilingual"]["map"]


def test_values_are_read_back_and_a_report_equals_itself(evaluated, capsys):
    values = read_values(evaluated / "whole" / VALUES)
    assert values.languages == LANGUAGES
    assert values.by_language["map"].shape == (3 * GROUPS, 3)
    found = compare_reports(evaluated / "whole", evaluated / "whole")
    assert {one.p_value for one in found.values()} == {1.0}
    assert "multilingual/rank_distance" in found
    assert "paired randomisation test" in capsys.readouterr().out


def test_prefixes_lengths_and_dtype_can_be_given(evaluated, collection, tmp_path, capsys):
    arguments = ("--model", MODEL, "--benchmark", collection, "--nobm25", "--resamples", 10)
    changed = ("--query_prefix", "abcd ", "--max_query_tokens", 5, "--index_dtype", "int8")
    run_command(*arguments, *changed, "--output", tmp_path / "out")
    report = read_report(tmp_path / "out")
    assert (report["model"]["query_prefix"], report["model"]["max_query_tokens"]) == ("abcd ", 5)
    assert "passages in int8" in capsys.readouterr().out
    compared = ("--compare", evaluated / "whole", tmp_path / "out", "--output", tmp_path / "both")
    assert run_command(*compared) == 0
    assert "multilingual" in capsys.readouterr().out
    found = json.loads((tmp_path / "both/comparison.json").read_text())
    whole = read_report(evaluated / "whole")["systems"][str(MODEL)]
    assert found["comparison"]["multilingual/map"]["first"] == pytest.approx(
        whole["multilingual"]["map"], abs=1e-12
    )
    assert (tmp_path / "both/heat_map.png").stat().st_size > 5_000
    assert run_command(*compared) == 0  # an earlier comparison may be replaced
    # neither a report nor a sweep's is an earlier comparison, nor is one an earlier report
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/report.json").write_text('{"points": []}')
    for taken in (evaluated / "whole", tmp_path / "sweep"):
        with pytest.raises(UserError, match="exists and is no"):
            run_command(*compared[:-1], taken)
    for taken in (tmp_path / "both", tmp_path / "sweep"):
        with pytest.raises(UserError, match="exists and is no"):
            run_command(*arguments, "--output", taken)


def test_approximate_search_is_said_aloud(collection, tmp_path, capsys):
    arguments = ("--model", MODEL, "--benchmark", collection, "--nobm25", "--resamples", 10)
    near = ("--depth", 100, "--approximate_recall", 0.95)
    run_command(*arguments, *near, "--output", tmp_path / "out")
    assert "approximate search, recall 0.95" in capsys.readouterr().out
    assert read_report(tmp_path / "out")["ranking"]["approximate_recall"] == 0.95


@pytest.mark.slow
def test_a_workdir_under_way_and_a_finished_one(tmp_path, collection, monkeypatch):
    config = tiny_config(tmp_path)
    add = loop.Meter.add

    def stop_soon(meter, step, *arguments):
        add(meter, step, *arguments)
        if step == 14:
            raise RunError("stopped for the test")

    monkeypatch.setattr(loop.Meter, "add", stop_soon)
    with pytest.raises(RunError, match="stopped for the test"):
        run(config, RETRIEVAL, tmp_path / "run")
    monkeypatch.undo()
    monkeypatch.setenv("JAXIR_CACHE", str(tmp_path / "cache"))
    arguments = ("--benchmark", collection, "--nobm25", "--resamples", 10)
    run_command("--model", tmp_path / "run", *arguments, "--output", tmp_path / "one")
    run(config, RETRIEVAL, tmp_path / "run")
    run_command("--model", tmp_path / "run", *arguments, "--output", tmp_path / "two")
    one, two = (read_report(tmp_path / name)["model"] for name in ("one", "two"))
    assert one["sha256"] != two["sha256"]
    assert one["query_prefix"] == two["query_prefix"] == "Query: "
    assert (one["max_query_tokens"], one["max_passage_tokens"]) == (24, 32)
    assert (two["max_query_tokens"], two["max_passage_tokens"]) == (24, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--benchmark", "x"), "--model is missing"),
        (("--model", MODEL, "--benchmark", "nowhere"), "--benchmark nowhere: one of xquad_r, mlqa"),
        (("--model", "./nowhere", "--benchmark", "cldr"), "nowhere: not a folder"),
        (("--model", MODEL, "--benchmark", "mlqa_r"), "--directory is missing"),
        (("--model", MODEL, "--benchmark", "miracl", "--languages", "xx"), "no language 'xx'"),
        (("--model", MODEL, "--benchmark", "cldr", "--index_dtype", "int4"), "--index_dtype int4"),
        (("--model", MODEL, "--benchmark", "cldr", "--runs", "x"), "--runs x: must be one of"),
        (("--model", MODEL, "--benchmark", "cldr", "--runs", "cross_lingual"), "needs --depth"),
        (
            ("--model", MODEL, "--benchmark", "cldr", "--approximate_recall", 0.9),
            "set --depth too",
        ),
        (("--model", MODEL, "--benchmark", "cldr", "--depth", 5), "must be 0 or at least 100"),
        (
            ("--model", MODEL, "--benchmark", "cldr", "--depth", 100, "--run_depth", 200),
            "--run_depth 200: must be at most",
        ),
        (
            ("--model", MODEL, "--benchmark", "xquad_r", "--languages", "en"),
            "--languages: xquad_r does not take it, only --directory, --passage, --allow_partial",
        ),
        (
            ("--model", MODEL, "--benchmark", "cldr", "--max_query_tokens", 1000),
            "max_query_tokens 1000: must be from 3",
        ),
        (("--model", MODEL, "--benchmark", "cldr", "--splitt", "x"), "did you mean --split"),
        (("--compare", "a"), "name two folders"),
        (("--compare", "a", "b"), "a: holds no report.json"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        run_command(*arguments, *(("--output", tmp_path / "out") if "--model" in arguments else ()))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out" / REPORT).exists()


def test_models_without_weights_or_tokenizer_are_named(tmp_path, collection):
    arguments = ("--benchmark", collection, "--output", tmp_path / "out")
    for missing, message in (("model.safetensors", "weights"), ("tokenizer", "no tokenizer")):
        folder = shutil.copytree(MODEL, tmp_path / missing)
        for file in folder.glob(f"{missing}*"):
            file.unlink()
        with pytest.raises(UserError, match=message):
            run_command("--model", folder, *arguments)


def test_an_output_that_holds_something_else_is_left_alone(tmp_path, collection):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="exists and is no"):
        run_command("--model", MODEL, "--benchmark", collection, "--output", tmp_path / "out")
    assert (tmp_path / "out" / "thesis.tex").exists()


def test_a_folder_of_pictures_is_no_report_and_a_report_is_replaced(tmp_path, collection):
    out = tmp_path / "out"
    out.mkdir()
    for name, content in (("holiday.png", "x"), (REPORT, "[1]"), (VALUES, "x")):
        (out / name).write_text(content)
    arguments = ("--model", MODEL, "--benchmark", collection, "--nobm25", "--resamples", 10)
    with pytest.raises(UserError, match="exists and is no"):
        run_command(*arguments, "--output", out)
    assert (out / "holiday.png").exists()
    other = tmp_path / "report"
    for runs in ("multilingual", ""):
        run_command(*arguments, "--output", other, f"--runs={runs}")
        assert (other / "run.multilingual.trec").exists() == bool(runs)
    assert not list(tmp_path.glob(".*"))


def test_damaged_reports_are_named(evaluated, tmp_path):
    broken = shutil.copytree(evaluated / "whole", tmp_path / "broken")
    (broken / VALUES).write_bytes((broken / VALUES).read_bytes()[:2_000])
    with pytest.raises(UserError, match=r"values\.npz: cannot be read"):
        run_command("--compare", evaluated / "whole", broken)
    (broken / REPORT).write_text('{"fingerprint": "x", "systems": {}, "ranking": {}}')
    with pytest.raises(UserError, match="it holds no systems"):
        run_command("--compare", evaluated / "whole", broken)
    with pytest.raises(UserError, match="was ranked with --depth 0"):
        run_command("--compare", evaluated / "whole", evaluated / "cut")


def test_ids_with_white_space_are_refused_before_any_work_or_stay_out_of_files(
    collection, tmp_path
):
    other = shutil.copytree(collection, tmp_path / "letters")
    with (other / "corpus.jsonl").open("a") as corpus:
        corpus.write(json.dumps({"_id": "my doc", "text": "abc", "language": "de"}) + "\n")
    arguments = ("--model", MODEL, "--benchmark", other, "--nobm25", "--resamples", 10)
    with pytest.raises(UserError, match="the id 'my doc' is empty or holds white space"):
        run_command(*arguments, "--output", tmp_path / "out")
    run_command(*arguments, "--output", tmp_path / "out", "--runs=")
    assert read_report(tmp_path / "out")["systems"][str(MODEL)]["passages"] == 3 * GROUPS + 1


def test_languages_of_miracl_are_joined_and_called_a_part(tmp_path):
    for language in ("sw", "yo"):
        topics = tmp_path / f"miracl-v1.0-{language}"
        corpus = tmp_path / f"miracl-corpus-v1.0-{language}"
        files = {
            topics / "topics" / f"topics.miracl-v1.0-{language}-dev.tsv": "1\tabc\n2\tdab\n",
            topics / "qrels" / f"qrels.miracl-v1.0-{language}-dev.tsv": "1 Q0 7#0 1\n2 Q0 7#1 1\n",
            corpus / "docs-0.jsonl": "".join(
                json.dumps({"docid": f"7#{n}", "title": "abc", "text": "dab" * n}) + "\n"
                for n in range(3)
            ),
        }
        for file, content in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
    arguments = ("--model", MODEL, "--benchmark", "miracl", "--directory", tmp_path)
    chosen = ("--languages", "sw,yo", "--allow_partial", "--resamples", 10)
    run_command(*arguments, *chosen, "--output", tmp_path / "out")
    report = read_report(tmp_path / "out")
    figures = report["systems"][str(MODEL)]
    assert figures["name"] == "MIRACL sw (partial), MIRACL yo (partial)"
    assert (figures["queries"], figures["passages"]) == (4, 6)
    assert figures["languages"] == ["sw", "yo"]
    diagonal = [figures["matrix"]["ndcg@10"][n][n] for n in (0, 1)]
    assert figures["monolingual"]["ndcg@10"] == pytest.approx(np.mean(diagonal))
    assert (figures["multilingual"], report["language_shares"], report["pool_shares"]) == (
        {},
        {},
        [],
    )
    assert (tmp_path / "out" / "run.monolingual.yo.trec").exists()


def test_reports_of_different_tasks_are_not_compared(evaluated, collection, tmp_path):
    other = shutil.copytree(collection, tmp_path / "letters")
    lines = (other / "qrels" / "test.tsv").read_text().splitlines()[:-1]
    (other / "qrels" / "test.tsv").write_text("\n".join(lines))
    arguments = ("--model", MODEL, "--benchmark", other, "--nobm25", "--resamples", 10)
    run_command(*arguments, "--output", tmp_path / "out")
    with pytest.raises(UserError, match="they cannot be compared"):
        run_command("--compare", evaluated / "whole", tmp_path / "out")


@pytest.mark.parametrize("name", ["e5", "labse", "bge", "plain"])
def test_folders_of_the_published_kinds_load_and_run(name, collection, tmp_path):
    """As the hub has them: E5 (mean), LaBSE (Dense and tanh), BGE-M3 ([CLS]), a bare XLM-R."""
    folder = {"labse": MODEL, "plain": MODEL.parent / "xlm_roberta"}.get(name)
    tokenizer = read_tokenizer(MODEL)
    if name in ("e5", "bge"):
        folder = tmp_path / name
        encoder = EncoderConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            layers=1,
            heads=2,
            intermediate_size=32,
            positions=40,
            pad_id=tokenizer.pad_token_id,
        )
        config = DualEncoderConfig(encoder, pooling="cls" if name == "bge" else "mean")
        params = init_params(config, jax.random.key(0))
        prefixes = {"query_prefix": "", "passage_prefix": ""}
        write_model(folder, config, params, tokenizer, **prefixes, max_tokens=24)
    if name == "plain":
        folder = shutil.copytree(folder, tmp_path / name)
        tokenizer.save_pretrained(folder)
        described = json.loads((folder / "config.json").read_text())
        described["pad_token_id"] = tokenizer.pad_token_id  # the fixture's had none
        (folder / "config.json").write_text(json.dumps(described))
    arguments = ("--model", folder, "--benchmark", collection, "--nobm25", "--resamples", 10)
    prefixes = ("--query_prefix", "query: ", "--passage_prefix", "passage: ")
    run_command(*arguments, *prefixes, "--output", tmp_path / "out")
    figures = read_report(tmp_path / "out")["systems"][str(folder)]
    assert 0 < figures["multilingual"]["map"] <= 1


def test_embeddings_that_are_not_finite_name_their_text(collection, tmp_path):
    folder = shutil.copytree(MODEL, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights = {name: value * np.float32(np.nan) for name, value in weights.items()}
    save_file(weights, folder / "model.safetensors")
    arguments = ("--model", folder, "--benchmark", collection, "--output", tmp_path / "out")
    with pytest.raises(UserError, match="the embedding of query 'q0-de' is not finite"):
        run_command(*arguments)
    assert not (tmp_path / "out" / REPORT).exists()

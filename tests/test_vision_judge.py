"""The judge of captions found, and the picture of images found, against the definitions."""

import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from matplotlib.colors import same_color
from test_vision_retrieval import order_of

from jaxir.config import (
    AlbefConfig,
    AlbefEvaluationConfig,
    AlbefLossConfig,
    AlbefModelConfig,
    CaptionsConfig,
    DrawnConfig,
    EncoderConfig,
    ImageSource,
    VitConfig,
)
from jaxir.errors import UserError
from jaxir.training.workdir import values_file
from jaxir.vision.clipscore.judge import (
    NO_CAPTION,
    Judge,
    calibration,
    caption_score_sums,
    top_captions,
)
from jaxir.vision.data.collection import CaptionSet, read_captions
from jaxir.vision.evaluation.comparison import CLIPSCORE, read_run_metrics
from jaxir.vision.evaluation.dataset import ImageTextEmbeddings, image_text_dataset
from jaxir.vision.evaluation.encoders import make_encoders
from jaxir.vision.evaluation.pool import Pool
from jaxir.vision.evaluation.retrieved_images import (
    CAPTIONS,
    IMAGES,
    RELEVANT,
    choose_captions,
    draw_retrieved_images,
    font_families,
    script_of,
)
from jaxir.vision.models import albef
from jaxir.vision.training.albef import ALBEF
from jaxir.vision.training.inputs import AlbefInputs, read_inputs

WHITE = (255, 255, 255)
CONFIG = AlbefConfig(
    model=AlbefModelConfig(
        vit=VitConfig(
            image_size=16, patch_size=8, hidden_size=8, layers=1, heads=2, intermediate_size=8
        ),
        text=EncoderConfig(
            vocab_size=50, hidden_size=8, layers=2, heads=2, intermediate_size=8, positions=12
        ),
        text_layers=1,
        projection=4,
        compute_dtype="float32",
        mask_id=4,
    ),
    captions=CaptionsConfig(
        sources=(ImageSource("drawn", name="drawn", drawn=DrawnConfig(drawings=2)),),
        image_size=16,
        max_caption_tokens=8,
        limit=24,
    ),
    loss=AlbefLossConfig(itm=False),
)


class Tokens:
    """Texts as their lengths."""

    def __init__(self, texts):
        self.texts = texts

    def lengths_with_special_tokens(self, texts):
        return np.full(len(texts), 3)

    def padded(self, texts, limit):
        ids = np.array([[0, 5 + text % 40, 2] for text in texts], np.int32)
        return ids, np.full(len(ids), 3, np.int32)


class Scorer:
    """Vectors that are a function of what is given, and how often each was asked for."""

    prefix = "This is "
    background = WHITE

    def __init__(self):
        self.calls = []

    def image_features(self, images):
        self.calls.append(len(images))
        return unit(np.stack([np.asarray(x, np.float64).mean(axis=(0, 1)) - 128 for x in images]))

    def text_features(self, texts):
        self.calls.append(len(texts))
        assert all(text.startswith(self.prefix) for text in texts)
        bare = [text.removeprefix(self.prefix) for text in texts]
        return unit(np.stack([[len(text) - 15, ord(text[0]) % 7, 3] for text in bare]))


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def task():
    captions = read_captions(CONFIG.captions)
    return image_text_dataset(captions, Tokens(captions.collection.texts))


@pytest.fixture
def pool() -> Pool:
    """Without a caption in the third language; group 11 has no image and 12 no caption."""
    rng = np.random.default_rng(0)
    return Pool(
        ("ar", "en", "th"),
        image_group=np.concatenate([rng.integers(0, 6, 19), [12]]),
        caption_group=np.concatenate([rng.integers(0, 6, 29), [11]]),
        caption_language=rng.integers(0, 2, 30),
    )


def test_each_image_gets_the_first_caption_of_each_language(mesh, pool):
    rng = np.random.default_rng(1)
    images, captions = (rng.integers(-2, 3, (n, 3)).astype(np.float32) for n in (20, 30))
    with jax.set_mesh(mesh):
        first = top_captions(images, captions, pool)
    for language in range(2):
        among = np.flatnonzero(pool.caption_language == language)
        expected = [order_of(row, among)[0] for row in images @ captions.T]
        np.testing.assert_array_equal(first[language], expected)
    assert (first[2] == NO_CAPTION).all()


def test_scores_and_calibration_equal_the_definitions(pool):
    rng = np.random.default_rng(2)
    images, captions = unit(rng.normal(size=(20, 4))), unit(rng.normal(size=(30, 4)))
    chosen = np.stack([rng.integers(0, 30, 20), rng.integers(0, 30, 20), np.full(20, NO_CAPTION)])
    totals = caption_score_sums(chosen, images, captions, pool)
    score = 2.5 * np.maximum(images.astype(np.float64) @ captions.T, 0)
    for unit_number, group in enumerate(np.unique(pool.image_group)):
        rows = np.flatnonzero(pool.image_group == group)
        for language in range(2):
            expected = sum(score[row, chosen[language, row]] for row in rows)
            assert totals.sums[unit_number, language] == pytest.approx(expected)
            assert totals.counts[unit_number, language] == len(rows)
    assert not totals.counts[:, 2].any()
    found = calibration(images, captions, pool)
    for language, name in enumerate(("ar", "en")):
        own = pool.caption_language == language
        right = pool.image_group[:, None] == pool.caption_group[own]
        assert found[name]["matched"] == pytest.approx(score[:, own][right].mean())
        assert found[name]["mismatched"] == pytest.approx(score[:, own][~right].mean())
    assert np.isnan(list(found["th"].values())).all()


def test_a_judge_sees_a_task_once_and_prefers_itself(task):
    scorer = Scorer()
    judge = Judge(scorer)
    texts = ["This is " + task.captions.collection.texts[number] for number in task.texts]
    pictures = [task.captions.open(number, WHITE) for number in task.images]
    states = np.zeros((len(pictures), 1, 1), np.float32)
    same = ImageTextEmbeddings(scorer.image_features(pictures), states, scorer.text_features(texts))
    rng = np.random.default_rng(0)
    chance = replace(same, images=unit(rng.normal(size=same.images.shape)))
    scorer.calls.clear()
    best, other = (judge.score("task", task, one) for one in (same, chance))
    assert scorer.calls == [len(pictures), len(texts)]
    for language, means in best.calibration.items():
        number = best.languages.index(language)
        assert best.scores.means()[number] >= max(means["matched"], other.scores.means()[number])
    assert best.scores.mean() > other.scores.mean()


def test_a_judge_sees_transparent_images_on_its_own_background(task, monkeypatch):
    """Not on that of the run which it judges."""
    scorer, seen = Scorer(), set()
    scorer.background = (1, 2, 3)
    opened = CaptionSet.open

    def spy(captions, number, background):
        seen.add(background)
        return opened(captions, number, background)

    monkeypatch.setattr(CaptionSet, "open", spy)
    images, captions = (np.ones((len(x), 1), np.float32) for x in (task.images, task.texts))
    Judge(scorer).score("task", task, ImageTextEmbeddings(images, images[:, None], captions))
    assert seen == {(1, 2, 3)}


def test_a_judge_that_is_not_there_is_told_before_anything_is_read(tmp_path):
    evaluation = AlbefEvaluationConfig(judge=str(tmp_path / "judge"))
    config = replace(CONFIG, evaluation=evaluation, captions=CaptionsConfig(directory="nowhere"))
    with pytest.raises(UserError, match=r"config.evaluation.judge = .*judge'") as error:
        read_inputs(config, tmp_path)
    assert "\n" not in str(error.value)


def test_results_have_the_judgement_and_the_picture(task, tmp_path):
    """In the report, in the file that points of a sweep are compared by, and beside it."""
    inputs = AlbefInputs(
        CONFIG.model, None, None, task.tokens, {}, {"task": task}, {}, Judge(Scorer())
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
        albef.abstract_params(CONFIG.model),
    )
    compiled = SimpleNamespace(encoders=make_encoders(CONFIG.model))
    setup = SimpleNamespace(config=CONFIG, compiled=compiled, inputs=inputs, workdir=tmp_path)
    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        reports = ALBEF.evaluate(setup, params)
    report = json.loads(json.dumps(reports, allow_nan=False))["task"]["trained"][CLIPSCORE]
    assert report["by_language"].keys() == report["calibration"].keys() == {*task.pool.languages}
    measured = read_run_metrics(tmp_path / values_file("task"))
    totals = {measure.key: totals for measure, totals in measured.sums}
    assert float(totals[CLIPSCORE].mean()) == pytest.approx(report["mean"])
    assert (tmp_path / "retrieved_task.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_frames_what_is_right(task):
    pool = task.pool
    groups = np.unique(pool.image_group)
    images = np.eye(len(groups), dtype=np.float32)[np.searchsorted(groups, pool.image_group)]
    captions = np.eye(len(groups), dtype=np.float32)[np.searchsorted(groups, pool.caption_group)]
    encoded = ImageTextEmbeddings(images, images[:, None], captions)
    chosen = choose_captions(task)
    assert len(set(pool.caption_language[chosen].tolist())) == len(chosen) == CAPTIONS
    assert len(set(pool.caption_group[chosen].tolist())) == CAPTIONS
    axes = np.reshape(draw_retrieved_images(task, encoded, WHITE).axes, (CAPTIONS, 1 + IMAGES))
    for row, caption in zip(axes, chosen):
        right = [same_color(cell.spines["top"].get_edgecolor(), RELEVANT) for cell in row[1:]]
        copies = int((pool.image_group == pool.caption_group[caption]).sum())
        assert right == [place < copies for place in range(IMAGES)]
        assert pool.languages[pool.caption_language[caption]] in row[0].texts[0].get_text()


def test_scripts_and_fonts():
    texts = ("Hund", "pes 2", "собака", "σκύλος", "कुत्ता", "狗", "12")
    scripts = ["LATIN", "LATIN", "CYRILLIC", "GREEK", "DEVANAGARI", "CJK", ""]
    assert [script_of(text) for text in texts] == scripts
    assert "DejaVu Sans" in font_families("Hund: σκύλος")
    assert font_families("\U0001fae8 \U00016a4f") == []  # a face, and a letter of Mro

"""Images and captions: what readers accept and refuse, and the batches that come of them."""

import dataclasses
import io
import json
import tarfile
from collections import Counter, defaultdict

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxir.config import (
    AugmentConfig,
    CaptionsConfig,
    HybridConfig,
    ImageSource,
    Shares,
    validate_captions,
)
from jaxir.data.batch import count_tokens
from jaxir.data.checks import InputChecks
from jaxir.data.collection import cell_groups
from jaxir.data.hybrid import Hybrid
from jaxir.data.pipeline import batches
from jaxir.data.tokenizer import train_tokenizer
from jaxir.data.tokens import tokenize
from jaxir.errors import UserError
from jaxir.vision.data import readers
from jaxir.vision.data.collection import read_captions, split_captions
from jaxir.vision.data.images import MAX_BYTES, DecodedImages
from jaxir.vision.data.pipeline import FIELDS, CaptionLoader, evaluation_pixels
from jaxir.vision.data.readers import READERS

LANGUAGES = ("de", "en", "fr")
SIDE = 16
BATCH = 8


def png(colour=(255, 0, 0), size=(20, 12), mode="RGB", form="PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).convert(mode).save(stream, form)
    return stream.getvalue()


def noise(form="PNG", size=(40, 30)) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def folder(path, lines, images=("a.png",)):
    (path / "images").mkdir(exist_ok=True)
    for name in images:
        (path / "images" / name).parent.mkdir(exist_ok=True)
        (path / "images" / name).write_bytes(png())
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    (path / "captions.jsonl").write_text(text)
    return ImageSource(images="images", captions="captions.jsonl")


def tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            if not isinstance(data, bytes):
                data = json.dumps(data).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def read(path, *sources, **options):
    return read_captions(CaptionsConfig(directory=str(path), sources=sources, **options))


def error(path, *sources, **options) -> str:
    with pytest.raises(UserError) as raised:
        read(path, *sources, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def table(captions):
    """(image name, depicted, {language: caption}) of each group."""
    collection = captions.collection
    return [
        (
            captions.names[captions.image[group]].split(":")[1],
            captions.cluster_names[collection.cluster[group]].split(":")[-1],
            {
                language: collection.texts[text]
                for language, text in zip(collection.languages, row)
                if text >= 0
            },
        )
        for group, row in enumerate(collection.query)
    ]


def test_every_form_of_captions(tmp_path):
    lines = [
        {"image": "a.png", "captions": {"de": "ein Hund", "en": ["a dog", "dog", "a dog"]}},
        {"image": "sub/b.png", "caption": " a cat ", "language": "en", "group": "cat"},
        "\n",
        {"image": "./sub/b.png", "caption": "eine Katze", "language": "de", "group": "cat"},
        {"image": "sub/b.png", "caption": ["cat"], "language": "en", "group": "cat"},
        {"image": "c.png", "captions": {"fr": "un chat", "xx-bad": []}, "group": "cat"},
    ]
    source = folder(tmp_path, lines, ("a.png", "sub/b.png", "c.png"))
    captions = read(tmp_path, source)
    assert table(captions) == [
        ("a.png", "a.png", {"de": "ein Hund", "en": "a dog"}),
        ("a.png", "a.png", {"en": "dog"}),
        ("sub/b.png", "cat", {"de": "eine Katze", "en": "a cat"}),
        ("sub/b.png", "cat", {"en": "cat"}),
        ("c.png", "cat", {"fr": "un chat"}),
    ]
    assert captions.collection.languages == LANGUAGES
    assert captions.collection.report == {
        "images": 3,
        "images_of_source": {"images": 3},
        "depicted": 2,
        "groups": 5,
        "texts": 7,
        "captions": {"de": 2, "en": 4, "fr": 1},
        "left_out": {},
    }
    first = read(tmp_path, source, captions_per_language=1, limit=2)
    assert [row[0] for row in table(first)] == ["a.png", "sub/b.png"]
    source.languages = ("en",)
    english = read(tmp_path, source)
    assert english.collection.languages == ("en",)
    assert english.collection.report["left_out"] == {"no_caption_kept": 1}


def test_captions_in_the_language_of_the_source(tmp_path):
    source = folder(tmp_path, [{"image": "a.png", "caption": ["a dog", "dog"]}])
    assert "captions.jsonl:1: no language" in error(tmp_path, source)
    source.languages = ("en",)
    assert [row[2] for row in table(read(tmp_path, source))] == [{"en": "a dog"}, {"en": "dog"}]


def test_webdataset(tmp_path):
    (tmp_path / "shards").mkdir()
    samples = {
        "x/000.a.jpg": png(form="JPEG"),  # a key ends at the first dot: this is no sample's image
        "x/001.JPG": png((0, 255, 0), form="JPEG"),
        "x/001.json": {"captions": {"de": "grün", "en": "green"}, "group": "g"},
        "x/002.txt": b"blau",
        "x/002.png": png((0, 0, 255)),
        "x/002.json": {"width": 20},
    }
    del samples["x/000.a.jpg"]
    tar(tmp_path / "shards" / "0.tar", samples)
    tar(
        tmp_path / "shards" / "1.tar",
        {"y.webp": png(form="WEBP"), "y.json": {"caption": "red", "language": "en"}},
    )
    source = ImageSource("webdataset", "shards", language_codes={"ger": "de"})
    assert "0.tar: x/002: no language" in error(tmp_path, source)
    source.languages = ("de",)
    captions = read(tmp_path, source)
    assert table(captions) == [("x/001", "g", {"de": "grün"}), ("x/002", "x/002", {"de": "blau"})]
    pixels = evaluation_pixels(captions, [0, 1], CaptionsConfig(image_size=4))
    assert np.abs(pixels[0].astype(int) - (0, 255, 0)).max() < 8
    assert (pixels[1] == (0, 0, 255)).all()
    source = ImageSource("webdataset", "shards/*.tar", languages=("en",))
    assert len(table(read(tmp_path, source))) == 3


def test_damaged_tars_are_named(tmp_path):
    whole = tmp_path / "a.tar"
    samples = {f"{key}.{kind}": value for key in "abc" for kind, value in [
        ("png", png()), ("json", {"caption": f"caption {key}", "language": "en"})
    ]}  # fmt: skip
    tar(whole, samples)
    source = ImageSource("webdataset", "a.tar")
    data = whole.read_bytes()
    whole.write_bytes(data[:1700])
    assert "a.tar: not a whole, uncompressed tar" in error(tmp_path, source)
    damaged = bytearray(data)
    damaged[2048:2060] = b"x" * 12  # the header of the third member
    whole.write_bytes(damaged)
    assert "a.tar: damaged at byte 2,048" in error(tmp_path, source)
    whole.write_bytes(b"no tar" * 300)
    assert "a.tar: not a whole" in error(tmp_path, source)


def test_tfds(tmp_path):
    datasets = pytest.importorskip("tensorflow_datasets")

    class TinyCaptions(datasets.core.GeneratorBasedBuilder):
        VERSION = datasets.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": datasets.features.Image(encoding_format="png"),
                "captions": datasets.features.Sequence({"text": datasets.features.Text()}),
            }
            return self.dataset_info_from_configs(features=datasets.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {"val": self._generate_examples()}

        def _generate_examples(self):
            for number in range(2):
                image = io.BytesIO(png((0, 100 * number, 0)))
                yield number, {"image": image, "captions": [{"text": "ein"}, {"text": "zwei"}]}

    TinyCaptions.pkg_dir_path = tmp_path  # metadata is looked for beside the module
    TinyCaptions(data_dir=tmp_path).download_and_prepare()
    source = ImageSource("tfds", "tiny_captions", languages=("de",), split="val")
    captions = read(tmp_path, source)
    assert [row[2] for row in table(captions)] == [{"de": "ein"}, {"de": "zwei"}] * 2
    assert captions.collection.source_names == ("tiny_captions#val",)
    greens = {
        int(pixel) for pixel in evaluation_pixels(captions, [0, 1], CaptionsConfig())[:, 0, 0, 1]
    }
    assert greens == {0, 100}
    source.split = "train"
    assert "TFDS tiny_captions, split train" in error(tmp_path, source)


def test_bad_captions_of_tfds_are_named_counted_and_skipped_when_asked(tmp_path, monkeypatch):
    examples = [{"image": png(), "caption": text} for text in (b"a", b"\xff", b"b")]
    monkeypatch.setattr(readers, "tfds_examples", lambda *_, **__: iter(examples))
    source = ImageSource("tfds", "made_up", languages=("de",), split="val")
    assert "split val: example 2: a caption is not UTF-8" in error(tmp_path, source)
    kept = read(tmp_path, source, skip_bad=True)
    assert [row[2] for row in table(kept)] == [{"de": "a"}, {"de": "b"}]
    assert kept.collection.report["left_out"] == {"unreadable_captions": 1}


GOOD = {"image": "good.png", "captions": {"en": "good"}}
A = {"image": "a.png", "captions": {"en": "a"}}


@pytest.mark.parametrize(
    ("lines", "message", "reason"),
    [
        (["{broken\n"], "captions.jsonl:2: invalid JSON", ""),
        ([A, A], "captions.jsonl:3: image 'a.png' has its captions at", "duplicate_image"),
        ([A, {**A, "image": "b.png"}], "captions.jsonl:3: there is no image", "captions_without_"),
        ([], "a.png: no captions in", "image_without_captions"),
        ([{**A, "captions": {}}], "captions.jsonl:2: image a.png: no captions;", "image_without_"),
        ([{**A, "captions": {"en": []}}], ":2: image a.png: no captions;", "image_without_"),
        (
            [{**A, "captions": {"english": "a"}}],
            ":2: image a.png: unknown language 'english'",
            "unknown_lang",
        ),
        (
            [{**A, "captions": {"en": " "}}],
            "captions.jsonl:2: image a.png: empty caption in en",
            "empty_",
        ),
        (
            [{**A, "captions": {"en": "\ud800"}}],
            ":2: image a.png: caption holds half",
            "unreadable_",
        ),
        ([{**A, "captions": {"en": 3}}], ":2: a caption is a int", "unreadable_captions"),
        ([{**A, "captions": ["a"]}], ":2: `captions` must be an object", "unreadable_captions"),
        ([{**A, "group": []}], ":2: group is a list", "unreadable_captions"),
        ([{"image": "a.png"}], ":2: neither `captions` nor `caption`", "unreadable_captions"),
        ([{"captions": {}}], ":2: `image` must be the name", "unreadable_captions"),
        ([{**A, "image": "../a.png"}], ":2: image '../a.png' lies outside", "unreadable_captions"),
        ([{**A, "image": "/a.png"}], ":2: image '/a.png' lies outside", "unreadable_captions"),
    ],
)
def test_bad_captions_are_named_counted_and_skipped_when_asked(tmp_path, lines, message, reason):
    source = folder(tmp_path, [GOOD, *lines], ("good.png", "a.png"))
    assert message in error(tmp_path, source)
    if reason:
        kept = read(tmp_path, source, skip_bad=True)
        left_out = kept.collection.report["left_out"]
        assert sum(left_out[name] for name in left_out if name.startswith(reason)) == 1
        assert table(kept)[0][0] == "good.png"
        assert len(kept.names) == 1 + (A in lines)


def huge() -> bytes:
    """The header of an image of 50,000 x 50,000 pixels."""
    data = bytearray(png())
    data[16:24] = (50_000).to_bytes(4, "big") * 2
    return bytes(data)


def test_one_colour_in_every_mode_is_the_same_image(tmp_path):
    modes = {"RGB": "png", "RGBA": "png", "P": "png", "CMYK": "tif", "L": "png", "1": "png"}
    modes |= {"LA": "png", "I;16": "png", "YCbCr": "jpg"}
    lines = []
    (tmp_path / "images").mkdir()
    for mode, suffix in modes.items():
        name = f"{mode.replace(';', '')}.{suffix}"
        Image.new("RGB", (20, 12), "white").convert("L" if mode == "I;16" else mode).save(
            tmp_path / "images" / name
        )
        if mode == "I;16":
            deep = np.full((12, 20), 65535, np.uint16)
            Image.fromarray(deep).save(tmp_path / "images" / name)
        lines.append({"image": name, "captions": {"en": f"white {mode}"}})
    captions = read(tmp_path, folder(tmp_path, lines, ()))
    pixels = evaluation_pixels(captions, range(len(modes)), CaptionsConfig(image_size=4))
    assert pixels.shape == (len(modes), 4, 4, 3)
    assert (pixels >= 254).all(), dict(zip(modes, pixels.min(axis=(1, 2, 3))))


def test_what_is_behind_a_transparent_image(tmp_path):
    source = folder(tmp_path, [A])
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "images" / "a.png")
    captions = read(tmp_path, source)
    config = CaptionsConfig(image_size=4, background=(1, 2, 3))
    assert (evaluation_pixels(captions, [0], config) == (1, 2, 3)).all()


@pytest.mark.parametrize(
    "data",
    [b"", b"no image", noise()[:-500], noise("JPEG")[:-500], huge(), MAX_BYTES + 1],
    ids=["empty", "other", "truncated-png", "truncated-jpeg", "huge", "many-bytes"],
)
def test_bad_images_are_named_counted_and_skipped_when_asked(tmp_path, data):
    source = folder(tmp_path, [GOOD, A], ("good.png", "a.png"))
    with (tmp_path / "images" / "a.png").open("wb") as stream:
        stream.truncate(data) if isinstance(data, int) else stream.write(data)  # it is sparse
    message = error(tmp_path, source)
    assert "captions.jsonl:2: image a.png: " in message
    assert "skip_bad" in message
    kept = read(tmp_path, source, skip_bad=True)
    assert table(kept) == [("good.png", "good.png", {"en": "good"})]
    assert kept.collection.report["left_out"] == {"bad_image": 1}


def test_images_that_are_not_decoded_first_are_named_later(tmp_path):
    source = folder(tmp_path, [A])
    (tmp_path / "images" / "a.png").write_bytes(noise()[:-500])
    captions = read(tmp_path, source, decode_first=False)
    with pytest.raises(UserError, match=r"captions\.jsonl:1: image a\.png: a broken image"):
        evaluation_pixels(captions, [0], CaptionsConfig())
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(UserError, match=r"captions\.jsonl:1: image a\.png: cannot be read"):
        evaluation_pixels(captions, [0], CaptionsConfig())


def test_as_many_images_stay_decoded_as_their_memory_holds():
    kept, made = DecodedImages(max_bytes=4 * 10 * 10 + 4 * 5 * 5 + 7), []

    def get(number, side, background=(0, 0, 0)):
        def decode():
            made.append((number, background))
            return Image.new("RGB", (side, side), background)

        assert kept.get((number, background), decode).getpixel((0, 0)) == background

    white = (255, 255, 255)
    for _ in range(2):
        get(0, 10)
        get(1, 10)  # does not fit
        get(2, 5)  # does
        get(2, 1, white)  # is another image, for which 7 bytes are enough
        get(3, 1)
    assert [number for number, _ in made] == [0, 1, 2, 2, 3, 1, 3]


def test_an_image_is_decoded_once_for_training_and_evaluation(tmp_path):
    source = folder(tmp_path, [A])
    captions = read(tmp_path, source, decode_first=False)
    first = evaluation_pixels(captions, [0], CaptionsConfig(image_size=15))
    (tmp_path / "images" / "a.png").unlink()
    for part in (captions, captions.take(np.array([0]))):
        np.testing.assert_array_equal(
            evaluation_pixels(part, [0], CaptionsConfig(image_size=15)), first
        )


@pytest.mark.parametrize(
    ("members", "message", "reason"),
    [
        ({"b.png": png()}, "b: no captions for b.png", "image_without_captions"),
        ({"b.json": {"caption": "b"}}, "b: captions, but no image", "captions_without_image"),
        ({"b.png": png(), "b.json": {"width": 1}}, "b: neither `captions`", "unreadable_captions"),
        ({"b.png": png(), "b.json": b"{"}, "b: invalid JSON", "unreadable_captions"),
        ({"b.png": png(), "b.json": b"[]"}, "b: the JSON is a list", "unreadable_captions"),
        ({"b.png": png(), "b.txt": b"\xff"}, "b: b.txt is not UTF-8", "unreadable_captions"),
        ({"b.png": noise()[:-500], "b.txt": b"b"}, "b: a broken image", "bad_image"),
        ({"a.png": png(), "a.txt": b"a"}, "a: the name stands at", "duplicate_"),
    ],
)
def test_bad_samples_of_tars_are_named_counted_and_skipped(tmp_path, members, message, reason):
    tar(tmp_path / "a.tar", {"a.png": png(), "a.json": {"caption": "a", "language": "en"}})
    tar(tmp_path / "b.tar", members)
    source = ImageSource("webdataset", "*.tar", languages=("en",))
    assert f"b.tar: {message}" in error(tmp_path, source)
    kept = read(tmp_path, source, skip_bad=True)
    assert kept.names == ["*.tar:a"]
    assert any(name.startswith(reason) for name in kept.collection.report["left_out"])


def test_names_are_distinct_within_a_source_alone(tmp_path):
    source = folder(tmp_path, [A])
    message = error(tmp_path, source, source)
    assert "captions.jsonl:1: image a.png: the name stands at" in message
    other = dataclasses.replace(source, name="copy")
    assert read(tmp_path, source, other).names == ["images:a.png", "copy:a.png"]
    twice = read(tmp_path, source, dataclasses.replace(source, images="./images"), skip_bad=True)
    assert len(twice.names) == 2


def test_mistakes_in_the_config(tmp_path):
    source = folder(tmp_path, [A])
    assert "no sources" in error(tmp_path)
    for wrong, message in [
        ({"reader": "folders"}, "reader = 'folders': must be one of folder"),
        ({"images": "elsewhere"}, "no such folder"),
        ({"captions": "elsewhere.jsonl"}, "no such file"),
    ]:
        assert message in error(tmp_path, dataclasses.replace(source, **wrong))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("augment.crop_scale", (0.0, 1.0)),
        ("augment.crop_scale", (0.6, 0.5)),
        ("augment.crop_scale", (0.5, 4.1)),
        ("augment.crop_scale", (0.5,)),
        ("augment.color", 1.1),
        ("decoded_mib", -1),
        ("augment.crop_ratio", (0.0, 1.0)),
        ("augment.randaugment_strength", 11.0),
        ("augment.randaugment_operations", -1),
        ("augment.fill", (0, 0, 256)),
        ("background", (0, 0)),
        ("image_size", 0),
        ("max_caption_tokens", 2),
        ("held_out", 1.0),
        ("limit", -1),
    ],
)
def test_impossible_values_are_named(name, value):
    config = CaptionsConfig()
    validate_captions(config)
    part, _, last = name.rpartition(".")
    setattr(config.augment if part else config, last, value)
    with pytest.raises(UserError, match=rf"config\.data\.{name} = .*: must be"):
        validate_captions(config)


@pytest.fixture(scope="module")
def styles(tmp_path_factory):
    """40 things in two styles, with captions in three languages; colours tell images apart."""
    path = tmp_path_factory.mktemp("styles")
    sources = []
    for style in ("flat", "round"):
        (path / style).mkdir()
        lines = []
        for thing in range(40):
            colour = (6 * thing, 255 if style == "flat" else 0, 90)
            (path / style / f"{thing}.png").write_bytes(png(colour))
            texts = {language: f"{language} thing {thing} of these" for language in LANGUAGES}
            if thing % 8 == 0:
                del texts["fr"]
            if thing == 3:
                texts["de"] = texts["en"]  # one word in two languages
            lines.append({"image": f"{thing}.png", "captions": texts, "group": str(thing)})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (path / f"{style}.jsonl").write_text(text)
        sources.append(ImageSource(images=style, captions=f"{style}.jsonl"))
    config = CaptionsConfig(
        directory=str(path),
        sources=tuple(sources),
        image_size=SIDE,
        max_caption_tokens=6,
        augment=AugmentConfig(randaugment_operations=0),  # colours stay
    )
    captions = read_captions(config)
    tokenizer = train_tokenizer(captions.collection.texts, 200)
    return captions, config, tokenizer


@pytest.fixture(scope="module")
def loader(styles):
    captions, config, tokenizer = styles
    shares = HybridConfig(shares=Shares(3, 0, 2, 1, 0))
    hybrid = Hybrid(captions.collection, shares, BATCH, seed=1)
    return CaptionLoader(captions, hybrid, tokenize(captions.collection.texts, tokenizer), config)


def test_batches_hold_what_their_kind_says(styles, loader):
    captions, _, tokenizer = styles
    collection, kinds = captions.collection, Counter()

    where = defaultdict(set)  # a caption's tokens stand: (language, group)
    for group, n in zip(*np.nonzero(collection.query >= 0)):
        text = collection.texts[collection.query[group, n]]
        ids = tokenizer(text, truncation=True, max_length=6)["input_ids"]
        where[tuple(ids)].add((collection.languages[n], group))

    def found(batch, row, name):
        length = batch[f"{name}_lengths"][row]
        return where[tuple(batch[f"{name}_ids"][row, :length].tolist())]

    for step in range(30):
        batch, kind = loader.batch(step), loader.hybrid.kind(step)
        drawn = loader.hybrid.batch(step)
        kinds[kind] += 1
        assert {name: array.dtype for name, array in batch.items()} == FIELDS
        assert batch["pixels"].shape == (BATCH, SIDE, SIDE, 3)
        assert batch["caption_ids"].shape == (BATCH, 6)
        assert batch["other_ids"].shape == (BATCH, 6 if kind == "cross_lingual" else 0)
        assert (batch["other_lengths"] > 0).all() == (kind == "cross_lingual")
        languages = {collection.languages[n] for n in drawn.query_language}
        assert (len(languages) == 1) == (kind == "monolingual") or kind == "cross_lingual"
        for row, group in enumerate(drawn.groups):
            colour = np.median(batch["pixels"][row].reshape(-1, 3), axis=0)
            thing, style = round(colour[0] / 6), "flat" if colour[1] > 128 else "round"
            assert captions.names[captions.image[group]] == f"{style}:{thing}.png"
            assert captions.cluster_names[batch["image_group"][row]] == f"group:{thing}"
            language = collection.languages[drawn.query_language[row]]
            assert (language, group) in found(batch, row, "caption")
            if kind == "cross_lingual":
                other = collection.languages[drawn.passage_language[row]]
                assert other != language
                assert (other, group) in found(batch, row, "other")
                assert (batch["caption_ids"][row] != batch["other_ids"][row]).any()
    assert kinds == {"monolingual": 15, "cross_lingual": 10, "multilingual": 5}


def test_a_second_caption_is_another_text(styles):
    """A word that two languages share is no pair of captions, but a caption in each."""
    captions = styles[0]
    things = {
        pair: {captions.cluster_names[x] for x in captions.collection.cluster[found].tolist()}
        for pair in [("de", "de"), ("de", "en"), ("en", "fr")]
        for found in [cell_groups(captions.collection, *pair)]
    }
    every = {f"group:{thing}" for thing in range(40)}
    assert things["de", "de"] == every
    assert things["de", "en"] == every - {"group:3"}
    assert things["en", "fr"] == {f"group:{thing}" for thing in range(40) if thing % 8}


def test_every_language_and_image_has_its_turn(styles):
    """Exact shares: languages of monolingual batches, and images within a language."""
    captions = styles[0]
    one = HybridConfig(shares=Shares(1, 0, 0, 0, 0))
    hybrid = Hybrid(captions.collection, one, BATCH, seed=0)
    rows, languages = Counter(), Counter()
    for step in range(30):  # ten batches of 8 are the 80 images of en
        batch = hybrid.batch(step)
        language = captions.collection.languages[batch.query_language[0]]
        languages[language] += 1
        if language == "en":
            rows.update(captions.image[batch.groups].tolist())
    assert set(languages.values()) == {10}
    assert set(rows.values()) == {1}
    assert len(rows) == 80


@pytest.mark.parametrize("processes", [2, 4])
def test_the_global_batch_does_not_depend_on_the_processes(loader, processes):
    strong = AugmentConfig()
    loader = dataclasses.replace(loader, config=dataclasses.replace(loader.config, augment=strong))
    size = BATCH // processes
    for step in range(3):
        whole = loader.batch(step)
        parts = [loader.batch(step, slice(p * size, (p + 1) * size)) for p in range(processes)]
        for name in loader.fields:
            joined = np.concatenate([part[name] for part in parts])
            np.testing.assert_array_equal(joined, whole[name])


def test_an_image_changes_with_step_row_and_seed_alone(styles, loader):
    captions, config, _ = styles
    config = dataclasses.replace(config, augment=AugmentConfig())
    same = [noise()] * len(captions.contents)
    alike = dataclasses.replace(captions, contents=same, decoded=DecodedImages(0))
    loader = dataclasses.replace(loader, captions=alike, config=config)
    first, again, next_step = loader.batch(4), loader.batch(4), loader.batch(5)
    np.testing.assert_array_equal(first["pixels"], again["pixels"])
    views = np.concatenate([first["pixels"], next_step["pixels"]]).reshape(2 * BATCH, -1)
    assert len(np.unique(views, axis=0)) == 2 * BATCH
    hybrid = Hybrid(captions.collection, HybridConfig(shares=Shares(1, 0, 0, 1, 0)), BATCH, seed=2)
    other = dataclasses.replace(loader, hybrid=hybrid).batch(4)
    assert (other["pixels"] != first["pixels"]).any(axis=(1, 2, 3)).all()
    plain = dataclasses.replace(loader, augments=False).batch(4)["pixels"]
    expected = evaluation_pixels(alike, [0] * BATCH, config)
    np.testing.assert_array_equal(plain, expected)


def test_an_image_to_evaluate_is_resized_and_its_middle_cut(tmp_path):
    source = folder(tmp_path, [A])
    (tmp_path / "images" / "a.png").write_bytes(noise(size=(50, 30)))
    pixels = Image.open(tmp_path / "images" / "a.png")
    found = evaluation_pixels(read(tmp_path, source), [0], CaptionsConfig(image_size=15))
    expected = pixels.resize((25, 15), Image.Resampling.BICUBIC).crop((5, 0, 20, 15))
    np.testing.assert_array_equal(found[0], np.asarray(expected))


def test_tf_data_yields_the_steps_in_order_with_every_dtype_and_width(loader):
    found = list(batches(loader, 3, 9, slice(2, 6)))
    assert len(found) == 6
    widths = set()
    for step, batch in enumerate(found, 3):
        expected = loader.batch(step, slice(2, 6))
        assert list(batch) == list(loader.fields)
        for name in loader.fields:
            assert batch[name].dtype == FIELDS[name]
            np.testing.assert_array_equal(batch[name], expected[name])
        widths.add(batch["other_ids"].shape)
        real, computed = count_tokens(batch)
        assert real == batch["caption_lengths"].sum() + batch["other_lengths"].sum()
        assert computed == batch["caption_ids"].size + batch["other_ids"].size
    assert widths == {(4, 0), (4, 6)}


def test_an_image_that_breaks_later_stops_the_run_with_its_name(loader):
    contents = list(loader.captions.contents)
    captions = dataclasses.replace(loader.captions, contents=contents, decoded=DecodedImages(0))
    broken = int(captions.image[loader.hybrid.batch(2).groups[3]])
    captions.contents[broken] = b"broken"
    loader = dataclasses.replace(loader, captions=captions)
    earlier = loader.captions.image[
        np.concatenate([loader.hybrid.batch(step).groups for step in (0, 1)])
    ]
    assert broken not in earlier
    stream = batches(loader, 0, 9)
    assert len([next(stream), next(stream)]) == 2
    with pytest.raises(UserError, match=captions.locations[broken]):
        next(stream)


def test_steps_are_compiled_for_the_widths_that_the_schedule_has(styles, loader):
    captions = styles[0]
    for shares, widths in [(Shares(1, 0, 1, 1, 0), [0, 6]), (Shares(0, 0, 1, 0, 0), [6])]:
        hybrid = Hybrid(captions.collection, HybridConfig(shares=shares), BATCH, seed=0)
        other = dataclasses.replace(loader, hybrid=hybrid)
        batch = {name: jnp.asarray(array) for name, array in other.batch(0).items()}
        found = list(other.shapes(batch))
        assert [shapes["other_ids"].shape for shapes in found] == [(BATCH, w) for w in widths]
        for shapes in found:
            assert {name: x.dtype for name, x in shapes.items()} == FIELDS
            assert all(shapes[x].shape == batch[x].shape for x in FIELDS if x != "other_ids")


def test_what_is_depicted_is_held_out_in_all_its_styles(styles):
    captions, config, _ = styles
    training, held_out, none = split_captions(captions, dataclasses.replace(config, held_out=0.3))
    assert len(none.image) == 0

    def things(part):
        return {part.cluster_names[cluster] for cluster in part.collection.cluster.tolist()}

    assert not things(training) & things(held_out)
    assert len(things(training) | things(held_out)) == 40
    assert 4 <= len(things(held_out)) <= 20
    assert Counter(held_out.collection.source.tolist()) == {
        0: len(things(held_out)),
        1: len(things(held_out)),
    }
    # the same things without one of the styles, or with it held out whole
    part = dataclasses.replace(config, held_out=0.3)
    alone = dataclasses.replace(part, sources=config.sources[1:])
    apart = dataclasses.replace(part, held_out_sources=("flat",))
    assert things(split_captions(read_captions(alone), alone).held_out) == things(held_out)
    split = split_captions(captions, apart)
    assert things(split.held_out) == things(held_out)
    assert set(split.training.collection.source.tolist()) == {1}
    assert set(split.held_out.collection.source.tolist()) == {1}
    assert set(split.held_out_sources.collection.source.tolist()) == {0}
    assert len(split.held_out_sources.image) == 40
    for piece in split:
        for group, image in zip(piece.collection.ids, piece.image):
            assert group == captions.names[image]
    with pytest.raises(UserError, match="no 'square'; there are flat, round"):
        split_captions(captions, dataclasses.replace(apart, held_out_sources=("square",)))
    with pytest.raises(UserError, match="held_out"):
        split_captions(captions, dataclasses.replace(config, held_out=1e-9))


def test_readers_stop_when_asked_to_check(tmp_path):
    """Whoever calls a reader alone counts as well."""
    source = folder(tmp_path, [GOOD], ("a.png",))
    checks = InputChecks(skip_bad=True)
    assert list(READERS["folder"](source, tmp_path, checks)) == []
    assert checks.counts == {"captions_without_image": 1, "image_without_captions": 1}

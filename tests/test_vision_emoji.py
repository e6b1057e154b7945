"""Emoji: a made folder of the true structure, and the real one where it is at hand."""

import io
import json
import lzma
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxir.config import CaptionsConfig, EmojiConfig, ImageSource
from jaxir.data.checks import InputChecks
from jaxir.errors import UserError
from jaxir.vision.data.collection import read_captions, split_captions
from jaxir.vision.data.emoji import CAPTIONS, LANGUAGES, PARTS, read_emoji
from jaxir.vision.data.emoji_families import base_emoji, held_out_emoji, read_drawings
from jaxir.vision.evaluation.pixel_baseline import (
    evaluate_pixels,
    pixel_baseline,
    pixel_features,
    pixel_scores,
)
from jaxir.vision.evaluation.pool import Pool, make_pool

EMOJI = Path(__file__).parents[1].parent / "shared/data/emoji-cldr"
STYLES = ("flat", "line", "round")
# cook, woman cook and man cook; dog face and dog, twins in all styles; two flags, twins in one
VARIANTS = ("1f9d1-200d-1f373", "1f469-200d-1f373", "1f468-200d-1f373")
TWINS, FLAGS = ("1f415", "1f436"), ("1f1f7-1f1f4", "1f1f9-1f1e9")
CODES = (*VARIANTS, *TWINS, *FLAGS, *(f"1f6{number:02x}" for number in range(40)))


def png(rng: np.random.Generator) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (8, 8, 4), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_tar(file: Path, images: dict[str, bytes]) -> None:
    with tarfile.open(file, "w") as archive:
        for code, data in images.items():
            member = tarfile.TarInfo(f"{file.stem}/{code}.png")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def write_captions(folder: Path, codes: tuple[str, ...] = CODES) -> None:
    with lzma.open(folder / CAPTIONS, "wt", encoding="utf-8") as file:
        for code in codes:
            texts = {
                language: {
                    "name": f"{language} {code}",
                    "keywords": [f"{language} {code}", "a", "b"],
                }
                for language in LANGUAGES
            }
            texts["fr"] = {"name": f"fr {code}"}
            if code == CODES[-1]:
                del texts["th"]
            file.write(json.dumps({"code": code, "captions": texts}) + "\n")


@pytest.fixture
def folder(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for style in STYLES:
        images = {code: png(rng) for code in CODES}
        images[TWINS[1]] = images[TWINS[0]]
        if style == "line":
            images[FLAGS[1]] = images[FLAGS[0]]
        write_tar(tmp_path / f"{style}.tar", images)
    write_captions(tmp_path)
    return tmp_path


def read(folder: Path, split: str = "train", languages=(), checks=None, **options) -> list:
    options = EmojiConfig(**{"held_out_style": "line", **options})
    source = ImageSource(
        reader="emoji", images=folder.name, languages=languages, split=split, emoji=options
    )
    return list(read_emoji(source, folder.parent, checks or InputChecks()))


def codes_of(records: list) -> set[str]:
    return {record.name.split("/")[1] for record in records}


def test_parts_share_neither_emoji_nor_style(folder):
    parts = {name: read(folder, name) for name in PARTS}
    held = codes_of(parts["held_out_content"])
    assert held == codes_of(parts["held_out_both"])
    assert held == held_out_emoji(read_drawings(folder, InputChecks()), EmojiConfig())
    assert codes_of(parts["train"]) == codes_of(parts["held_out_style"]) == {*CODES} - held
    assert 0 < len(held) < len(CODES) / 2
    for name, records in parts.items():
        styles = {record.source for record in records}
        assert styles == ({"line"} if PARTS[name][1] else {"flat", "round"})
        assert all(record.name.startswith(f"{record.source}/") for record in records)
    assert sum(map(len, parts.values())) == len(CODES) * len(STYLES)
    joined = read(folder, "held_out_content+held_out_both")
    assert len(joined) == 3 * len(held)


def test_images_are_those_of_their_code_and_style(folder):
    for record in read(folder, "held_out_style"):
        style, code = record.name.split("/")
        with tarfile.open(folder / f"{style}.tar") as archive:
            assert record.image.read("") == archive.extractfile(f"{style}/{code}.png").read()


def test_captions_are_a_name_and_its_keywords(folder):
    record = read(folder)[0]
    assert tuple(record.captions) == LANGUAGES
    code = record.name.split("/")[1]
    assert record.captions["th"] == [f"th {code}", "a, b"]
    only = read(folder, languages=("fr", "th"))
    assert {tuple(record.captions) for record in only} == {("fr", "th"), ("fr",)}
    assert only[0].captions["fr"] == [f"fr {code}"]


def test_families_stay_together_whatever_the_seed(folder):
    emoji = read_drawings(folder, InputChecks())
    parts = [held_out_emoji(emoji, EmojiConfig(seed=seed, held_out=0.5)) for seed in range(20)]
    for family in (VARIANTS, TWINS, FLAGS):
        counts = {len(part & {*family}) for part in parts}
        assert counts == {0, len(family)}
    assert len(set(parts)) == 20
    shares = [
        len(held_out_emoji(emoji, EmojiConfig(held_out=share))) for share in (0, 0.1, 0.3, 0.9)
    ]
    assert shares == sorted(shares)
    assert shares[0] == 0


def test_groups_are_what_no_style_tells_apart(folder):
    group = {record.name.split("/")[1]: record.group for record in read(folder, held_out=0.0)}
    assert group[TWINS[0]] == group[TWINS[1]]
    assert len({group[code] for code in (*VARIANTS, *FLAGS)}) == 5
    assert Counter(Counter(group.values()).values()) == {1: len(CODES) - 2, 2: 1}


@pytest.mark.parametrize(
    ("code", "base"),
    [
        ("1f468-1f3fd-200d-1f373", "1f9d1-1f373"),  # man cook, a skin tone
        ("1f6b6-200d-2640-fe0f-200d-27a1-fe0f", "1f6b6"),  # woman walking to the right
        ("1f468-200d-1f469-200d-1f466", "1f9d1-1f9d1-1f9d2"),  # a family
        ("2764-fe0f", "2764"),
        ("2640", "2640"),  # the sign itself
        ("1f1eb-1f1f7", "1f1eb-1f1f7"),
    ],
)
def test_base_of(code, base):
    assert base_emoji(code) == base


def test_refuses_what_is_wrong(folder, tmp_path_factory):
    with pytest.raises(UserError, match="split 'test'; must be of train, held_out_style"):
        read(folder, "test")
    with pytest.raises(UserError, match=r"needs emoji\.held_out_style"):
        read(folder, "held_out_both", held_out_style="")
    with pytest.raises(UserError, match="no style 'oil'; it has flat, line, round"):
        read(folder, held_out_style="oil")
    with pytest.raises(UserError, match=r"emoji.held_out = 1: from 0 to below 1"):
        read(folder, held_out=1)
    with pytest.raises(
        UserError, match=r"captions.jsonl.xz: not in language 'xx'; choose from ar, de"
    ):
        read(folder, languages=("en", "xx"))
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(UserError, match="no tar of drawings"):
        read(empty)
    write_tar(empty / "flat.tar", {})
    with pytest.raises(UserError, match=r"captions.jsonl.xz: no such file"):
        read(empty, held_out_style="")
    data = (folder / CAPTIONS).read_bytes()
    (folder / CAPTIONS).write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"captions.jsonl.xz: cut off or damaged after line"):
        read(folder)
    (folder / CAPTIONS).write_bytes(lzma.compress(b'{"code": "1f415"}\n'))
    with pytest.raises(UserError, match=r"captions.jsonl.xz:1: `code` must be a text"):
        read(folder)
    (folder / "line.tar").write_bytes(b"x" * 10_000)
    with pytest.raises(UserError, match=r"line.tar: not a whole, uncompressed tar"):
        read(folder)


def test_unpaired_emoji_stop_or_are_counted(folder):
    write_captions(folder, CODES[1:])
    with pytest.raises(UserError, match=f"no captions for {CODES[0]}"):
        read(folder)
    write_captions(folder, (*CODES, "1f999"))
    with pytest.raises(UserError, match=rf"xz:{len(CODES) + 1}: no drawing 1f999.png in flat.tar"):
        read(folder)
    checks = InputChecks(skip_bad=True)
    assert "1f999" not in codes_of(read(folder, checks=checks))
    assert checks.counts == {"captions_without_image": 3}


def append(folder, *lines):
    with lzma.open(folder / CAPTIONS, "at", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


GOOD = {"name": "good", "keywords": []}


@pytest.mark.parametrize(
    ("line", "message", "reason"),
    [
        ({"code": CODES[0], "captions": {"en": GOOD}}, "stands at .*xz:1 too", "duplicate_image"),
        ({"code": 7, "captions": {}}, "`code` must be a text", "unreadable_captions"),
        ({"code": "1f999", "captions": {"en": ["a"]}}, "en: `name` must", "unreadable_captions"),
        ({"code": "1f999", "captions": {"fr": GOOD}}, "none in these", "image_without_captions"),
    ],
)
def test_bad_rows_are_named_counted_and_skipped_when_asked(folder, line, message, reason):
    append(folder, line)
    with pytest.raises(UserError, match=rf"{CAPTIONS}:{len(CODES) + 1}: .*{message}.*skip_bad"):
        read(folder)
    checks = InputChecks(skip_bad=True)
    names = {image.captions["en"][0] for image in read(folder, checks=checks)}
    assert "good" not in names
    assert f"en {CODES[-1]}" in names
    assert checks.counts == {reason: 1}


@pytest.mark.parametrize("data", [b"", None])
def test_bad_drawings_are_named_counted_and_skipped_when_asked(folder, data):
    """One that is empty, or there twice."""
    kept = png(np.random.default_rng(1))
    with tarfile.open(folder / "flat.tar", "a") as archive:
        code, content = ("1f999", data) if data is not None else (CODES[0], kept)
        member = tarfile.TarInfo(f"flat/{code}.png")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    with pytest.raises(UserError, match=rf"flat.tar: flat/{code}.png: .*skip_bad"):
        read(folder)
    checks = InputChecks(skip_bad=True)
    assert {image.name for image in read(folder, "train+held_out_content", checks=checks)} >= {
        f"flat/{code}" for code in CODES
    }
    assert checks.counts == {"duplicate_image" if data is None else "bad_image": 1}
    before = read_drawings(folder, InputChecks(skip_bad=True)).drawings["flat"][CODES[0]]
    assert before.stored.read("") != kept


def test_pixel_scores_equal_the_definition():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (11, 4, 4, 3), dtype=np.uint8)
    group = rng.permutation([0, 0, 0, 4, 4, 4, 7, 7, 9, 9, 9])
    features = pixel_features(pixels)
    flat = pixels.astype(np.float64)
    flat = (flat - flat.mean(axis=(1, 2), keepdims=True)).reshape(11, -1)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    scores = pixel_scores(features[2:], group[2:], features[:2], np.array([9, 0, 5, 4]))
    expected = flat[:2] @ flat[2:].T
    for column, number in ((0, 9), (1, 0), (3, 4)):
        best = expected[:, group[2:] == number].max(axis=1)
        np.testing.assert_allclose(scores[:, column], best, atol=1e-6)
    assert (scores[:, 2] < -1).all()  # nothing of it in training
    grey = pixel_features(np.full((1, 4, 4, 3), 7, np.uint8), grey=True)
    assert not grey.any()


def test_pixel_baseline_finds_copies_and_nothing_new():
    rng = np.random.default_rng(0)
    training = rng.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    other = rng.integers(0, 256, (1, 4, 4, 3), dtype=np.uint8)
    images = np.concatenate([other, (training[:4] * 0.8 + 20).astype(np.uint8)])
    image_group = np.array([8, 0, 1, 2, 3])
    pool = Pool(("en", "th"), image_group, np.tile(image_group, 2), np.repeat([0, 1], 5))
    report = evaluate_pixels(training, np.arange(6), images, pool)
    assert report.by_language() == {"en": (0.8, 0.8), "th": (0.8, 0.8)}


def test_the_reader_and_the_baseline_through_a_caption_set(folder):
    """The held-out style draws every emoji as another style draws the next one, darkened."""
    source = ImageSource(
        reader="emoji",
        images=folder.name,
        split="train+held_out_style",
        emoji=EmojiConfig(styles=("flat",), held_out_style="line"),
    )
    flat = read_drawings(folder, InputChecks()).drawings["flat"]
    turned = {}
    for code, other in zip(CODES, (*CODES[1:], CODES[0])):
        pixels = np.asarray(Image.open(io.BytesIO(flat[other].stored.read("")))) * 0.9
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
        turned[code] = file.getvalue()
    write_tar(folder / "line.tar", turned)
    config = CaptionsConfig(
        directory=str(folder.parent),
        sources=(source,),
        captions_per_language=1,
        held_out=0.0,
        held_out_sources=("line",),
    )
    parts = split_captions(read_captions(config), config)
    pool, images, texts = make_pool(parts.held_out_sources)
    emoji = len(read(folder, "held_out_style", styles=("flat",)))
    assert len(images) == pool.counts()["en"] == emoji
    told = parts.held_out_sources.collection.texts
    for text, group, language in zip(texts, pool.caption_group, pool.caption_language):
        code, name = told[text].split(" ")[::-1]
        assert name == LANGUAGES[language]
        (image,) = np.flatnonzero(pool.image_group == group)
        assert parts.held_out_sources.names[images[image]].endswith(f"line/{code}")
    same = pixel_baseline(parts.training, parts.training)
    assert set(same.by_language().values()) == {(1.0, 1.0)}
    other = pixel_baseline(parts.training, parts.held_out_sources)
    # every image looks like an emoji that is not its own
    assert max(max(pair) for pair in other.by_language().values()) < 0.2


def test_pixel_features_of_a_smaller_side_are_means_of_blocks():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    blocks = pixels.reshape(3, 4, 2, 4, 2, 3).mean(axis=(2, 4))
    blocks -= blocks.mean(axis=(1, 2), keepdims=True)
    expected = blocks.reshape(3, -1) / np.linalg.norm(blocks.reshape(3, -1), axis=1)[:, None]
    np.testing.assert_allclose(pixel_features(pixels, side=4), expected, atol=5e-3)  # whole numbers


@pytest.mark.skipif(not EMOJI.exists(), reason="needs ../shared/data/emoji-cldr")
def test_the_real_folder():
    """As ../shared/data/README.md counts it."""
    records = read(EMOJI, "+".join(PARTS), held_out_style="openmoji")
    held = held_out_emoji(read_drawings(EMOJI, InputChecks()), EmojiConfig())
    parts: dict[str, list] = {name: [] for name in PARTS}
    of = {place: name for name, place in PARTS.items()}
    for record in records:
        style, code = record.name.split("/")
        parts[of[code in held, style == "openmoji"]].append(record)
    assert Counter(record.source for record in records) == dict.fromkeys(
        ("fluentui", "noto", "openmoji", "twemoji"), 1_891
    )
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 4_536,
        "held_out_style": 1_512,
        "held_out_content": 1_137,
        "held_out_both": 379,
    }
    for language in LANGUAGES:
        names = {record.name.split("/")[1]: record.captions[language][0] for record in records}
        assert len(set(names.values())) == 1_891, language
    group = {record.name.split("/")[1]: record.group for record in records}
    assert group["1f415"] == group["1f436"]  # dog, dog face
    trained = {record.group for record in parts["train"]}
    assert not trained & {record.group for record in parts["held_out_both"]}
    looks = {record.image.read("") for record in parts["train"]}
    assert not looks & {record.image.read("") for record in parts["held_out_content"]}

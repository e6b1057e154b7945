"""CLIPScore: formulas, files, human ratings, and the command from end to end."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxir.errors import UserError
from jaxir.vision.clipscore.__main__ import main
from jaxir.vision.clipscore.candidates import (
    ImageFolder,
    InputErrors,
    read_captions,
    read_references,
)
from jaxir.vision.clipscore.clipscore import (
    clip_scores,
    kendall_tau,
    ref_clip_scores,
    reference_scores,
)
from jaxir.vision.clipscore.ratings import rated_pairs, read_ratings
from jaxir.vision.models.clip_model import read_clip
from jaxir.vision.models.clip_preprocessing import preprocess

CLIP = Path(__file__).parent / "fixtures/clip"
COLORS = {"red.png": (255, 0, 0), "green.png": (0, 255, 0), "sub/blue.png": (0, 0, 255)}


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_formulas():
    rng = np.random.default_rng(0)
    images, captions, references = (unit(rng.normal(size=(n, 3))) for n in (40, 40, 70))
    own = [rng.choice(70, 1 + i % 4, replace=False).tolist() for i in range(40)]
    clip = clip_scores(images, captions)
    nearest = reference_scores(captions, references, own)
    both = ref_clip_scores(clip, nearest)
    zeros = 0
    for i in range(40):
        score = 2.5 * max(sum(a * b for a, b in zip(images[i], captions[i])), 0)
        best = max(0, *(sum(a * b for a, b in zip(captions[i], references[j])) for j in own[i]))
        assert clip[i] == pytest.approx(score, abs=1e-12)
        assert nearest[i] == pytest.approx(best, abs=1e-12)
        harmonic = 2 / (1 / score + 1 / best) if score and best else 0
        assert both[i] == pytest.approx(harmonic, abs=1e-12)
        zeros += harmonic == 0
    assert 0 < zeros < 40


def counted_tau(scores, ratings, variant):
    """By looking at each two."""
    n, balance, tied_x, tied_y = len(scores), 0, 0, 0
    for i in range(n):
        for j in range(i):
            balance += np.sign(scores[i] - scores[j]) * np.sign(ratings[i] - ratings[j])
            tied_x += scores[i] == scores[j]
            tied_y += ratings[i] == ratings[j]
    pairs = n * (n - 1) / 2
    if variant == "b":
        return balance / np.sqrt((pairs - tied_x) * (pairs - tied_y))
    least = min(len(set(scores)), len(set(ratings)))
    return 2 * balance / (n**2 * (least - 1) / least)


@pytest.mark.parametrize("variant", ["b", "c"])
def test_kendall_tau(variant):
    rng = np.random.default_rng(0)
    ratings = rng.integers(1, 5, 90).astype(float)
    scores = np.round(ratings + rng.normal(size=90), 1)
    found = kendall_tau(scores, ratings, variant)
    assert found == pytest.approx(counted_tau(scores, ratings, variant), abs=1e-12)
    assert 0.2 < found < 0.9
    assert np.isnan(kendall_tau(scores, np.ones(90), variant))


class Colors:
    """A scorer that knows colors and their names."""

    prefix = "A photo depicts "
    background = (255, 255, 255)

    names = ("red", "green", "blue")

    def image_features(self, images):
        return unit(np.stack([np.asarray(image, np.float32).mean((0, 1)) for image in images]))

    def text_features(self, texts):
        assert all(text.startswith("A photo depicts ") for text in texts)
        counts = [[1e-3 + text.count(name) for name in self.names] for text in texts]
        return unit(np.array(counts, np.float32))


@pytest.fixture
def colors(monkeypatch):
    monkeypatch.setattr(
        "jaxir.vision.clipscore.scorer.load_scorer", lambda name, text_model="": Colors()
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images/sub").mkdir(parents=True)
    for name, color in COLORS.items():
        Image.new("RGB", (30, 40), color).save(tmp_path / "images" / name)
    return tmp_path


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def run(folder, *more, captions="captions.jsonl", model="m"):
    paths = [f"--captions={folder / captions}", f"--images={folder / 'images'}"]
    return main(["clipscore", f"--model={model}", *paths, *more])


ROWS = [
    {"image": "red.png", "caption": "a red ball", "id": "r"},
    {"image": "green", "caption": "green  grün", "language": "de"},
    {"image": "sub/blue.png", "caption": "all  red and blue", "language": "de", "id": 9},
    {"image": "red.png", "caption": "green"},
]


def test_the_command_gives_what_the_formulas_do_with_a_clip_folder(folder, capsys):
    write_rows(folder / "captions.jsonl", ROWS)
    references = [
        {"image": "red", "references": ["a ball", "red"]},
        {"image": "green", "references": ["a plant"], "language": "de"},
        {"image": "green", "caption": "never compared"},
        {"image": "sub/blue", "caption": "blue"},
    ]
    write_rows(folder / "refs.jsonl", references)
    output = folder / "out.json"
    options = (f"--references={folder / 'refs.jsonl'}", f"--output={output}")
    assert run(folder, *options, model=CLIP) == 0
    report = json.loads(output.read_text())

    model = read_clip(CLIP)
    pictures = [Image.open(folder / "images" / name) for name in COLORS]
    images = model.image_features(preprocess(pictures, model.preprocessing))
    texts = ["a red ball", "green grün", "all red and blue", "green"]
    texts += ["a ball", "red", "a plant", "blue"]
    vectors = model.text_features(["A photo depicts " + text for text in texts])
    vectors, images = vectors.astype(float), images[[0, 1, 2, 0]].astype(float)
    expected = [2.5 * max(images[i] @ vectors[i], 0) for i in range(4)]
    best = [
        max(0, *(vectors[i] @ vectors[j] for j in own), -1)
        for i, own in enumerate([(4, 5), (6,), (7,), (4, 5)])
    ]
    both = [2 * a * b / (a + b) if a + b else 0 for a, b in zip(expected, best)]
    items = report["items"]
    assert [item["id"] for item in items] == ["r", "2", "9", "4"]
    assert [item["image"] for item in items] == [*COLORS, "red.png"]
    np.testing.assert_allclose([item["clip_score"] for item in items], expected, atol=1e-5)
    np.testing.assert_allclose([item["ref_clip_score"] for item in items], both, atol=1e-5)
    assert report["clip_score"] == pytest.approx(np.mean(expected), abs=1e-5)
    german = report["languages"]["de"]
    assert (german["captions"], report["captions"]) == (2, 4)
    assert german["ref_clip_score"] == pytest.approx(np.mean(both[1:3]), abs=1e-5)
    assert report["skipped"] == []
    assert report["files"]["captions"].endswith("captions.jsonl")
    assert {"jaxir", "packages", "devices", "command", "prefix"} <= set(report)
    shown = capsys.readouterr().out
    assert "CLIPScore" in shown
    assert f"{np.mean(both):.4f}" in shown


def test_the_repositorys_own_format(folder, colors):
    captions = {"red": "red", "green": "blue", "sub/blue": "red and blue"}
    (folder / "captions.json").write_text(json.dumps(captions))
    references = {name: [caption, "green"] for name, caption in captions.items()}
    (folder / "refs.json").write_text(json.dumps(references))
    options = (f"--references={folder / 'refs.json'}", f"--output={folder / 'out.json'}")
    assert run(folder, *options, captions="captions.json") == 0
    items = json.loads((folder / "out.json").read_text())["items"]
    assert [item["image"] for item in items] == ["red.png", "green.png", "sub/blue.png"]
    found = [item["clip_score"] for item in items]
    np.testing.assert_allclose(found, [2.5, 0, 2.5 / 2**0.5], atol=0.01)
    harmonic = [2 * score / (score + 1) for score in found]  # each is its own reference
    np.testing.assert_allclose([item["ref_clip_score"] for item in items], harmonic, atol=1e-6)


def test_the_flags(folder, capsys):
    assert main(["clipscore", "--help"]) == 0
    assert "--captions" in capsys.readouterr().out
    for arguments, message in (
        ([], "--model is missing"),
        (["--modle=x"], "did you mean --model"),
        (["--model=m", "--captions=c", f"--images={folder}/none"], "no such folder of images"),
        (
            ["--model=m", "--captions=c", "--images=i", "--human=h", "--references=r"],
            "--references",
        ),
        (["--model=m", "--captions=c", "--images=i", "--output=/none/x.json"], "--output"),
    ):
        with pytest.raises(UserError, match=message):
            main(["clipscore", *arguments])


BAD_ROWS = [
    ({"caption": "red"}, "captions.jsonl:5: a caption without image"),
    ({"image": "", "caption": "red"}, ":5: a caption without image"),
    ({"image": "none.png", "caption": "red"}, r":5: a caption without image: .* no 'none.png'"),
    ({"image": "../red.png", "caption": "red"}, ":5: the image .* leads out"),
    ({"image": "/red.png", "caption": "red"}, ":5: the image .* leads out"),
    ({"image": ".", "caption": "red"}, ":5: the image '.' leads out"),
    ({"image": "red.png"}, ":5: an image without caption"),
    ({"image": "red.png", "caption": "  "}, ":5: an image without caption"),
    ({"image": "red.png", "caption": ["red"]}, ":5: an image without caption"),
    ({"image": "red.png", "caption": "r" * 10_001}, "10,001 characters"),
    ({"image": "red.png", "caption": "\ud800"}, ":5: caption"),
    ({"image": "red.png", "caption": "red", "language": "xx-nope"}, ":5: unknown language"),
    ({"image": "red.png", "caption": "red", "id": "r"}, ":5: duplicate id 'r'"),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS)
def test_a_bad_row_is_named_and_left_out_only_when_asked(row, message, folder, colors):
    path = folder / "captions.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in [*ROWS, row]))
    with pytest.raises(UserError, match=message) as caught:
        run(folder)
    assert "the only error; correct the input, or pass --skip_bad" in str(caught.value)
    assert run(folder, "--skip_bad", f"--output={folder / 'out.json'}") == 0
    report = json.loads((folder / "out.json").read_text())
    assert (report["captions"], len(report["skipped"])) == (4, 1)


def test_a_row_and_its_image_are_one_mistake(folder, colors):
    bad = [{"image": "green", "caption": ""}, {"image": "sub/blue.png", "caption": 3}]
    write_rows(folder / "captions.jsonl", [ROWS[0], *bad])
    with pytest.raises(UserError, match=r"captions\.jsonl:2: .* \(the first of 2 errors"):
        run(folder)


def test_bad_images_are_named_counted_and_left_out_only_when_asked(folder, colors, capsys):
    data = (folder / "images/red.png").read_bytes()
    (folder / "images/red.png").write_bytes(data[: len(data) // 2])
    (folder / "images/green.png").write_text("no image")
    (folder / "images/lonely.jpg").write_bytes(data)
    write_rows(folder / "captions.jsonl", ROWS)
    with pytest.raises(UserError, match=r"lonely\.jpg: an image without caption \(the only"):
        run(folder)
    (folder / "images/lonely.jpg").unlink()
    with pytest.raises(UserError, match=r"red\.png: .* \(the first of 2 errors"):
        run(folder)
    capsys.readouterr()
    assert run(folder, "--skip_bad", f"--output={folder / 'out.json'}") == 0
    report = json.loads((folder / "out.json").read_text())
    assert [item["image"] for item in report["items"]] == ["sub/blue.png"]
    assert [Path(line.split(":")[0]).name for line in report["skipped"]] == ["red.png", "green.png"]
    assert "left out: 2" in capsys.readouterr().out
    (folder / "images/sub/blue.png").write_bytes(b"")
    with pytest.raises(UserError, match="no caption is left"):
        run(folder, "--skip_bad")


def test_bad_files(folder, colors):
    for name, text, message in (
        ("none.jsonl", None, "no such file"),
        ("c.csv", "a,b", "must end in"),
        ("c.json", "[1]", "one object"),
        ("c.json", '{"red": ["a"]}', "an image without caption"),
        ("c.jsonl", "{", r"c\.jsonl:1: invalid JSON"),
        ("c.txt", "red.png\ta red ball", r"c\.txt:1: a caption without image"),
    ):
        if text is not None:
            (folder / name).write_text(text)
        with pytest.raises(UserError, match=message):
            run(folder, captions=name)
    write_rows(folder / "captions.jsonl", ROWS)
    write_rows(folder / "refs.jsonl", [{"image": "red", "references": ["x"]}])
    with pytest.raises(UserError, match=r"captions\.jsonl:2: .*without reference.*first of 2 "):
        run(folder, f"--references={folder / 'refs.jsonl'}")
    write_rows(folder / "refs.jsonl", [{"image": "red", "references": []}])
    with pytest.raises(UserError, match=r"refs\.jsonl:1: an image without reference"):
        run(folder, f"--references={folder / 'refs.jsonl'}")


def test_names_of_images(folder):
    Image.new("RGB", (2, 2)).save(folder / "images/red.jpg")
    images = ImageFolder(folder / "images")
    assert images.find("red.png", "x") == "red.png"
    assert images.find("./sub/blue", "x") == "sub/blue.png"
    with pytest.raises(UserError, match=r"red\.jpg, red\.png"):
        images.find("red", "row 3")
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="holds no image"):
        ImageFolder(folder / "empty")


def test_files_may_be_gzipped_and_references_add_up(tmp_path):
    path = tmp_path / "c.jsonl.gz"
    rows = [{"image": "a", "caption": "x"}, {"image": "a", "references": ["y", "z"]}]
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    assert read_references(path, InputErrors(False)) == {
        "a": [("en", "x"), ("en", "y"), ("en", "z")]
    }


TOKENS = """\
red.png#0\tred one
red.png#1\tred  two
green.png.1#0\tgreen one
green.png.1#1\tgreen two
blue.png#0\tred one
blue.png#1\tblue and red
"""
EXPERT = """\
red.png\tred.png#1\t4\t4\t3
red.png\tgreen.png.1#0\t1\t1\t2
red.png\tblue.png#0\t3\t3\t3
green.png\tgreen.png.1#1\t4\t4\t4
green.png\tred.png#0\t1\t2\t1
blue.png\tgreen.png.1#0\t1\t1\t1
red.png\tblue.png#1\t2\t2\t1
"""
CROWD = """\
red.png\tred.png#1\t1\t3\t0
red.png\tgreen.png.1#0\t0\t0\t4
red.png\tblue.png#1\t0.333333333333333\t1\t2
green.png\tgreen.png.1#1\t0.75\t3\t1
blue.png\tred.png#0\t0\t0\t3
"""


@pytest.fixture
def flickr(folder):
    (folder / "images/sub/blue.png").rename(folder / "images/blue.png")
    for name, text in (("tokens.txt", TOKENS), ("expert.txt", EXPERT), ("crowd.txt", CROWD)):
        (folder / name).write_text(text)
    return folder


def pairs_of(folder, name):
    errors = InputErrors(False)
    captions = read_captions(folder / "tokens.txt", errors)
    ratings = read_ratings(folder / name, errors)
    assert errors.messages == []
    return ratings.kind, rated_pairs(ratings, captions, errors)


def test_expert_ratings_leave_out_an_images_own_captions(flickr):
    kind, found = pairs_of(flickr, "expert.txt")
    # the third row's caption is blue's, but word for word one of red's own
    assert (kind, found.self_pairs) == ("expert", 3)
    assert [(pair.image, pair.text) for pair in found.pairs] == [
        ("red.png", "green one"),
        ("green.png", "red one"),
        ("blue.png", "green one"),
        ("red.png", "blue and red"),
    ]
    assert found.pairs[0].ratings == (1, 1, 2)
    assert found.pairs[0].references == ("red one", "red two")
    assert found.pairs[1].references == ("green one", "green two")


def test_crowd_ratings_take_rated_captions_out_of_the_references(flickr):
    kind, found = pairs_of(flickr, "crowd.txt")
    assert (kind, found.self_pairs, len(found.pairs)) == ("crowdflower", 0, 5)
    assert [pair.ratings for pair in found.pairs][2:4] == [(0.333333333333333,), (0.75,)]
    references = [pair.references for pair in found.pairs]
    assert references == [("red one",)] * 3 + [("green one",), ("blue and red",)]


@pytest.mark.parametrize(("name", "variant"), [("expert.txt", "c"), ("crowd.txt", "b")])
def test_agreement_with_people(name, variant, flickr, colors, capsys):
    output = flickr / "out.json"
    options = (f"--human={flickr / name}", f"--output={output}")
    assert run(flickr, *options, captions="tokens.txt") == 0
    report = json.loads(output.read_text())
    _, found = pairs_of(flickr, name)
    scores = [item["clip_score"] for item in report["items"]]
    both = [item["ref_clip_score"] for item in report["items"]]
    ratings = [pair.ratings for pair in found.pairs]
    agreement = report["agreement"]
    assert agreement["variant"] == variant
    assert agreement["samples"] == sum(map(len, ratings))
    flat = [rating for values in ratings for rating in values]
    for name_, of_items in (("clip_score", scores), ("ref_clip_score", both)):
        samples = [score for score, values in zip(of_items, ratings) for _ in values]
        for one in ("b", "c"):
            expected = counted_tau(samples, flat, one)
            assert agreement[name_][f"tau_{one}"] == pytest.approx(expected, abs=1e-12)
    shown = capsys.readouterr().out
    assert f"tau-{variant} {100 * agreement['clip_score'][f'tau_{variant}']:.1f}" in shown


def test_ratings_that_match_nothing_are_named(flickr, colors):
    extra = "red.png\tgreen.png#7\t1\t1\t1\nnone.png\tred.png#0\t2\t2\t2\n"
    (flickr / "expert.txt").write_text(EXPERT + extra + "red.png\tred.png#0\t0.5\t1\t1\n")
    human = f"--human={flickr / 'expert.txt'}"
    with pytest.raises(UserError, match=r"expert\.txt:10: not a rating of expert.*first of 3 "):
        run(flickr, human, captions="tokens.txt")
    options = ("--skip_bad", human, f"--output={flickr / 'out.json'}")
    assert run(flickr, *options, captions="tokens.txt") == 0
    skipped = json.loads((flickr / "out.json").read_text())["skipped"]
    assert [line.split(":")[1] for line in skipped] == ["10", "8", "9"]
    assert "no caption has the id 'green.png#7'" in skipped[1]
    for text, message in (
        ("", "holds no ratings"),
        ("red.png\tred.png#0\t5\t1\t1\n", r"expert\.txt:1: must be image"),
        ("red.png\tred.png#0\t4\t4\n", "must be image"),
        ("red.png\tred.png#0\tx\t4\t4\n", "must be image"),
        ("red.png\tred.png#0\tnan\t4\t4\n", "must be image"),
        ("red.png\tred.png#0\t0.5\t0\t0\n", "must be image"),
    ):
        (flickr / "expert.txt").write_text(text)
        with pytest.raises(UserError, match=message):
            run(flickr, human, captions="tokens.txt")
    (flickr / "expert.txt").write_text(extra)
    with pytest.raises(UserError, match="no caption is left"):
        run(flickr, human, "--skip_bad", captions="tokens.txt")

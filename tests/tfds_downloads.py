"""What TFDS has after its downloads, in small: files of the true structure under their true names.

    python tests/tfds_downloads.py DATA_DIR

TFDS takes a file for downloaded where its name has the checksum that is registered for its address
and an .INFO file lies beside it; the bytes of a server would have to have that checksum, too.
"""

import io
import json
import random
import sys
import zipfile
from pathlib import Path

from PIL import Image

SQUAD = "https://rajpurkar.github.io/SQuAD-explorer/dataset/"
XQUAD = "https://github.com/deepmind/xquad/raw/master/xquad.{}.json"
XTREME = "https://storage.googleapis.com/xtreme_translations/"
COCO = "http://images.cocodataset.org/"
KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
TRANSLATED = ("ar", "de", "es", "hi", "ru", "th", "tr", "zh")
ARTICLES, PARAGRAPHS, QUESTIONS = 4, 5, 3

LETTERS = {
    "ar": "ابتثجحدرسعفقكلمنهوي",
    "hi": "अआइकगचजतदनपबमरलसह",
    "ru": "абвгдежзиклмнопрст",
    "th": "กขคงจชดตนบปมยรลวสห",
    "zh": "的一是不了人我在有他这中大来上国",
}
STOPS = {"hi": "।", "zh": "。", "th": ""}


def squad(language: str, blemished: bool) -> dict:
    """SQuAD v1.1 in one language; ids are shared. Translations have blemishes.

    XTREME's have an object for each answer, so that ids come twice; some answers are missing, some
    stand elsewhere than their offset says, and some do not stand in their paragraph at all.
    """
    letters, stop = LETTERS.get(language, "abdefgiklmnoprstu"), STOPS.get(language, ".")
    chance = random.Random(language)

    def word() -> str:
        return "".join(chance.choices(letters, k=chance.randint(3, 7)))

    def sentence() -> str:
        return " ".join(word() for _ in range(chance.randint(4, 8))) + stop

    articles = []
    for article in range(ARTICLES):
        paragraphs = []
        for paragraph in range(PARAGRAPHS):
            context = " ".join(sentence() for _ in range(4))
            questions = []
            for number in range(QUESTIONS):
                text = chance.choice(context.split()).strip(stop)
                answer = {"answer_start": context.index(text), "text": text}
                one = {
                    "id": f"5733be28{article:02}{paragraph:02}{number:02}",
                    "question": " ".join([text, word(), word()]) + "?",
                    "answers": [answer],
                }
                kind = (paragraph * QUESTIONS + number) % 7 if blemished else 6
                if kind == 0:
                    one["answers"] = []
                elif kind == 1:
                    answer["answer_start"] += 3
                elif kind == 2:
                    answer["text"] = "©"
                elif kind == 3:
                    questions.append(json.loads(json.dumps(one)))
                questions.append(one)
            paragraphs.append({"context": context, "qas": questions})
        articles.append({"title": f"Article_{article}", "paragraphs": paragraphs})
    return {"data": articles, "version": "1.1"}


def place(data_dir: Path, url: str, body: bytes) -> None:
    """Put a file where TFDS keeps what it has downloaded from that address."""
    from tensorflow_datasets.core.download import checksums, resource  # ten seconds to import

    info = checksums.get_all_url_infos()[url]
    path = data_dir / "downloads" / resource.get_dl_fname(url, info.checksum)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    described = {"original_fname": info.filename, "url_info": info.asdict(), "urls": [url]}
    path.with_name(path.name + ".INFO").write_text(json.dumps(described))


def place_squad(data_dir: Path) -> None:
    """`squad` and `xquad/LANGUAGE` of the languages that tpu_v4.py trains on."""

    def put(url: str, language: str, blemished: bool = False) -> None:
        body = json.dumps(squad(language, blemished), ensure_ascii=False)
        place(data_dir, url, body.encode())

    for part in ("train", "dev"):
        put(f"{SQUAD}{part}-v1.1.json", "en")
    for code in TRANSLATED:
        put(XQUAD.format(code), code)
        for part in ("train", "dev"):
            name = f"SQuAD/translate-{part}/squad.translate.{part}.en-{code}.json"
            put(f"{XTREME}{name}", code, blemished=True)
        put(f"{XTREME}XQuAD/translate-test/xquad.translate.test.{code}-en.json", "en")


def zipped(files: dict[str, bytes]) -> bytes:
    """A zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return buffer.getvalue()


def place_coco(data_dir: Path, images: int = 12) -> None:
    """`coco_captions/2014`: zips of images, of annotations, and Karpathy and Li's splits."""
    splits, annotations = [], {}
    for part, kinds in (("train", ("train",)), ("val", ("val", "test", "restval"))):
        pictures, described = {}, []
        for number in range(images):
            name = f"COCO_{part}2014_{number:012}.jpg"
            buffer = io.BytesIO()
            shade = 255 * number // images
            Image.new("RGB", (40, 30), (shade, 255 - shade, 90)).save(buffer, "JPEG")
            pictures[f"{part}2014/{name}"] = buffer.getvalue()
            described.append({"id": number, "file_name": name, "height": 30, "width": 40})
            sentences = [
                {"raw": f"a picture of shade {shade}, caption {n}", "sentid": 10 * number + n}
                for n in range(5)
            ]
            splits.append(
                {"filename": name, "split": kinds[number % len(kinds)], "sentences": sentences}
            )
        place(data_dir, f"{COCO}zips/{part}2014.zip", zipped(pictures))
        boxes = {
            "images": described,
            "categories": [{"id": n, "name": f"thing {n}"} for n in range(80)],
            "annotations": [],
        }
        annotations[f"annotations/instances_{part}2014.json"] = json.dumps(boxes).encode()
    place(data_dir, f"{COCO}annotations/annotations_trainval2014.zip", zipped(annotations))
    tested = json.dumps({"images": [], "categories": [], "annotations": []}).encode()
    for year in (2014, 2015):
        place(data_dir, f"{COCO}zips/test{year}.zip", zipped({f"test{year}/none.txt": b""}))
        info = {f"annotations/image_info_test{year}.json": tested}
        place(data_dir, f"{COCO}annotations/image_info_test{year}.zip", zipped(info))
    whole = json.dumps({"images": splits, "dataset": "coco"}).encode()
    place(data_dir, KARPATHY, zipped({"dataset_coco.json": whole}))


if __name__ == "__main__":
    place_squad(Path(sys.argv[1]))
    place_coco(Path(sys.argv[1]))

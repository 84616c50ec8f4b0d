"""CoCas as open_clip's training keeps them: weights, and beside them the state of the optimiser."""

from typing import Any

import numpy as np
import torch

from lib.vlm.model_files import Refused, fetch

FIELDS = ("embed_dim", "vision_cfg", "text_cfg", "multimodal_cfg")
# Learning rates are numbers of NumPy. What makes them from bytes runs nothing; names are NumPy 1's.
_scalar = np.float64(0).__reduce__()[0]
NUMBERS: list[Any] = [
    (_scalar, "numpy.core.multiarray.scalar"),
    _scalar,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")),
]


def load(name: str) -> tuple[Any, Any]:
    """The model and its tokenizer.

    name: `<CoCa of open_clip>@<folder or repository>/<file>`. Only tensors and plain values
    are read. Raises FileNotFoundError for a file that is not there, Refused naming weights that the
    architecture lacks or has no use for; what cannot be fetched raises as the hub client does.
    """
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, CoCa, SimpleTokenizer
    from open_clip.factory import get_model_config

    architecture, _, path = name.partition("@")
    where, _, file = path.rpartition("/")
    weights = fetch(where, [file]) / file
    if not weights.is_file():
        raise FileNotFoundError(f"there is no {file} in {where}")
    with torch.serialization.safe_globals(NUMBERS):
        state = torch.load(weights, "cpu", weights_only=True, mmap=True)
    state = state.get("state_dict", state)
    state = {key.removeprefix("module."): tensor.float() for key, tensor in state.items()}
    config = get_model_config(architecture)
    model = CoCa(**{field: config[field] for field in FIELDS})
    missing, unexpected = model.load_state_dict(state, strict=False)
    for what, keys in (("lack", missing), ("have besides", unexpected)):
        if keys:
            raise Refused(f"{path}: the weights {what} {', '.join(sorted(keys))}")
    # As open_clip takes them to be of weights in a file.
    model.visual.image_mean, model.visual.image_std = OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    return model, SimpleTokenizer(context_length=config["text_cfg"]["context_length"])

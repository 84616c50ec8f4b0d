"""Vision-language models through open_clip: load by name, embed prompts, tiles and views."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import torch
from numpy.lib.format import open_memmap
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from lib import paths, views
from lib.run import atomic
from lib.tiles import read_batches


@dataclass(frozen=True)
class VLM:
    """A loaded model with what its images and prompts need."""

    name: str
    model: Any  # open_clip's CLIP classes; their towers have no common type
    tokenizer: Callable[[list[str]], torch.Tensor]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device
    dtype: torch.dtype  # of the image encoder's forward pass

    @property
    def scale(self) -> float:
        """The model's own logit scale s."""
        return float(self.model.logit_scale.detach().exp())


def load_vlm(name: str, *, seed: int = 0, device: str | None = None) -> VLM:
    """Load a model by name, in evaluation mode.

    `stand-in-<source card>` (the folder that 01_stand_in_vlm built for this seed),
    `local-dir:<folder>`, `hf-hub:<organisation>/<model>`, or open_clip's `<model>/<weights tag>`,
    such as `ViT-B-32/laion2b_s34b_b79k`. Weights in the Hugging Face cache are used offline.
    Raises FileNotFoundError for a stand-in that is not built and RuntimeError, naming the model and
    the ways to get it, for weights out of reach.
    """
    where, weights, extra = _locate(name, seed)
    try:
        model = open_clip.create_model(where, weights, require_pretrained=True, **extra)
        tokenizer = open_clip.get_tokenizer(where)
    except Exception as error:  # open_clip and the hub client raise many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RuntimeError(
            f"VLM {name!r} cannot be loaded: {reason}\nWays to get it: run once with a network, so "
            "that the weights enter the Hugging Face cache; or copy that cache here and name it "
            "with HF_HOME; or put open_clip_config.json and open_clip_model.safetensors into a "
            "folder and use vlm=local-dir:<folder>. open_clip's own names are "
            "<model>/<weights tag> as listed by open_clip.list_pretrained()."
        ) from error
    return as_vlm(name, model, tokenizer, device)


def as_vlm(name: str, model: nn.Module, tokenizer: Any, device: str | None = None) -> VLM:
    """An open_clip model with its own preprocessing, in evaluation mode on its device."""
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    preprocess = open_clip.get_model_preprocess_cfg(model)
    size = preprocess["size"]
    model.eval().to(chosen)
    model.visual.to(memory_format=torch.channels_last)
    return VLM(
        name=name,
        model=model,
        tokenizer=tokenizer,
        image_size=size if isinstance(size, int) else size[0],
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
        device=chosen,
        dtype=_fast_dtype(chosen),
    )


def _locate(name: str, seed: int) -> tuple[str, str | None, dict[str, Any]]:
    """open_clip's model name, weights tag and further arguments."""
    if name.startswith(paths.STAND_IN):
        folder = paths.model_folder(name, seed)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{name} is not built for seed {seed} (no {folder}): "
                "run notebooks/01_stand_in_vlm.py"
            )
        name = f"local-dir:{folder}"
    if name.startswith("local-dir:"):
        return name, None, _text_tower_of(Path(name.removeprefix("local-dir:")))
    if name.startswith("hf-hub:"):
        return name, None, {}
    model, _, weights = name.partition("/")
    return model, weights or None, {}


def _text_tower_of(folder: Path) -> dict[str, Any]:
    """A folder that holds the configuration of its text tower works wherever it is moved."""
    file = folder / "open_clip_config.json"
    if not ((folder / "config.json").is_file() and file.is_file()):
        return {}
    text = json.loads(file.read_text())["model_cfg"]["text_cfg"]
    return {"text_cfg": text | {"hf_model_name": str(folder), "hf_model_pretrained": False}}


def _fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the processor computes in it; there it was measured 1.2 to 2 times as fast."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if native else torch.float32


@torch.inference_mode()
def embed_prompts(vlm: VLM, prompts: Sequence[Sequence[str]]) -> torch.Tensor:
    """Text features of the classes, float32 [C, D], L2-normalised.

    prompts: one or more per class; the normalised embeddings of a class are averaged and normalised
    again. Raises ValueError when a class has no prompt.
    """
    empty = [number for number, of_class in enumerate(prompts) if not of_class]
    if empty:
        raise ValueError(f"class {empty[0]} has no prompt")
    flat = [prompt for of_class in prompts for prompt in of_class]
    embedded = vlm.model.encode_text(vlm.tokenizer(flat).to(vlm.device), normalize=True).float()
    means = [part.mean(0) for part in embedded.split([len(of_class) for of_class in prompts])]
    return F.normalize(torch.stack(means), dim=-1)


@torch.inference_mode()
def encode_images(vlm: VLM, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Unprojected [B, E] and projected, L2-normalised [B, D] image features, float32.

    pixels: float [B, 3, s, s] in 0 … 1; normalised here as the model wants it. The unprojected
    features are those before the linear map to the text space; where a model has no such map that
    can be told apart, they are the projected ones.
    """
    mean = torch.tensor(vlm.mean, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(vlm.std, device=pixels.device).view(3, 1, 1)
    batch = ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)
    visual = vlm.model.visual
    with torch.autocast(vlm.device.type, vlm.dtype, enabled=vlm.dtype is not torch.float32):
        if hasattr(visual, "trunk"):  # a timm tower
            unprojected = visual.trunk(batch)
            projected = visual.head(unprojected)
        elif getattr(visual, "proj", None) is not None:  # a vision transformer
            unprojected, projected = _through_projection(visual, batch)
        else:
            unprojected = projected = _pooled(visual(batch))
    return unprojected.float(), F.normalize(projected.float(), dim=-1)


def _through_projection(visual: Any, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    projection, visual.proj = visual.proj, None
    try:
        unprojected = _pooled(visual(batch))
    finally:
        visual.proj = projection
    return unprojected, unprojected @ projection.to(unprojected.dtype)


def _pooled(output: Any) -> torch.Tensor:
    """CoCa's towers return (pooled, tokens)."""
    return output[0] if isinstance(output, tuple) else output


def class_probabilities(vlm: VLM, projected: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """p(c|x) = softmax_c(s · cos(f(x), g(T_c))): float32 [B, C] from [B, D] and [C, D]."""
    return torch.softmax(vlm.scale * projected @ text.T, dim=-1)


def embed_tiles(
    vlm: VLM, store: Path, text: torch.Tensor, run: Path, *, batch_size: int = 64
) -> None:
    """Zero-shot pass over every tile of the store, un-augmented.

    Writes to `run`: features.npy [N, D] float16 (projected, L2-normalised), unprojected.npy [N, E]
    float16, probs.npy [N, C] float32. text: [C, D] from `embed_prompts`.
    """
    tiles = np.arange(len(np.load(store, mmap_mode="r", allow_pickle=False)))
    unprojected_size, size = feature_sizes(vlm)
    with _NewArrays() as arrays:
        all_unprojected = arrays.add(run / "unprojected.npy", (len(tiles), unprojected_size), "f2")
        all_features = arrays.add(run / "features.npy", (len(tiles), size), "f2")
        all_probs = arrays.add(run / "probs.npy", (len(tiles), len(text)), "f4")
        for at, images in _progress(read_batches(store, tiles, batch_size, vlm.device), tiles):
            unprojected, projected = encode_images(vlm, views.plain_view(images, vlm.image_size))
            all_unprojected[at] = unprojected.cpu()
            all_features[at] = projected.cpu()
            all_probs[at] = class_probabilities(vlm, projected, text).cpu()


def embed_views(
    vlm: VLM,
    store: Path,
    tiles: np.ndarray,
    text: torch.Tensor,
    run: Path,
    *,
    n_views: int,
    seed: int,
    hue: float = 0.05,
    batch_size: int = 64,
    progress: bool = True,
) -> None:
    """Embed and classify V random views of each tile (VLM-CPL, multi-view consensus).

    tiles: [N] tile numbers, also rows of the store. Writes to `run`: view_features.npy [V, N, E]
    float16 (unprojected), votes.npy [V, N] int16 (argmax of each view), view_probs.npy [N, C]
    float32 (mean over the views). See `views.random_view` for `hue`.
    """
    shape = (n_views, len(tiles))
    with _NewArrays() as arrays:
        all_features = arrays.add(run / "view_features.npy", (*shape, feature_sizes(vlm)[0]), "f2")
        all_votes = arrays.add(run / "votes.npy", shape, "i2")
        mean_probs = arrays.add(run / "view_probs.npy", (len(tiles), len(text)), "f4")
        batches = read_batches(store, tiles, batch_size, vlm.device)
        for at, images in _progress(batches, tiles, progress):
            batch_probs = torch.zeros(len(at), len(text), device=vlm.device)
            for view in range(n_views):
                pixels = views.random_view(
                    images, vlm.image_size, tiles=tiles[at], view=view, seed=seed, hue=hue
                )
                unprojected, projected = encode_images(vlm, pixels)
                probs = class_probabilities(vlm, projected, text)
                all_features[view, at] = unprojected.cpu()
                all_votes[view, at] = probs.argmax(1).cpu()
                batch_probs += probs / n_views
            mean_probs[at] = batch_probs.cpu()


def vote(
    vlm: VLM, store: Path, tiles: np.ndarray, text: torch.Tensor, **how: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Votes [V, N] and mean probabilities [N, C] of random views whose features are not kept.

    See `embed_views` for the arguments.
    """
    with tempfile.TemporaryDirectory() as folder:
        embed_views(vlm, store, tiles, text, Path(folder), **how)
        votes, view_probs = (
            np.load(Path(folder, f"{name}.npy"), allow_pickle=False)
            for name in ("votes", "view_probs")
        )
    return votes, view_probs


def feature_sizes(vlm: VLM) -> tuple[int, int]:
    """Sizes E and D of the unprojected and the projected features."""
    pixel_size = (1, 3, vlm.image_size, vlm.image_size)
    unprojected, projected = encode_images(vlm, torch.zeros(pixel_size, device=vlm.device))
    return unprojected.shape[1], projected.shape[1]


class _NewArrays(ExitStack):
    """Arrays on disk that all take their names when the block ends without an error."""

    def add(self, file: Path, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        temporary = self.enter_context(atomic(file))
        return open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)


def speed_of_views(
    vlm: VLM, store: Path, tiles: np.ndarray, text: torch.Tensor, *, batch_size: int = 64
) -> pd.DataFrame:
    """Views per second of `embed_views` beside the bare encoder, on the same tiles and batches.

    The bare encoder gets batches that are in memory and normalised; nothing is read, drawn or
    written. The tiles are divided into five parts and both are timed on each in turn, so that other
    work on the machine slows both. Columns: views, encoder (per second), ratio.
    """
    timings = []
    for part in np.array_split(tiles, 5):
        batches = [
            views.plain_view(images, vlm.image_size)
            for _, images in read_batches(store, part, batch_size, vlm.device)
        ]
        encode_images(vlm, batches[0])
        start = _now(vlm)
        for batch in batches:
            encode_images(vlm, batch)
        encoded = _now(vlm)
        with tempfile.TemporaryDirectory() as folder:
            where = Path(folder)
            embed_views(
                vlm, store, part, text, where, n_views=2, seed=0, batch_size=batch_size,
                progress=False,
            )  # fmt: skip
        rates = len(part) / (encoded - start), 2 * len(part) / (_now(vlm) - encoded)
        timings.append(dict(zip(("encoder", "views"), rates, strict=True)))
    return pd.DataFrame(timings).eval("ratio = views / encoder")


def _now(vlm: VLM) -> float:
    if vlm.device.type == "cuda":
        torch.cuda.synchronize(vlm.device)
    return time.perf_counter()


def _progress(batches: Iterator, tiles: np.ndarray, shown: bool = True) -> Iterator:
    with tqdm(total=len(tiles), desc="embedding", unit="tile", disable=not shown) as bar:
        for at, images in batches:
            yield at, images
            bar.update(len(at))

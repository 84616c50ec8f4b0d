"""Vision-language models through open_clip: embed prompts, tiles and views."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import torch
from numpy.lib.format import open_memmap
from torch import nn
from torch.nn import functional as F

from lib.artefacts import atomic
from lib.data.tiles import read_batches
from lib.progress import progress_bar
from lib.vlm import views


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
    ensemble_members: tuple["VLM", ...] = ()  # see `ensemble`
    sizes: tuple[int, ...] = ()  # D of each of the several

    @property
    def members(self) -> tuple["VLM", ...]:
        return self.ensemble_members or (self,)

    @property
    def scale(self) -> float:
        """The model's own logit scale s."""
        return float(self.model.logit_scale.detach().exp())


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


def ensemble(members: Sequence[VLM]) -> VLM:
    """Several VLMs as one: features side by side, the average of the probabilities.

    Each keeps its own input size, normalisation and logit scale; tiles are read at the largest
    size. `embed_tiles` also says on which tiles they agree. VLM-CPL's code has such an average of
    PLIP and BiomedCLIP, switched off.
    """
    return replace(
        members[0],
        name="+".join(member.name for member in members),
        model=None,
        image_size=max(member.image_size for member in members),
        ensemble_members=tuple(members),
        sizes=tuple(feature_sizes(member)[1] for member in members),
    )


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
    again. Of several VLMs the features stand side by side. Raises ValueError when a class has no
    prompt.
    """
    if vlm.ensemble_members:
        return torch.cat([embed_prompts(member, prompts) for member in vlm.ensemble_members], dim=1)
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
    can be told apart, they are the projected ones. Those of several VLMs stand side by side, each
    of the same length.
    """
    if vlm.ensemble_members:
        return _side_by_side(vlm, pixels)
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


def _side_by_side(vlm: VLM, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    unprojected, projected = [], []
    for member in vlm.ensemble_members:
        before, after = encode_images(member, views.resize(pixels, member.image_size))
        unprojected.append(F.normalize(before, dim=-1))
        projected.append(after / len(vlm.ensemble_members) ** 0.5)
    return torch.cat(unprojected, dim=1), torch.cat(projected, dim=1)


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
    """p(c|x) = softmax_c(s · cos(f(x), g(T_c))): float32 [B, C] from [B, D] and [C, D].

    Of several VLMs the average.
    """
    return member_probabilities(vlm, projected, text).mean(0)


def member_probabilities(vlm: VLM, projected: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """`class_probabilities` by each of M VLMs, [M, B, C]; M is 1 but for `ensemble`."""
    sizes = vlm.sizes or (text.shape[1],)
    length = len(sizes) ** 0.5  # undoes that of `encode_images`
    parts = zip(vlm.members, projected.split(sizes, 1), text.split(sizes, 1), strict=True)
    return torch.stack(
        [torch.softmax(length * member.scale * of @ to.T, dim=-1) for member, of, to in parts]
    )


def embed_tiles(
    vlm: VLM, store: Path, text: torch.Tensor, run: Path, *, batch_size: int = 64
) -> None:
    """Zero-shot pass over every tile of the store, un-augmented.

    Writes to `run`: features.npy [N, D] float16 (projected, L2-normalised), unprojected.npy [N, E]
    float16, probs.npy [N, C] float32, agree.npy [N] bool (whether several VLMs say the same; of
    one all are true). text: [C, D] from `embed_prompts`.
    """
    tiles = np.arange(len(np.load(store, mmap_mode="r", allow_pickle=False)))
    unprojected_size, size = feature_sizes(vlm)
    with _NewArrays() as arrays:
        all_unprojected = arrays.add(run / "unprojected.npy", (len(tiles), unprojected_size), "f2")
        all_features = arrays.add(run / "features.npy", (len(tiles), size), "f2")
        all_probs = arrays.add(run / "probs.npy", (len(tiles), len(text)), "f4")
        all_agree = arrays.add(run / "agree.npy", (len(tiles),), "?")
        for at, images in _progress(read_batches(store, tiles, batch_size, vlm.device), tiles):
            unprojected, projected = encode_images(vlm, views.plain_view(images, vlm.image_size))
            all_unprojected[at] = unprojected.cpu()
            all_features[at] = projected.cpu()
            said = member_probabilities(vlm, projected, text)
            all_probs[at] = said.mean(0).cpu()
            all_agree[at] = (said.argmax(2) == said[0].argmax(1)).all(0).cpu()


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
    with progress_bar(len(tiles), "embedding", "tile", shown=shown) as bar:
        for at, images in batches:
            yield at, images
            bar.update(len(at))

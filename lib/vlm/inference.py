"""Zero-shot and view-wise inference: embed prompts, tiles and random views with a VLM."""

import ctypes
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from lib.artefacts import atomic, new_array, scratch_folder
from lib.data.tiles import read_batches
from lib.vlm import views
from lib.vlm.prompts import refuse_alike, tokens_of

# Text features of the classes [C, D], or several of them by name.
Texts = torch.Tensor | Mapping[str, torch.Tensor]
# Of the image encoder. bfloat16 is 1.2 to 2 times as fast where the processor computes in it, but
# features differ in the third digit, and with them votes and kept tiles.
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SIGMOID = (
    "note: {} learnt by a sigmoid for each pair of image and text (SigLIP), which asks of no two "
    "classes which is the likelier: the softmax over the classes that is taken here approximates it"
)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


@dataclass(frozen=True)
class VLM:
    """A loaded model with what its images and prompts need."""

    name: str
    model: Any  # open_clip's CLIP classes; their towers have no common type
    tokenizer: Callable[..., torch.Tensor]  # texts and, if another one, the number of tokens
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device
    dtype: torch.dtype  # of the image encoder's forward pass
    ensemble_members: tuple["VLM", ...] = ()  # see `ensemble`
    sizes: tuple[int, ...] = ()  # D of each member of an ensemble
    commit: str = ""  # of its repository on the hub, as far as known
    encoder: "VLM | None" = None  # see `with_encoder`

    @property
    def members(self) -> tuple["VLM", ...]:
        return self.ensemble_members or (self,)

    @property
    def commits(self) -> dict[str, str]:
        """By the name of each model from the hub the commit of its repository."""
        return {member.name: member.commit for member in self.towers if member.commit}

    @property
    def towers(self) -> tuple["VLM", ...]:
        """All that look at a tile: the members, and the encoder if there is one."""
        return (*self.members, self.encoder) if self.encoder else self.members

    def tile(self, mpp: float) -> tuple[int, float]:
        """Pixels and µm per pixel of a slide's tile of the side that the VLM has at `mpp`.

        An encoder with a larger input sees the same tissue, finer.
        """
        largest = max(member.image_size for member in self.members)
        return self.image_size, mpp * (largest / self.image_size)

    @property
    def scale(self) -> float:
        """The model's own logit scale s."""
        return float(self.model.logit_scale.detach().exp())

    @property
    def caveat(self) -> str:
        """What to know of its probabilities, for who loads it; mostly empty."""
        sigmoid = [m.name for m in self.members if getattr(m.model, "logit_bias", None) is not None]
        return SIGMOID.format(" and ".join(sigmoid)) if sigmoid else ""


def as_vlm(
    name: str,
    model: nn.Module,
    tokenizer: Any,
    device: str | None = None,
    precision: str = "float32",
) -> VLM:
    """An open_clip model with its own preprocessing, in evaluation mode on its device.

    Raises ValueError for a precision that is none of `PRECISIONS`.
    """
    from open_clip import get_model_preprocess_cfg

    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    keep_buffers()
    own_device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    preprocess = get_model_preprocess_cfg(model)
    size = preprocess["size"]
    model.eval().to(own_device)
    model.visual.to(memory_format=torch.channels_last)
    return VLM(
        name=name,
        model=model,
        tokenizer=tokenizer,
        image_size=size if isinstance(size, int) else size[0],
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
        device=own_device,
        dtype=PRECISIONS[precision],
    )


def keep_buffers() -> None:
    """Let glibc keep the buffers of each layer for the next; elsewhere nothing happens.

    As `KEEP_BUFFERS` of `lib/runner.py`, for a process that somebody else has started.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for option, n_bytes in ((M_MMAP_THRESHOLD, 2**30), (M_TRIM_THRESHOLD, 2**31 - 1)):
            libc.mallopt(option, n_bytes)


def ensemble(members: Sequence[VLM]) -> VLM:
    """Several VLMs as one: features concatenated, probabilities averaged.

    Each member keeps its own input size, normalisation and logit scale; tiles are read at the
    largest size. `embed_tiles` also writes on which tiles the members agree. VLM-CPL's code has
    such an average of PLIP and BiomedCLIP, switched off.
    """
    return replace(
        members[0],
        name="+".join(member.name for member in members),
        model=None,
        image_size=max(member.image_size for member in members),
        ensemble_members=tuple(members),
        sizes=tuple(feature_sizes(member)[1] for member in members),
    )


def with_encoder(vlm: VLM, encoder: VLM) -> VLM:
    """A VLM whose backbone features are another encoder's; prompts meet its own embeddings.

    So zero-shot labels, votes and the published filters' clusters are the VLM's, while our clusters
    and the heads read the encoder. Tiles and views are read at the larger of the two sizes; each
    tower gets the same view at its own size and normalisation. encoder: of
    `encoders.load_encoder`.
    """
    return replace(
        ensemble(vlm.members),
        name=f"{vlm.name}@{encoder.name}",
        image_size=max(vlm.image_size, encoder.image_size),
        encoder=encoder,
    )


def weights_digest(model: VLM) -> str:
    """Digest of the image encoders' weights: the same name can be another model elsewhere."""
    content = blake2b(digest_size=16)
    for tower in model.towers:
        for name, tensor in sorted(tower.model.visual.state_dict().items()):
            content.update(name.encode())
            content.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return content.hexdigest()


@torch.inference_mode()
def embed_prompts(vlm: VLM, prompts: Sequence[Sequence[str]]) -> torch.Tensor:
    """Text features of the classes, float32 [C, D], L2-normalised.

    prompts: one or more per class; the normalised embeddings of a class are averaged and normalised
    again. An ensemble's are those of its members, concatenated. Raises ValueError when a class has
    no prompt, for a prompt that is longer than the model reads, and for two prompts of different
    classes that differ in nothing that it reads.
    """
    if vlm.ensemble_members:
        return torch.cat([embed_prompts(member, prompts) for member in vlm.ensemble_members], dim=1)
    for c, class_prompts in enumerate(prompts):
        if not class_prompts:
            raise ValueError(f"class {c} has no prompt")
    tokens = [
        tokens_of(vlm.tokenizer, class_prompts, f"{vlm.name}, class {c}")
        for c, class_prompts in enumerate(prompts)
    ]
    refuse_alike(vlm.tokenizer, prompts, vlm.name)
    embedded = vlm.model.encode_text(torch.cat(tokens).to(vlm.device), normalize=True).float()
    per_class = embedded.split([len(class_prompts) for class_prompts in prompts])
    means = [features.mean(0) for features in per_class]
    return F.normalize(torch.stack(means), dim=-1)


@torch.no_grad()  # inference mode with autocast was measured to halve the speed of a ViT-B/32
def encode_images(vlm: VLM, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode images: backbone features [B, E] and image embeddings [B, D], float32.

    pixels: float [B, 3, s, s] in 0 … 1; normalised here as the model wants it. The backbone
    features are those before the linear map to the text space; where a model has no such map that
    can be told apart, they are the embeddings, which are L2-normalised. An ensemble's are
    those of its members, concatenated, each with the same norm; see also `with_encoder`.
    """
    if vlm.ensemble_members:
        return _encode_with_members(vlm, pixels)
    mean = torch.tensor(vlm.mean, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(vlm.std, device=pixels.device).view(3, 1, 1)
    batch = ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)
    visual = vlm.model.visual
    with torch.autocast(vlm.device.type, vlm.dtype, enabled=vlm.dtype is not torch.float32):
        if hasattr(visual, "trunk"):  # a timm tower
            backbone_features = visual.trunk(batch)
            image_embeds = visual.head(backbone_features)
        else:
            backbone_features = image_embeds = _before_projection(visual, batch)
            if getattr(visual, "proj", None) is not None:  # a vision transformer
                image_embeds = backbone_features @ visual.proj.to(backbone_features.dtype)
    return backbone_features.float(), F.normalize(image_embeds.float(), dim=-1)


def _encode_with_members(vlm: VLM, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    encoded = [
        encode_images(member, views.resize(pixels, member.image_size)) for member in vlm.members
    ]
    backbone_features = torch.cat([F.normalize(before, dim=-1) for before, _ in encoded], dim=1)
    if vlm.encoder:
        own = views.resize(pixels, vlm.encoder.image_size)
        backbone_features, _ = encode_images(vlm.encoder, own)
    return backbone_features, torch.cat([after for _, after in encoded], 1) / len(encoded) ** 0.5


def _before_projection(visual: Any, batch: torch.Tensor) -> torch.Tensor:
    """Pooled features; CoCa's towers return them with tokens."""
    projection = getattr(visual, "proj", None)
    if projection is not None:
        visual.proj = None
    try:
        output = visual(batch)
    finally:
        if projection is not None:
            visual.proj = projection
    return output[0] if isinstance(output, tuple) else output


def class_probabilities(vlm: VLM, image_embeds: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """p(c|x) = softmax_c(s · cos(f(x), g(T_c))): float32 [B, C] from [B, D] and [C, D].

    For an ensemble the average of its members.
    """
    return member_probabilities(vlm, image_embeds, text).mean(0)


def member_probabilities(vlm: VLM, image_embeds: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """`class_probabilities` by each of the M members, [M, B, C]; M is 1 but for `ensemble`."""
    sizes = vlm.sizes or (text.shape[1],)
    length = len(sizes) ** 0.5  # undoes that of `encode_images`
    split = zip(vlm.members, image_embeds.split(sizes, 1), text.split(sizes, 1), strict=True)
    return torch.stack(
        [
            torch.softmax(length * member.scale * images @ prompts.T, dim=-1)
            for member, images, prompts in split
        ]
    )


def embed_tiles(
    vlm: VLM,
    pixels_file: Path,
    text: Texts,
    run: Path,
    *,
    tiles: np.ndarray | None = None,
    batch_size: int = 64,
) -> None:
    """Embed and classify decoded tiles, without augmentation (zero-shot inference).

    Parameters
    ----------
    pixels_file : decoded tiles, uint8 [N, S, S, 3]
    tiles : their numbers, where these are not all
    text : [C, D] from `embed_prompts`; of several sets of prompts by name, probs and agree are
        written to the folder `run/<name>`
    run : gets image_embeds.npy [N, D] float16 (projected, L2-normalised), backbone_features.npy
        [N, E] float16 (before the projection), probs.npy [N, C] float32 and agree.npy [N] bool,
        whether all members of an ensemble predict the same class (true for one VLM)
    """
    if tiles is None:
        tiles = np.arange(len(np.load(pixels_file, mmap_mode="r", allow_pickle=False)))
    backbone_size, size = feature_sizes(vlm)
    with _NewArrays() as arrays:
        all_backbone = arrays.add(run / "backbone_features.npy", (len(tiles), backbone_size), "f2")
        all_embeds = arrays.add(run / "image_embeds.npy", (len(tiles), size), "f2")
        outputs = [
            (
                classes,
                arrays.add(folder / "probs.npy", (len(tiles), len(classes)), "f4"),
                arrays.add(folder / "agree.npy", (len(tiles),), "?"),
            )
            for folder, classes in _folders(run, text)
        ]
        for idx, images in _batches(vlm, pixels_file, tiles, batch_size):
            plain = views.plain_view(images, vlm.image_size)
            backbone_features, image_embeds = encode_images(vlm, plain)
            all_backbone[idx] = backbone_features.cpu()
            all_embeds[idx] = image_embeds.cpu()
            for classes, all_probs, all_agree in outputs:
                probs = member_probabilities(vlm, image_embeds, classes)
                all_probs[idx] = probs.mean(0).cpu()
                all_agree[idx] = (probs.argmax(2) == probs[0].argmax(1)).all(0).cpu()


def embed_views(
    vlm: VLM,
    pixels_file: Path,
    tiles: np.ndarray,
    text: Texts,
    run: Path,
    *,
    n_views: int,
    seed: int,
    hue: float = 0.05,
    batch_size: int = 64,
) -> None:
    """Embed and classify V random views of each tile (VLM-CPL, multi-view consensus).

    Parameters
    ----------
    tiles : [N], tile numbers, which are rows of the pixels
    text : as for `embed_tiles`; a view is encoded once for all sets of prompts
    run : gets view_features.npy [V, N, E] float16 (before the projection), their means
        mean_features.npy [N, E] float16, votes.npy [V, N] int16 (argmax of each view) and
        view_probs.npy [N, C] float32 (mean over the views)
    hue : see `views.random_view`
    """
    shape = (n_views, len(tiles))
    with _NewArrays() as arrays:
        size = feature_sizes(vlm)[0]
        all_features = arrays.add(run / "view_features.npy", (*shape, size), "f2")
        all_means = arrays.add(run / "mean_features.npy", (len(tiles), size), "f2")
        outputs = [
            (
                classes,
                arrays.add(folder / "votes.npy", shape, "i2"),
                arrays.add(folder / "view_probs.npy", (len(tiles), len(classes)), "f4"),
            )
            for folder, classes in _folders(run, text)
        ]
        for idx, images in _batches(vlm, pixels_file, tiles, batch_size):
            mean = torch.zeros(len(idx), size, device=vlm.device)
            sums = [torch.zeros(len(idx), len(c), device=vlm.device) for c, _, _ in outputs]
            for view in range(n_views):
                pixels = views.random_view(
                    images, vlm.image_size, tiles=tiles[idx], view=view, seed=seed, hue=hue
                )
                backbone_features, image_embeds = encode_images(vlm, pixels)
                all_features[view, idx] = backbone_features.cpu()
                mean += backbone_features / n_views
                for (classes, all_votes, _), total in zip(outputs, sums, strict=True):
                    probs = class_probabilities(vlm, image_embeds, classes)
                    all_votes[view, idx] = probs.argmax(1).cpu()
                    total += probs / n_views
            all_means[idx] = mean.cpu()
            for (_, _, mean_probs), total in zip(outputs, sums, strict=True):
                mean_probs[idx] = total.cpu()


def _batches(vlm: VLM, pixels_file: Path, tiles: np.ndarray, batch_size: int) -> Iterator:
    with tqdm(total=len(tiles), desc="embedding", unit="tile") as bar:
        for idx, images in read_batches(pixels_file, tiles, batch_size, vlm.device):
            yield idx, images
            bar.update(len(idx))


def is_embedded(run: Path) -> bool:
    """Whether `run` holds what `embed_tiles` and `embed_views` write for one set of prompts."""
    names = ("image_embeds", "view_features", "votes", "view_probs")
    return all((run / f"{name}.npy").is_file() for name in names)


def _folders(run: Path, text: Texts) -> list[tuple[Path, torch.Tensor]]:
    """The folder of each set of prompts; of one alone it is `run` itself."""
    named = text if isinstance(text, Mapping) else {"": text}
    return [(run / name, classes) for name, classes in named.items()]


def vote(
    vlm: VLM, pixels_file: Path, tiles: np.ndarray, text: torch.Tensor, **kwargs: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Votes [V, N] and mean probabilities [N, C] of random views whose features are not kept.

    See `embed_views` for the arguments.
    """
    with scratch_folder() as folder:
        embed_views(vlm, pixels_file, tiles, text, folder, **kwargs)
        votes, view_probs = (
            np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("votes", "view_probs")
        )
    return votes, view_probs


def feature_sizes(vlm: VLM) -> tuple[int, int]:
    """Sizes E and D of the backbone features and the image embeddings."""
    pixel_size = (1, 3, vlm.image_size, vlm.image_size)
    backbone_features, image_embeds = encode_images(vlm, torch.zeros(pixel_size, device=vlm.device))
    return backbone_features.shape[1], image_embeds.shape[1]


class _NewArrays(ExitStack):
    """Arrays on disk that all take their names when the block ends without an error."""

    def add(self, file: Path, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        temporary = self.enter_context(atomic(file))
        return new_array(temporary, shape, dtype)

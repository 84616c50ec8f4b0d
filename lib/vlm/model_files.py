"""Files of models that others made: read as data; nothing in them is ever run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

RECIPE = "recipe.json"  # of a stand-in: what it was built from
LARGEST = 2**22  # bytes of a configuration
TIMEOUT = 10  # seconds, of a question to the hub
# In these transformers looks for the name of a Python file of the same folder or repository.
CODE = {"auto_map", "trust_remote_code"}
TOKENIZER_CONFIGS = (
    "config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
TOKENIZER_DATA = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
CONVERT = (
    "Weights as .bin or .pt are pickles, which can hold code, and are not opened. If you trust "
    'where yours are from, convert them once, in a folder of your own: python -c "import torch, '
    "safetensors.torch as s; w = torch.load('{old}', map_location='cpu', weights_only=True); "
    "s.save_file({{n: t.contiguous().clone() for n, t in w.items()}}, '{new}')\""
)


class Refused(ValueError):
    """Files of a model that are not opened; the message names the file and what is wrong."""


def read_json(file: Path, *, code_is_left: bool = False) -> dict[str, Any]:
    """The fields of a configuration.

    code_is_left: whether the code that it names may be left aside, where an adapter takes its
    place. Raises Refused naming the file when it is not JSON with named fields, when it is larger
    or deeper than any configuration, and when it names code to be run; and FileNotFoundError.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    with file.open("rb") as opened:
        content = opened.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise Refused(f"{file} is larger than {LARGEST:,} bytes")
    names = set[str]()

    def named(values: dict[str, Any]) -> dict[str, Any]:
        names.update(values)
        return values

    try:
        values = json.loads(content.decode(), object_hook=named)
    except RecursionError:
        raise Refused(f"{file} is nested too deeply") from None
    except UnicodeDecodeError:
        raise Refused(f"{file} is no JSON: it is not UTF-8") from None
    except ValueError as error:
        raise Refused(f"{file} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise Refused(f"{file} does not hold named fields")
    if not code_is_left and (code := sorted(names & CODE)):
        raise Refused(
            f"{file}: {code[0]} asks to run code that came with the model; no such code is run"
        )
    return values


def fields_of(config: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration class of transformers itself defines, without what all have in common.

    Among the rest are names of compiled kernels on the hub, which transformers would load.
    """
    import transformers

    general = {f.name for f in fields(transformers.PreTrainedConfig)} - {"is_encoder_decoder"}
    names = {f.name for f in fields(config)} - general
    return {name: value for name, value in values.items() if name in names}


def fetch(name: str | Path, patterns: Sequence[str], pickled: str = "") -> Path:
    """A folder as it is, or a `snapshot` of the hub."""
    return Path(name) if Path(name).is_dir() else snapshot(str(name), patterns, pickled)


def snapshot(repository: str, patterns: Sequence[str], pickled: str = "") -> Path:
    """The folder with those files of a repository on the hub, named after its commit.

    What is not in the cache yet is announced; the hub client's cache serves offline. pickled: a
    file of weights that is fetched as well where there are no safetensors.
    """
    from huggingface_hub import snapshot_download

    announce(repository, patterns)
    folder = Path(snapshot_download(repository, allow_patterns=list(patterns)))
    if pickled and not list(folder.glob("*.safetensors")):
        announce(repository, [pickled])
        snapshot_download(repository, allow_patterns=[pickled])
    return folder


def announce(repository: str, patterns: Sequence[str]) -> None:
    """Print what is about to be fetched: commit, size and licence as the hub has them.

    Nothing is printed of files in the cache, and where the hub does not answer.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.utils import filter_repo_objects

    try:
        info = HfApi().model_info(repository, files_metadata=True, timeout=TIMEOUT)
    except Exception:  # of many kinds; the cache has it, or the download says why not
        return
    named = {file.rfilename: file.size or 0 for file in info.siblings or []}
    wanted = filter_repo_objects(named, allow_patterns=list(patterns))
    cached = partial(try_to_load_from_cache, repository, revision=info.sha)
    if sizes := [named[name] for name in wanted if not isinstance(cached(name), str)]:
        licence = getattr(info.card_data, "license", None) or "not stated"
        print(
            f"download: {repository} of {constants.ENDPOINT}, {sum(sizes) / 1e6:,.1f} MB in "
            f"{len(sizes)} files, commit {info.sha}, licence there: {licence}",
            flush=True,
        )


def commit_of(repository: str) -> str:
    """The commit of a repository on the hub that the cache holds; empty without any."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repository, repo_type="model"))
    file = folder / "refs" / constants.DEFAULT_REVISION
    return file.read_text().strip() if file.is_file() else ""


def weights_in(folder: Path, names: Sequence[str], pickled: str = "") -> Path:
    """The first of these files of safetensors, else that pickle, if any is allowed.

    FileNotFoundError says how to make safetensors of one.
    """
    for name in [*names, pickled]:
        if name and (folder / name).is_file():
            return folder / name
    pickles = sorted(f.name for kind in ("*.bin", "*.pt", "*.pth") for f in folder.glob(kind))
    convert = CONVERT.format(old=(pickles or ["pytorch_model.bin"])[0], new=names[0])
    raise FileNotFoundError(f"there is no {' or '.join(names)} in {folder}. {convert}")


def copy_tokenizer(source: Path, folder: Path, *, model_type: str = "") -> None:
    """Put the files of a tokenizer that are data into a new folder.

    model_type: of transformers, in place of one that it does not know. Raises Refused where one
    names code to be run, and FileNotFoundError where there is none.
    """
    folder.mkdir()
    for name in TOKENIZER_CONFIGS:
        if model_type and name == "config.json":
            (folder / name).write_text(json.dumps({"model_type": model_type}))
        elif (source / name).is_file():
            values = read_json(source / name)
            if name == "config.json":  # which tokenizer goes with the model
                values = {n: values[n] for n in ("model_type", "tokenizer_class") if n in values}
            (folder / name).write_text(json.dumps(values))
    present = [name for name in TOKENIZER_DATA if (source / name).is_file()]
    if not present:
        raise FileNotFoundError(f"there is no tokenizer in {source}: {', '.join(TOKENIZER_DATA)}")
    for name in present:
        (folder / name).symlink_to((source / name).resolve())

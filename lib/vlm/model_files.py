"""Files of models that others made: read as data; nothing in them is ever run."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache, partial
from pathlib import Path
from typing import Any

RECIPE = "recipe.json"  # of a stand-in: what it was built from
LARGEST = 2**22  # bytes of a configuration
SLOWEST, MINUTE = 1000, 60  # bytes a second that a hub sends at least, over so many seconds
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

    What is not in the cache yet is announced; the hub client's cache serves offline, and where the
    hub does not answer. pickled: a file of weights that is fetched as well where there are no
    safetensors. Raises ConnectionError naming a hub that hangs, sends next to nothing or is none.
    """
    folder = _snapshot(repository, patterns)
    if pickled and not list(folder.glob("*.safetensors")):
        _snapshot(repository, [pickled])
    return folder


def _snapshot(repository: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    problem = announce(repository, patterns)
    cached: dict[str, Any] = {"local_files_only": True} if problem else {}
    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns), **cached))
    except LocalEntryNotFoundError as error:
        if problem:
            raise ConnectionError(problem) from error
        raise
    except (OSError, HFValidationError):  # among them what the hub itself answers
        raise
    except Exception as error:
        raise ConnectionError(_problem_of_hub(error)) from error


def announce(repository: str, patterns: Sequence[str]) -> str:
    """Print what is waited for, and what is about to be fetched as the hub has it.

    That is commit, size and licence; nothing is printed of files in the cache. Returns what is
    wrong with a hub that does not answer as one; empty where it does, or is not to be asked.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import filter_repo_objects

    limit_waiting()
    seconds = constants.HF_HUB_ETAG_TIMEOUT
    if not commit_of(repository) and not constants.HF_HUB_OFFLINE:
        print(f"download: waiting for {constants.ENDPOINT}, {seconds} s at most", flush=True)
    try:
        info = HfApi().model_info(repository, files_metadata=True, timeout=seconds)
    except (OSError, HFValidationError) as error:  # the download says it
        return str(error) if isinstance(error, TooSlow) else ""
    except Exception as error:  # of many kinds
        return _problem_of_hub(error)
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
    return ""


class TooSlow(ConnectionError):
    """A hub that sends next to nothing."""


@cache
def limit_waiting() -> None:
    """Let no question to the hub wait without bound, as some of its client's do.

    A request without a time limit of its own gets that of HF_HUB_DOWNLOAD_TIMEOUT, and an answer
    that comes slower than `SLOWEST` raises TooSlow.
    """
    from huggingface_hub import constants, get_session, set_client_factory

    def limit(request: Any) -> None:
        if not any(request.extensions.get("timeout", {}).values()):
            names = ("connect", "read", "write", "pool")
            request.extensions["timeout"] = dict.fromkeys(names, constants.HF_HUB_DOWNLOAD_TIMEOUT)

    def watch(response: Any) -> None:
        response.iter_raw = partial(_fast_enough, response.iter_raw, str(response.url))

    client = get_session()
    hooks: Any = {"request": [*client.event_hooks["request"], limit], "response": [watch]}
    set_client_factory(partial(type(client), event_hooks=hooks, follow_redirects=True))


def _fast_enough(parts: Any, address: str) -> Iterator[bytes]:
    began, arrived = time.monotonic(), 0
    for part in parts():
        yield part
        arrived += len(part)
        seconds = time.monotonic() - began
        if seconds > MINUTE:
            if arrived < SLOWEST * seconds:
                raise TooSlow(f"{address} sends less than {SLOWEST:,} bytes a second")
            began, arrived = time.monotonic(), 0


def _problem_of_hub(error: Exception) -> str:
    from huggingface_hub import constants

    if isinstance(error, ValueError | KeyError | TypeError):  # of what should have been its JSON
        return (
            f"{constants.ENDPOINT} does not answer as a model hub: is there a proxy, or a page to "
            "sign in, before it?"
        )
    return f"{constants.ENDPOINT} is out of reach: {str(error).strip() or type(error).__name__}"


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

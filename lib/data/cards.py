"""Dataset cards: what a dataset's classes, prompts, folders and groups are."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    TypeAdapter,
    ValidationError,
    with_config,
)
from pydantic_core import core_schema

from lib import paths
from lib.parameters import near_names
from lib.yaml_files import read_yaml

only = with_config(ConfigDict(extra="forbid"))


# --- what a field may hold -----------------------------------------------------------------------


def _is(pattern: str, what: str) -> AfterValidator:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{text[:100]!r} is no {what}")
        return text

    return AfterValidator(check)


def _fields(optional: str = "", /, **kinds: Any) -> GetPydanticSchema:
    """Says of a mapping which fields it has, of which kinds, and no others; "*": all optional."""

    def schema(_: Any, schema_of: Any) -> Any:
        each = {
            name: core_schema.typed_dict_field(
                schema_of(kind), required=name not in optional.split() and optional != "*"
            )
            for name, kind in kinds.items()
        }
        return core_schema.typed_dict_schema(each, extra_behavior="forbid")

    return GetPydanticSchema(schema)


# A card may come from anybody. Its paths lie below a folder and name nothing hidden, on any system.
PART = r"[^/\\:\x00-\x1f\x7f.~][^/\\:\x00-\x1f\x7f]*"
Text = Annotated[str, _is(r"(?s)(?=.*\S)[^\x00-\x08\x0e-\x1f\x7f]+", "text")]
Name = Annotated[str, _is(PART, "name")]
Inside = Annotated[str, _is(f"{PART}(/{PART})*", "path below its folder, such as 'a/b'")]
Beside = Annotated[str, _is(rf"{PART}\.csv", "CSV beside the card")]
Address = Annotated[str, _is("https?://[!-.0-~][!-~]*", "address of the web")]
Hash = Annotated[str, _is("md5:[0-9a-fA-F]{32}|sha256:[0-9a-fA-F]{64}", "md5:… or sha256:…")]
# A dataset's folder with it was made here, and may be made again (`datasets.made`).
Content = Annotated[Inside, _is("(?i)(?!(.*/)?recipe.json$).*", "name for what is fetched")]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Share = Annotated[Number, Field(ge=0, le=1)]
Mpp = Annotated[Number, Field(ge=0.05, le=2)]
Width = Annotated[Number, Field(ge=5, le=5000)]
Shift = Annotated[Number, Field(ge=0, le=10)]
Count = Annotated[int, Field(strict=True, ge=1, le=10**5)]
Few = Annotated[int, Field(strict=True, ge=1, le=100)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]
Side = Annotated[int, Field(strict=True, ge=1, le=1024)]

GROUP = _fields(
    "*",
    pattern=Annotated[Text, Field(max_length=200)],
    table=Inside,
    sample=Beside,
    column=Text,
    name=Text,
    relative_to=Inside,
    copies=Beside,
    **{"is": Text},
)
IMAGES = _fields("masks count", images=Inside, masks=Inside, count=Count)
PATCHING = _fields(
    size=Side,
    overlap=Annotated[int, Field(strict=True, ge=0)],
    tissue=Share,
    share=Share,
    above=Annotated[int, Field(strict=True, ge=0, le=255)],
    images=Annotated[list[Annotated[dict, IMAGES]], Field(min_length=1)],
)
SYNTHETIC = _fields(slides=Count, tiles=Count, size=Side, shift=Shift, seed=Seed)
SLIDES: Any = {"slides": Count, "islands": Few, "columns": Few, "side": Side, "seed": Seed}
DRAWN = _fields(
    others=list[Name],
    irrelevant=Share,
    mpp=Annotated[list[Mpp], Field(min_length=1)],
    shift=Shift,
    **SLIDES,
)
COMPOSED_TILES = _fields(tissue=dict[Name, Name], tiles=Count)
COMPOSED = _fields(tissue=dict[Name, Name], irrelevant=Share, mpp=Mpp, **SLIDES)
OF_SLIDES = _fields(
    "drawn composed",
    table=Inside,
    drawn=Annotated[dict, DRAWN],
    composed=Annotated[dict, COMPOSED],
)
ARCHIVE = _fields("url hash", contains=Content, url=Address, hash=Hash)


# --- a card --------------------------------------------------------------------------------------


@only
@dataclass(frozen=True)
class TissueClass:
    """One class: its name, its folder below the dataset's, its prompts.

    `captions` describe its tiles when the dataset is the source of a stand-in VLM.
    """

    name: Name
    folder: Inside
    prompts: Sequence[Text] = ()
    captions: Sequence[Text] = ()


@only
@dataclass(frozen=True)
class Card:
    """One dataset, as `data/cards/<name>.yaml` says.

    tiles: the file pattern inside a class folder.
    group: what must not straddle a split: `{table, column, relative_to}` (a CSV with a `path`
    column, or with the column of file names that `name` says), `{pattern}` (a regular expression on
    the file name with one group), or None (every tile is its own group). Its `is` says in a word
    what a group is; `groups_from` says where to get the table. `sample` in place of `table` is
    a CSV beside the card, and tiles that it does not name are left out. Besides, `copies` may be a
    CSV beside the card: pairs of file names, `tile` and `copy`, that show one picture, so that
    their groups are one group, by the smallest of their names.
    splits: the dataset's own division: for `train` and for `test` the folder that holds the class
    folders, or a JSON list of `{name, label}`; a class's `folder` is then its label there.
    patching: how the images of a dataset that has masks in place of class folders become tiles (the
    arguments of `data.prepare.patches.cut_images`).
    counts: the published numbers of tiles: of a class by its name, or for each of the `splits` a
    number or those of its classes.
    archives: what `make data` fetches, each with the file or folder that it `contains`;
    `access` is what else it takes to get the dataset.
    synthetic: the arguments of `synthetic.write_dataset` for a dataset that is generated.
    slides: of a dataset of whole slides, which has no tiles: `table`, a CSV below the folder with
    columns path and label (a class's `folder`), and perhaps case, mpp and fold; `drawn` or
    `composed`, the arguments of `synthetic_slides.write_synthetic_slides` for generated slides,
    or of `write_composed_slides` for those made of real tiles, by kind the card whose
    class of that name they are from.
    targets: the first of the classes, where active learning asks for these alone: tiles of all
    others are of no class to it.
    composed: of a dataset made of the tiles of others: `tissue`, by class folder the card that has
    a class of that name, and how many `tiles` of each are taken at most.
    other_tissue: what is in the slides and is no target class, in words for prompts.
    tile_um: width of a tile in µm, where the source says it.
    group_hash_range: two numbers, 0 to 1: takes only the groups whose name, hashed, lies between
    them. Datasets with ranges that do not overlap share no group.
    restain: how far the tiles move from the other laboratory of `lib.data.staining` (−1: to it)
    when they are decoded as the source of a stand-in VLM.
    joined: cards whose classes and tiles a stand-in VLM learns on beside those of this card.
    """

    name: str
    title: Text
    folder: Inside
    tiles: Inside
    classes: Sequence[TissueClass]
    licence: Text
    citation: Text
    source: Text
    group: Annotated[Mapping[str, str], GROUP] | None = None
    groups_from: Text = ""
    splits: Annotated[Mapping[str, str], _fields(train=Inside, test=Inside)] | None = None
    patching: Annotated[Mapping[str, Any], PATCHING] | None = None
    counts: Mapping[str, Any] | None = None
    archives: Sequence[Annotated[Mapping[str, str], ARCHIVE]] = ()
    access: Text = ""
    synthetic: Annotated[Mapping[str, Any], SYNTHETIC] | None = None
    slides: Annotated[Mapping[str, Any], OF_SLIDES] | None = None
    targets: Sequence[Name] = ()
    composed: Annotated[Mapping[str, Any], COMPOSED_TILES] | None = None
    other_tissue: Sequence[Text] = ()
    tile_um: Width | None = None
    group_hash_range: Annotated[Sequence[Share], Field(min_length=2, max_length=2)] = (0, 1)
    restain: Number = 0.0
    joined: Sequence[Name] = ()

    @property
    def class_names(self) -> list[str]:
        return [c.name for c in self.classes]

    @property
    def drawn(self) -> bool:
        """Whether the dataset is made here, so that nothing has to be found."""
        return self.synthetic is not None or "drawn" in (self.slides or {})

    @property
    def needs(self) -> list[str]:
        """Cards of the datasets that have to be found before this one can be used."""
        composed = self.composed or (self.slides or {}).get("composed")
        own = [] if self.drawn else [self.name] if composed is None else composed["tissue"].values()
        return list(dict.fromkeys([*own, *self.joined]))

    @property
    def shift(self) -> str:
        """`restain` by its name in `lib.data.shifts`."""
        return f"stain{self.restain:+g}" if self.restain else ""

    @property
    def published(self) -> dict[str, dict[str, int]]:
        """`counts` of each split ("" without splits), by class, or of "all" of it."""
        counts = self.counts or {}
        per_split = counts if self.splits else {"": counts}
        return {s: dict(c) if isinstance(c, Mapping) else {"all": c} for s, c in per_split.items()}


def read_card(dataset: str) -> Card:
    """The card of a dataset.

    Raises FileNotFoundError naming the nearest cards, and ValueError naming the file and the field
    that is missing, unknown or wrong.
    """
    file = paths.card_file(dataset)
    if not file.is_file():
        names = sorted(other.stem for other in file.parent.glob("*.yaml"))
        raise FileNotFoundError(f"there is no dataset {dataset!r}{near_names(dataset, names)}")
    card: Card = checked(Card, _read(file), str(file), name=dataset)
    for problem in _problems(card):
        raise ValueError(f"{file}: {problem}")
    return card


def card_files(dataset: str) -> list[Path]:
    """The card's file, and those of the cards that it extends or is made of."""
    waiting, files = [dataset], dict[str, Path]()
    while waiting:
        name = waiting.pop()
        if name not in files:
            files[name] = paths.card_file(name)
            base = read_yaml(files[name]).get("extends")
            waiting += [*reversed(read_card(name).needs), *([base] if base else [])]
    return list(files.values())


def beside(card: Card, name: str) -> Path:
    """A file beside the card."""
    return paths.card_file(card.name).with_name(name)


def groups_by_pattern(pattern: str, names: Sequence[str]) -> list[str | None]:
    """What the one group of a pattern holds in each name; None where it holds nothing.

    By RE2, whose time grows with the length of a name alone: there are patterns for which Python's
    own `re` needs years. Raises ValueError for a pattern that RE2 cannot read.
    """
    import pyarrow
    from pyarrow import compute

    texts = pyarrow.array(names, pyarrow.string())
    whole = f"^(?s:.*?)(?:{pattern})(?s:.*)$"
    held = compute.replace_substring_regex(texts, whole, r"\1").to_pylist()
    matched = compute.match_substring_regex(texts, pattern).to_pylist()
    return [(is_there and text) or None for text, is_there in zip(held, matched, strict=True)]


def _read(file: Path, extending: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Fields of a card; one that extends another has that one's fields but for its own."""
    values = read_yaml(file)
    if not isinstance(values, dict):
        raise ValueError(f"{file} must hold named fields")
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str) or not paths.card_file(base).is_file():
        raise ValueError(f"{file} extends {base!r}, which has no card")
    if paths.card_file(base) in (*extending, file):
        raise ValueError(f"{file} extends {base!r}, which extends it")
    return _read(paths.card_file(base), (*extending, file)) | values


def citation_lines(card: Card) -> str:
    """Title, licence, whom to cite and where it is from: three lines to show with a dataset."""
    return f"{card.title}\nLicence: {card.licence}\nCitation: {card.citation} From: {card.source}"


def checked(kind: Any, values: Any, where: str, **more: Any) -> Any:
    """A dataclass of the fields of a file, each of its type, and of `more`, which are not from it.

    Raises ValueError with `where` and the field that is missing, unknown or wrong.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where} must hold named fields")
    known = {field.name for field in fields(kind)} - set(more)
    for field in sorted(set(values) - known):
        raise ValueError(f"{where}: unknown field {field!r}. Valid: {', '.join(sorted(known))}")
    try:
        return _adapter(kind).validate_python(values | more)
    except ValidationError as error:
        first = error.errors()[0]
        field = ", ".join(str(p + 1) if isinstance(p, int) else p for p in first["loc"])
        problem = {
            "missing": "it is missing",
            "extra_forbidden": "unknown field",
            "unexpected_keyword_argument": "unknown field",
            "value_error": first["msg"].removeprefix("Value error, "),
        }.get(first["type"], f"{first['msg']}, not {repr(first['input'])[:80]}")
        raise ValueError(f"{where}: {field}: {problem}") from None


@cache
def _adapter(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind)


def _problems(card: Card) -> Iterator[str]:
    """What the fields of a card forbid each other."""
    group, patching, n_classes = card.group or {}, card.patching or {}, len(card.classes)
    if n_classes < 2:
        yield f"at least two classes are needed, it has {n_classes}"
    for texts in (card.class_names, [c.folder for c in card.classes]):
        counted = Counter(text.casefold() for text in texts)  # "A" and "a" may be one folder
        for text in [text for text, n in counted.items() if n > 1]:
            yield f"two classes have the name or folder {text!r}"
    if "pattern" in group:
        if {"table", "sample", "copies"} & set(group):
            yield "group, pattern excludes 'table', 'sample' and 'copies'"
        if not _has_one_group(group["pattern"]):
            yield "group, pattern must be a regular expression of RE2 with one group"
    elif card.group is not None and (
        "column" not in group or ("table" in group) == ("sample" in group)
    ):
        yield "group needs either 'pattern', or 'column' and one of 'table' and 'sample'"
    if patching and card.splits:
        yield "patching and splits exclude each other"
    if patching and n_classes != 2:
        yield f"patching gives two classes, classes has {n_classes}"
    if patching and 8 * patching["overlap"] > 7 * patching["size"]:
        yield "patching, overlap may be seven eighths of size at most"
    if {"drawn", "composed"} <= set(card.slides or {}):
        yield "slides are either drawn or composed"
    if card.class_names[: len(card.targets)] != list(card.targets):
        yield "targets must be the first of the classes, in their order"
    if card.group_hash_range[0] >= card.group_hash_range[1]:
        yield "group_hash_range must be two numbers that rise"
    if card.counts and card.splits and set(card.counts) != {"train", "test"}:
        yield "counts needs 'train' and 'test', as splits"
    else:
        for name, n in [item for counts in card.published.values() for item in counts.items()]:
            if name not in {"all", *card.class_names} or type(n) is not int or n < 0:
                yield f"counts has {name!r}: {n!r}, no class and its number"


def _has_one_group(pattern: str) -> bool:
    try:
        groups_by_pattern(pattern, [""])
        return re.compile(pattern).groups == 1
    except (ValueError, re.error):
        return False

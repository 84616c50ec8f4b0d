"""Tables as spreadsheets and people write them."""

from miniatures import CARD_FIELDS

from apps.slide_viewer import own_slides
from lib.csv_tables import read_table
from lib.data import cards
from lib.data.tiles import read_tile_table
from lib.slides.slide_table import read_slide_table

from .fault import Fault, put
from .slides import SLIDE

HEAD = "path,label\n"
# name, content, what is said
REFUSED = [
    ("empty", "", ["t.csv has no column 'path', 'label'", "none"]),
    ("a line break", "\n", ["has no column"]),
    ("no column", "path,class\na,b\n", ["t.csv has no column 'label'; its columns: path, class"]),
    ("no header", "a.png,fat\nb.png,fat\n", ["has no column 'path', 'label'", "a.png, fat"]),
    ("a title above", "Labels\n\npath,label\na,b\n", ["has no column 'path', 'label'"]),
    ("two columns of one name", "path,label,label\na,b,c\n", ["t.csv has two columns 'label'"]),
    ("too few cells", HEAD + "a\n", ["t.csv, line 2: 1 cells, where the header has 2"]),
    ("too many cells", HEAD + "a,b\nc,d,e\n", ["t.csv, line 3: 3 cells"]),
    ("a comma in a name", HEAD + "a, b.png,fat\n", ["t.csv, line 2: 3 cells"]),
    ("a decimal comma between commas", HEAD + "a,0,25\n", ["line 2: 3 cells"]),
    ("an open quote", HEAD + 'a,"b\nc,d\n', ["t.csv, line 2", "is a quote not closed?"]),
    ("text after a quote", HEAD + '"a" b,c\n', ["t.csv, line 2"]),
    (
        "cp1252",
        HEAD.encode() + "a,M\u00fcller\n".encode("cp1252"),
        ["line 2: the byte 0xfc", "UTF-8"],
    ),
    ("Latin-1 in the header", "pfad\u00e4,label\n".encode("latin-1"), ["line 1: the byte 0xe4"]),
    (
        "Mac Roman",
        HEAD.encode() + "a,M\u00fcller\n".encode("mac-roman"),
        ["t.csv, line 2: the byte"],
    ),
    (
        "Shift JIS",
        HEAD.encode() + "a,\u8102\u80aa\n".encode("shift-jis"),
        ["t.csv, line 2: the byte"],
    ),
    ("UTF-16 without its mark", (HEAD + "a,b\n").encode("utf-16-le"), ["t.csv, line 1: the byte"]),
    ("UTF-32", (HEAD + "a,b\n").encode("utf-32"), ["t.csv, line 1: the byte"]),
    ("half of UTF-16", (HEAD + "a,b\n").encode("utf-16")[:-1], ["t.csv, line"]),
    ("NUL", HEAD + "a,b\0\n", ["t.csv, line 2: the byte 0x00"]),
    (
        "a workbook",
        b"PK\x03\x04\x14\0\x06\0\x08\0" + bytes(range(256)),
        ["t.csv is a workbook or an archive: save the table as CSV"],
    ),
    ("an old workbook", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", ["t.csv is a workbook"]),
    ("parquet", b"PAR1\x15\0\x15\0PAR1", ["t.csv"]),
    ("a page", "<!DOCTYPE html>\n<html></html>\n", ["has no column", "<!DOCTYPE html>"]),
    ("JSON", '[{"path": "a", "label": "b"}]', ["has no column"]),
    ("a picture", b"\x89PNG\r\n\x1a\n\0\0", ["t.csv, line 1: the byte 0x89"]),
    ("a thousand columns", ",".join(map(str, range(1000))), ["has no column", "0, 1, 2"]),
    ("a cell of a megabyte", HEAD + "a," + "x" * 2**20 + "\n", ["t.csv, line 2", "field limit"]),
    ("a thousand bad lines", HEAD + "a\n" * 1000, ["line 2: 1 cells", "and 990 more"]),
    ("100 MB", lambda file: file.open("wb").truncate(101 * 2**20), ["larger than 100 MB"]),
]
TAKEN = [
    ("semicolons", "path;label\na;b\n"),
    ("tabs", "path\tlabel\na\tb\n"),
    ("a spreadsheet's first line", "sep=;\npath;label\na;b\n"),
    ("a byte-order mark", "\ufeff" + HEAD + "a,b\n"),
    ("UTF-16", (HEAD + "a,b\n").encode("utf-16")),
    ("capitals", "Path,LABEL\na,b\n"),
    ("spaces", " path , label \n a , b \n"),
    ("Windows' line ends", "path,label\r\na,b\r\n"),
    ("an old Mac's line ends", "path,label\ra,b\r"),
    ("empty lines", "\n\npath,label\n\na,b\n\n"),
    ("empty cells at the end", "path,label,,\na,b,,\n"),
    ("no line end", HEAD + "a,b"),
    ("other columns first", "id,path,x,label\n1,a,2,b\n"),
]


def table(folder):
    rows = read_table(folder / "t.csv", ("path", "label"))
    return f"{len(rows)} lines, {rows.path[0]} {rows.label[0]}"


def mpp(folder):
    table, _ = own_slides.list_slides(folder / "slides", folder / "t.csv")
    return str(table.mpp.tolist())


def given_mpp(lines):
    return put({"slides/a.tif": SLIDE, "t.csv": lines})


# Of the µm per pixel of slides.
MPP = [
    ("a word", "path,mpp\na.tif,fine\n", ["t.csv, line 2: mpp: 'fine' is no number"]),
    ("NaN", "path,mpp\na.tif,nan\n", ["line 2: mpp: 'nan' is no number"]),
    ("infinite", "path,mpp\na.tif,1e999\n", ["line 2: mpp: '1e999' is no number"]),
    ("zero", "path,mpp\na.tif,0\n", ["line 2: mpp is 0, not in 0.05 … 10.0"]),
    ("below zero", "path,mpp\na.tif,-0.5\n", ["line 2: mpp is -0.5, not in"]),
    ("a magnification", "path,mpp\na.tif,40\n", ["line 2: mpp is 40, not in"]),
    ("nanometres", "path,mpp\na.tif,250\n", ["line 2: mpp is 250, not in"]),
    ("with its unit", "path,mpp\na.tif,0.25 um\n", ["line 2: mpp: '0.25 um' is no number"]),
    ("twice", "path,mpp\na.tif,0.25\n./a.tif,0.5\n", ["line 3: './a.tif' is listed twice"]),
    ("no such slide", "path,mpp\nb.tif,0.25\n", ["line 2: names 'b.tif', which is no slide"]),
    ("a path from the root", "path,mpp\n/x/a.tif,0.25\n", ["line 2: names '/x/a.tif'"]),
    ("thousands", 'path,mpp\na.tif,"1,000.5"\n', ["line 2: mpp: '1,000.5' is no number"]),
    (
        "no column",
        "path,resolution\na.tif,1\n",
        ["t.csv has neither a column 'mpp' nor a column 'case'"],
    ),
]


def card(**changes):
    """The card "toy" with these fields."""
    return cards.checked(cards.Card, CARD_FIELDS | changes, "toy.yaml", name="toy")


def groups(folder):
    rule = {"table": "t.csv", "column": "case"}
    return str(read_tile_table(card(group=rule), folder / "toy").group.tolist())


def labelled_slides(folder):
    return str(len(read_slide_table(card(slides={"table": "t.csv"}), folder / "toy")))


TOY = {f"toy/{name}/{n}.png": "tile" for name in "xy" for n in range(2)}
LINES = "path,case\nx/0.png,1\nx/1.png,1\ny/0.png,2\n"
GROUPS = [
    ("a tile without a group", LINES, ["t.csv gives no group to 1 tiles, first: y/1.png"]),
    (
        "a tile that is not there",
        LINES + "y/1.png,2\nz.png,3\n",
        ["names 1 absent tiles", "line 6"],
    ),
    ("a tile twice", LINES + "x/0.png,3\n", ["t.csv, line 5: two rows have 'x/0.png', see line 2"]),
    ("an empty group", LINES + "y/1.png,\n", ["t.csv, line 5: no case"]),
    ("an empty path", LINES + ",2\n", ["t.csv, line 5: no path"]),
    ("a tile elsewhere", LINES + "../y/1.png,2\n", ["names 1 absent tiles"]),
]
SLIDES = [
    (
        "an unknown label",
        "path,label\na.tif,z\n",
        ["line 2: a.tif has the unknown label 'z'", "x, y"],
    ),
    ("an absent slide", "path,label\nb.tif,x\n", ["line 2: names the absent slide 'b.tif'"]),
    ("a fold that is none", "path,label,fold\na.tif,x,one\n", ["line 2: 'one' is no fold"]),
    ("a fold below zero", "path,label,fold\na.tif,x,-1\n", ["line 2: '-1' is no fold"]),
    ("a slide twice", "path,label\na.tif,x\na.tif,y\n", ["line 3: 'a.tif' is listed twice"]),
    ("no label", "path,label\na.tif,\n", ["line 2: a.tif has the unknown label ''"]),
]
FAULTS = [Fault("tables", n, put({"t.csv": c}), table, says) for n, c, says in REFUSED]
FAULTS += [Fault("tables", n, put({"t.csv": c}), table, ["1 lines, a b"], False) for n, c in TAKEN]
FAULTS += [Fault("tables", f"\u00b5m/px: {n}", given_mpp(c), mpp, says) for n, c, says in MPP]
FAULTS += [
    Fault(
        "tables",
        "\u00b5m/px: a decimal comma",
        given_mpp("path;mpp\na.tif;0,25\n"),
        mpp,
        ["[0.25]"],
        False,
    )
]
FAULTS += [
    Fault("tables", f"groups: {n}", put(TOY | {"toy/t.csv": c}), groups, says)
    for n, c, says in GROUPS
]
FAULTS += [
    Fault(
        "tables", f"slides: {n}", put({"toy/a.tif": SLIDE, "toy/t.csv": c}), labelled_slides, says
    )
    for n, c, says in SLIDES
]
FAULTS += [
    Fault("tables", "groups: no table", put(TOY), groups, ["the group table", "t.csv is missing"]),
    Fault("tables", "slides: no table", put(TOY), labelled_slides, ["toy: the table of slides"]),
]

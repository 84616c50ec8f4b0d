"""Tables that people give: read as the text that they hold, or refused by file, line and column."""

import pytest

from lib.csv_tables import MAX_BYTES, number, path_key, read_table, refuse

WORDS = ["0", "1", "0;1", "None", "NA", "nan", "True", "3/4/5", "007", "1e5", "~", "=1+1"]


@pytest.fixture
def read(tmp_path):
    file = tmp_path / "table.csv"

    def written(content):
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_table(file, ("path", "label"), ("seconds",))

    return written


def test_every_cell_is_the_text_that_stands_there(read):
    table = read("path,label\n" + "".join(f"{n}.png,{word}\n" for n, word in enumerate(WORDS)))
    assert table.label.tolist() == WORDS
    assert table.line.tolist() == [*range(2, 2 + len(WORDS))]
    assert list(table) == ["path", "label", "line"]


def test_a_table_reads_the_same_however_a_spreadsheet_wrote_it(read):
    plain = "path,label,seconds\nä b.png,0,1\n\nb.png,1,\n"
    semicolons = plain.replace(",", ";")
    forms = {
        "plain": plain,
        "semicolons": semicolons,
        "tabs": plain.replace(",", "\t"),
        "mark": "\ufeff" + plain,
        "UTF-16": plain.encode("utf-16"),
        "UTF-16 of the other order": b"\xfe\xff" + plain.encode("utf-16-be"),
        "Windows": plain.replace("\n", "\r\n"),
        "old Macintosh": plain.replace("\n", "\r"),
        "capitals": plain.replace("path,label,seconds", "Path, LABEL ,Seconds"),
        "spaces": plain.replace(",", " , "),
        "quotes": '"path";"label";"seconds"\n"ä b.png";"0";"1"\n\n"b.png";"1";""\n',
        "empty rows and columns": "path;label;seconds;\nä b.png;0;1;\n;;;\nb.png;1;;;;\n",
    }
    expected = [("ä b.png", "0", "1", 2), ("b.png", "1", "", 4)]
    for form, content in forms.items():
        assert [*read(content).itertuples(index=False, name=None)] == expected, form
    with_sep = read("sep=;\r\n" + semicolons)
    assert with_sep.line.tolist() == [3, 5] and with_sep.label.tolist() == ["0", "1"]


def test_a_line_break_in_quotes_moves_no_line_number(read):
    table = read('path,label\n"a\n\nb.png",x\nc.png,y\n')
    assert table.path.tolist() == ["a\n\nb.png", "c.png"] and table.line.tolist() == [2, 5]


REFUSED = {
    "has no column 'label'; its columns: path, class": "path,class\na,b\n",
    "has no column 'path', 'label'; its columns: none": "",
    "has two columns 'label'": "path,label,Label\na,b,c\n",
    "line 3: the byte 0xfc is no text in UTF-8.*cp1252": b"path,label\na,b\nc,Dr\xfcse\n",
    "line 1: the byte 0x00 is no text": "path,label\na,b\n".encode("utf-16-le"),
    "line 2: the byte 0x00 is no text": "path,label\na,b\0\n",
    "line 2: 1 cells, where the header has 2; line 4: 3 cells": "path,label\na\nb,c\nd,e,f\n",
    "line 3: .*is a quote not closed": 'path,label\na,b\n"c,d\ne,f\n',
    "line 2: .*is a quote not": 'path,label\n"a,b\n"c",d\n',
    "line 2: field larger than field limit": 'path,label\na,"' + "b" * 200_000,
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_no_table_is_refused_by_file_and_line(read, message):
    with pytest.raises(ValueError, match=rf"table\.csv.*{message}"):
        read(REFUSED[message])


def test_all_bad_lines_are_named_at_once_up_to_ten_and_a_count(read):
    with pytest.raises(ValueError) as refused:
        read("path,label\n" + "a\n" * 25)
    message = str(refused.value)
    assert all(f"line {line}: " in message for line in range(2, 12))
    assert "line 12" not in message and message.endswith("and 15 more")
    refuse("nothing", [])


def test_a_table_is_a_file_of_bounded_size(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        read_table(tmp_path, ("path",))
    with (tmp_path / "huge.csv").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ValueError, match=r"huge\.csv is larger than 100 MB"):
        read_table(tmp_path / "huge.csv", ("path",))


def test_a_number_has_a_point_or_a_comma_and_is_finite():
    texts = ("2", "-0.5", "0,25", "1e3", "+.5", "3.")
    assert [number(text, "") for text in texts] == [2, -0.5, 0.25, 1000, 0.5, 3]
    for text in ("", "two", "nan", "inf", "1e999", "1_0", "1.000,5", "1,000,5", "٣", "0x1"):
        with pytest.raises(ValueError, match=r"line 3, mpp: .* is no number"):
            number(text, "line 3, mpp")


def test_spellings_of_one_path_have_one_key():
    for path in ("a/ä.png", "./a/ä.png", "a//ä.png", "a\\ä.png", "a/b/../ä.png", " a/a\u0308.png "):
        assert path_key(path) == "a/ä.png"
    others = ("", "A/ä.png", "/a/ä.png", "../a/ä.png", "~/a/ä.png", "a/a.png")
    assert len({path_key(path) for path in (*others, "a/ä.png")}) == len(others) + 1

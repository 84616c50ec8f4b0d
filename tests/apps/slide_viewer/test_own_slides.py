"""The slides of a user's folder, and what is said of them."""

import pandas as pd
import pytest
from slides.made_up_slides import piece, tissue_slide, write_dicom

from apps.slide_viewer import own_slides, slide_labels
from lib.alarm import Alarm
from lib.slides.cohort import Cohort
from lib.slides.slide_table import TISSUE


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "c"
    (folder / "more").mkdir(parents=True)
    tissue_slide(folder / "b.tif", lambda pen: piece(pen, (60, 80, 520, 500)))
    for path in ("more/a.tif", "silent.tif"):
        (folder / path).write_bytes((folder / "b.tif").read_bytes())
    (folder / "notes.txt").write_text("no slide")
    return folder


def test_slides_of_a_folder_are_listed_without_a_table(folder, tmp_path):
    table, left_out = own_slides.list_slides(folder)
    assert table.path.tolist() == ["b.tif", "more/a.tif", "silent.tif"]
    assert table.name.tolist()[1] == "a" and table.label.unique().tolist() == [-1]
    assert left_out.keys() == {"notes.txt"}
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        own_slides.list_slides(tmp_path / "nowhere")
    for path in table.path:
        (folder / path).unlink()
    with pytest.raises(ValueError, match="holds 1 files, and none is a slide"):
        own_slides.list_slides(folder)


def test_cases_are_named_by_a_table_or_are_folders_and_any_other_slide_is_its_own(folder, tmp_path):
    listed = tmp_path / "cases.csv"
    listed.write_text("path,Case\nb.tif,p 1\n./silent.tif,p 1\n")
    of = {"table": (listed, False), "folders": (None, True), "both": (listed, True)}
    found = {k: own_slides.list_slides(folder, t, by_folder=f)[0].group for k, (t, f) in of.items()}
    assert found["table"].tolist() == ["p 1", "more/a.tif", "p 1"]
    assert found["folders"].tolist() == ["b.tif", "more", "silent.tif"]
    assert found["both"].tolist() == ["p 1", "more", "p 1"]
    assert own_slides.list_slides(folder)[0].group.tolist() == ["b.tif", "more/a.tif", "silent.tif"]
    listed.write_text("path,cases\nb.tif,p 1\n")
    with pytest.raises(ValueError, match=r"cases\.csv has neither a column 'mpp' nor .*'case'"):
        own_slides.list_slides(folder, listed)


def test_all_errors_of_a_table_of_micrometres_are_named_at_once(folder, tmp_path):
    listed = tmp_path / "mpp.csv"
    lines = [
        *("path;mpp", "silent.tif;0,25", "./silent.tif;0,5", "gone.tif;1", "more/a.tif;word"),
        *("b.tif;nan", "../c/b.tif;1e9", f"{folder}/b.tif;-1"),
    ]
    listed.write_text("\n".join(lines))
    with pytest.raises(ValueError) as refused:
        own_slides.list_slides(folder, listed)
    for said in (
        *("line 3: './silent.tif' is listed twice", "line 4: names 'gone.tif', which is no slide"),
        *("line 5: mpp: 'word' is no number", "line 6: mpp: 'nan' is no number"),
        *("line 7: names", "line 7: mpp is 1e9", "line 8: names", "line 8: mpp is -1"),
    ):
        assert said in str(refused.value), said
    listed.write_text("\n".join(lines[:2]))
    assert own_slides.list_slides(folder, listed)[0].mpp.dropna().tolist() == [0.25]


def test_all_files_that_are_no_slides_are_left_out_by_name_and_reason(folder, tmp_path):
    (folder / "cut.svs").write_bytes((folder / "b.tif").read_bytes()[:100])
    for name in ("empty.tif", "picture.bmp", ".hidden", "two\nlines"):
        (folder / name).write_bytes(b"")
    (tmp_path / "elsewhere").mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "lost").symlink_to(tmp_path / "nowhere")
    _, left_out = own_slides.list_slides(folder)
    names = {"cut.svs", "empty.tif", "picture.bmp", "two�lines", "link", "lost", "notes.txt"}
    assert left_out.keys() == names and left_out["link"] == "a link to a folder is not followed"
    lines = own_slides.left_out_lines(left_out)
    assert len(lines) == 2 and all(line.startswith("left out: ") for line in lines)
    assert lines[0].startswith("left out: cut.svs, empty.tif, lost and 3 more: no slide that")


def test_a_slide_of_several_dicom_files_is_one(tmp_path):
    for series in "12":
        for level in (4, 2):
            write_dicom(tmp_path / f"{series}-{level}.dcm", f"1.2.{series}", level)
    (tmp_path / "thumbnail.jpg").write_bytes(b"")
    table, left_out = own_slides.list_slides(tmp_path)
    assert table.path.tolist() == ["1-2.dcm", "2-2.dcm"] and [*left_out] == ["thumbnail.jpg"]
    with Cohort(tmp_path, table, tmp_path, 32, 8.0).open(table.iloc[0]) as slide:
        assert slide.size == (1024, 1024) and len(slide.levels) == 2


def test_parts_of_a_mirax_or_hamamatsu_slide_are_not_left_out(tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    for name in ("m/Slidedat.ini", "m/Data0000.dat", "h-0.jpg", "other.jpg", "m.mrxs"):
        (tmp_path / name).write_text("x")
    (tmp_path / "h.vms").write_text("[Virtual Microscope Specimen]\nImageFile=h-0.jpg\n")
    # What it takes to be a whole slide of these formats is hundreds of megabytes.
    monkeypatch.setattr(
        own_slides.OpenSlide, "detect_format", lambda file: file.suffix in (".mrxs", ".vms")
    )
    table, left_out = own_slides.list_slides(tmp_path)
    assert table.path.tolist() == ["h.vms", "m.mrxs"] and [*left_out] == ["other.jpg"]


def test_a_slide_has_files_of_its_own_whatever_others_are_called(folder):
    long = f"{'l' * 120}.tif"
    more = ("b.tissue.tif", "x/a.tif", "x-a.tif", "A.tif", "b.svs", "é.tif", "e\u0301.tif", long)
    for path in more:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes((folder / "b.tif").read_bytes())
    table, _ = own_slides.list_slides(folder)
    assert len(table) == 11
    files = [name + end for name in table.name for end in (".h5", ".geojson", TISSUE)]
    assert len({file.casefold() for file in files}) == 3 * 11
    assert table.name[table.path == "silent.tif"].tolist() == ["silent"]
    assert table.name.map(len).max() < 100 and table.name.map(str.isascii).all()


def test_slides_that_failed_leave_the_cohort_and_are_named(tmp_path):
    table = pd.DataFrame({"slide": [0, 1, 2], "path": ["a.tif", "b.tif", "c.tif"]})
    report = pd.DataFrame(
        {"name": list("abc"), "anew": "", "without": "", "error": ["", "damaged", ""]}
    )
    cohort = Cohort(tmp_path, table, tmp_path, 32, 8.0)
    left, unread = own_slides.without_failed(cohort, report)
    assert left.table.path.tolist() == ["a.tif", "c.tif"] and left.table.slide.tolist() == [0, 1]
    assert unread == {"b.tif": "damaged"}
    with pytest.raises(ValueError, match=r"no slide could be read; left out: a\.tif, .*: damaged"):
        own_slides.without_failed(cohort, report.assign(error="damaged"))


def test_alarms_of_one_name_stand_together_with_their_advice_once():
    lacking = [Alarm("class without labels", f"{c}: 0 of 9. Label it.") for c in "ab"]
    lines = list(own_slides.alarm_lines([*lacking, Alarm("flat clusters", "a: flat. Look.")]))
    assert lines == [
        *("alarm: 3 in all", "alarm: class without labels. Label it."),
        *("alarm:   - a: 0 of 9", "alarm:   - b: 0 of 9"),
        *("alarm: flat clusters. Look.", "alarm:   - a: flat"),
    ]
    assert list(own_slides.alarm_lines([])) == ["no alarm"]


def test_words_are_the_users_or_those_of_a_card():
    prompts, others = own_slides.words("a; b = c | d", "fat; muscle", "some {}")
    assert prompts == {"a": ["some a"], "b": ["some c", "some d"]} and others == ["fat", "muscle"]
    assert len(own_slides.words("a; b", "", "")[1]) > 10


def test_features_of_others_are_a_folder_and_decide_tiles_and_encoder_alone(tmp_path, capsys):
    assert own_slides.given_folder("", "", "plip@uni2-h") is None
    assert own_slides.given_folder(str(tmp_path), "", "plip") == tmp_path
    assert "no views" in capsys.readouterr().out
    for tissue, vlm, named in (("t", "plip", "corrected tissue"), ("", "plip@uni2-h", "encoder")):
        with pytest.raises(ValueError, match=f"name no .*{named}"):
            own_slides.given_folder(str(tmp_path), tissue, vlm)
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        own_slides.given_folder(str(tmp_path / "nowhere"), "", "plip")


# --- an audit of slides --------------------------------------------------------------------------


SLIDES = pd.DataFrame({"path": [f"case {n % 7}/{n}.svs" for n in range(40)]})
CLASSES = ["adenoma", "none"]


def filled_in(file, label_of):
    """Labels as somebody writes them into the table that lies there, by the place of the line."""
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    table["label"] = [label_of.get(n, "") for n in range(len(table))]
    table.to_csv(file, index=False, sep=";")
    return slide_labels.read_labels(file, CLASSES)


def test_labels_from_the_top_of_the_table_are_an_audit_and_others_are_not(tmp_path):
    file, predicted = tmp_path / "x.csv", ["adenoma"] * 39 + [""]
    assert "none is shown" in slide_labels.audit_lines(SLIDES, predicted, {}, file)[0]
    slide_labels.write_table(file, SLIDES.path.tolist(), {})
    assert pd.read_csv(file).path.tolist() != SLIDES.path.tolist()
    said = {n: "adenoma" for n in range(12)} | {3: "none", 5: "none of these", 20: "adenoma"}
    (line,) = slide_labels.audit_lines(SLIDES, predicted, filled_in(file, said), file)
    assert "of 12 slides are correct" in line and "1 labels below a gap do not count" in line
    last = pd.read_csv(file, sep=";").path.tolist().index(SLIDES.path.iloc[-1])
    assert f"Audit: {10 - (last in said and last < 12)} of 12" in line


def test_new_slides_take_their_places_and_no_label_is_lost(tmp_path):
    file = tmp_path / "x.csv"
    slide_labels.write_table(file, SLIDES.path.tolist(), {})
    labels = filled_in(file, {n: "adenoma" for n in range(40)})
    fewer = [*SLIDES.path[5:], "new.svs"]
    slide_labels.write_table(file, fewer, labels)
    again = slide_labels.read_labels(file, CLASSES)
    assert again.pop("new.svs") == "" and again == labels
    more = pd.DataFrame({"path": fewer})
    place = sorted(fewer, key=pd.read_csv(file).path.tolist().index).index("new.svs")
    (line,) = slide_labels.audit_lines(more, ["adenoma"] * len(more), labels, file)
    assert f"of {place} slides are correct" in line if place else "Nobody has" in line


def test_a_table_of_labels_is_refused_with_all_its_wrong_lines(tmp_path):
    file = tmp_path / "x.csv"
    file.write_text("path,label\na.svs,adenoma\nb.svs,gland\n./a.svs,\n")
    with pytest.raises(ValueError) as refused:
        slide_labels.read_labels(file, CLASSES)
    for said in ("line 3: the class 'gland' is none of adenoma", "line 4: './a.svs' is listed twi"):
        assert said in str(refused.value), said

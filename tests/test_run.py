"""Artefacts appear whole or not at all; parameters are checked first; failures are named."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lib import paths, runner
from lib.artefacts import atomic

HEADER = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A toy

# %% tags=["parameters"]
dataset = "toy"  # a card
vlm = "none/at all"
seed = 0
rate = 0.5
share = -1
note = "plain"
tags = ["a", "b"]
"""


@pytest.fixture
def write_notebook(tmp_path, monkeypatch):
    """Write notebooks/<name>.py with a body; parameter files are looked up beside it."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setattr(paths, "params_file", lambda dataset: folder / "params" / f"{dataset}.yaml")

    def write(body="", name="10_toy", header=HEADER):
        file = folder / f"{name}.py"
        file.write_text(
            header + "".join(f"\n# %%\n{cell}\n" for cell in body.split("\n\n") if cell)
        )
        return file

    return write


def write_params(text, dataset="toy"):
    file = paths.params_file(dataset)
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)


def command(notebook, *given, start=subprocess.run, **options):
    """`python -m lib.runner` in a process of its own."""
    line = [sys.executable, "-m", "lib.runner", str(notebook)]
    for name, value in given:
        line += ["-p", name, value]
    return start(line, cwd=paths.ROOT, text=True, **options)


def listed(folder):
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*"))


# --- atomic --------------------------------------------------------------------------------------


def test_an_artefact_appears_when_it_is_complete(tmp_path):
    file = tmp_path / "new" / "file.txt"
    with atomic(file) as temporary:
        temporary.write_text("whole")
        assert temporary.parent == file.parent and not file.exists()
    assert file.read_text() == "whole" and listed(file.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("folder", [False, True])
def test_after_an_error_the_artefact_is_as_it_was(tmp_path, error, folder):
    place = tmp_path / "place"
    if folder:
        place.mkdir()
    file = place / "old.txt" if folder else place
    file.write_text("old")
    before = listed(tmp_path)
    with pytest.raises(error), atomic(place) as temporary:
        if folder:
            temporary.mkdir()
        (temporary / "new.txt" if folder else temporary).write_text("half")
        raise error
    assert file.read_text() == "old" and listed(tmp_path) == before


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    place = tmp_path / "place"
    (place / "deep").mkdir(parents=True)
    (place / "deep" / "old.txt").write_text("old")
    with atomic(place) as temporary:
        temporary.mkdir()
        (temporary / "new.txt").write_text("new")
        assert (place / "deep" / "old.txt").exists()
    assert listed(tmp_path) == ["place", "place/new.txt"]


def test_a_full_disk_names_the_artefact_and_leaves_nothing(tmp_path):
    with (
        pytest.raises(OSError, match=r"disk is full.*votes\.npy") as error,
        atomic(tmp_path / "votes.npy") as temporary,
    ):
        temporary.write_bytes(b"some")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert error.value.errno == errno.ENOSPC and not listed(tmp_path)


def test_another_system_error_is_left_as_it_is(tmp_path):
    with pytest.raises(PermissionError), atomic(tmp_path / "x"):
        raise PermissionError(errno.EACCES, "no")


def test_an_artefact_that_was_never_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "old"


# --- rows ----------------------------------------------------------------------------------------


def a_row(method="mvc", seed=0, accuracy=0.5, **fields):
    return record.row(dataset="toy", method=method, seed=seed, scores={"accuracy": accuracy}, **fields)


def test_a_row_has_every_field_and_says_what_made_it():
    row = a_row()
    assert list(row) == record.ROW_FIELDS
    assert row["budget"] is None and row["method"] == "mvc"
    assert {"python", "torch", "numpy"} <= set(row["versions"])


def test_an_unknown_field_is_a_type_error():
    with pytest.raises(TypeError, match="acuracy"):
        a_row(acuracy=1)


def test_rows_of_one_notebook_replace_only_its_own(tmp_path):
    record.write_rows(tmp_path, "12_pfc", [a_row("pfc")])
    record.write_rows(tmp_path, "11_mvc", [a_row("mvc", accuracy=0.1), a_row("zero-shot")])
    record.write_rows(tmp_path, "11_mvc", [a_row("mvc", accuracy=0.9)])
    rows = record.read_rows(tmp_path / "results.jsonl")
    assert [(r["method"], r["scores"]["accuracy"]) for r in rows] == [("mvc", 0.9), ("pfc", 0.5)]
    assert listed(tmp_path) == ["results.jsonl", "rows", "rows/11_mvc.jsonl", "rows/12_pfc.jsonl"]


def test_a_later_row_of_the_same_key_wins(tmp_path):
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    record.write_record(first, [a_row(accuracy=0.1), a_row(seed=1), a_row(params={"views": 3})])
    record.write_record(second, [a_row(accuracy=0.9)])
    rows = record.read_rows(first, second)
    found = {(r["seed"], str(r["params"])): r["scores"]["accuracy"] for r in rows}
    assert found == {(0, "None"): 0.9, (1, "None"): 0.5, (0, "{'views': 3}"): 0.5}
    assert len(record.read_rows(second, first)) == 3


@pytest.mark.parametrize("field", record.KEY_FIELDS)
def test_every_key_field_makes_another_key_and_no_other_does(field):
    row = a_row()
    assert record.row_key(row | {field: "other"}) != record.row_key(row)
    assert record.row_key(row | {"scores": {}, "seconds": 3, "device": "gpu", "n": 1}) == record.row_key(
        row
    )


def test_the_order_of_parameters_makes_no_other_key():
    one, other = {"a": 1, "b": 2}, {"b": 2, "a": 1}
    assert record.row_key(a_row(params=one)) == record.row_key(a_row(params=other))


def test_the_record_does_not_depend_on_the_order_of_its_rows(tmp_path):
    rows = [a_row(m, s) for m in ("b", "a") for s in (2, 1)]
    record.write_record(tmp_path / "one", rows)
    record.write_record(tmp_path / "other", rows[::-1])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_broken_line_is_named_by_file_and_number(tmp_path):
    file = tmp_path / "broken.jsonl"
    file.write_text('{"dataset": "toy"}\n{"dataset": "toy", "seed\n')
    with pytest.raises(ValueError, match=r"broken\.jsonl, line 2"):
        record.read_rows(file)


def test_a_value_that_is_no_number_is_refused_and_the_old_rows_stay(tmp_path):
    record.write_rows(tmp_path, "11_mvc", [a_row()])
    before = (tmp_path / "results.jsonl").read_bytes()
    with pytest.raises(ValueError):
        record.write_rows(tmp_path, "11_mvc", [a_row(accuracy=float("nan"))])
    assert (tmp_path / "results.jsonl").read_bytes() == before
    assert not list(tmp_path.rglob(".part*"))


# --- parameters ----------------------------------------------------------------------------------


def test_given_values_win_over_the_dataset_file_and_that_over_defaults(write_notebook):
    notebook = write_notebook()
    write_params("rate: 0.25  # reason\nshare: 7\n")
    found = runner.resolve_parameters(notebook, {"share": 9})
    defaults = runner.declared_parameters(notebook)
    assert found == defaults | {"rate": 0.25, "share": 9}
    assert (defaults["rate"], defaults["share"], defaults["tags"]) == (0.5, -1, ["a", "b"])


def test_the_file_is_that_of_the_given_dataset(write_notebook):
    write_params("rate: 0.25\n")
    write_params("rate: 0.75\n", "other")
    assert runner.resolve_parameters(write_notebook(), {"dataset": "other"})["rate"] == 0.75
    assert runner.resolve_parameters(write_notebook(), {"dataset": "third"})["rate"] == 0.5


def test_an_empty_parameter_file_changes_nothing(write_notebook):
    write_params("# nothing differs\n")
    notebook = write_notebook()
    assert runner.resolve_parameters(notebook, {}) == runner.declared_parameters(notebook)


def test_a_parameter_file_may_name_what_another_notebook_declares(write_notebook):
    write_notebook(name="20_other", header='# %% tags=["parameters"]\nrounds = 3\n')
    write_params("rounds: 5\n")
    assert "rounds" not in runner.resolve_parameters(write_notebook(), {})
    write_params("round: 5\n")
    with pytest.raises(ValueError, match=r"toy\.yaml: unknown parameter 'round'.*rounds=3"):
        runner.resolve_parameters(write_notebook(), {})


def test_an_unknown_parameter_is_named_with_the_valid_ones(write_notebook):
    with pytest.raises(ValueError, match=r"10_toy: unknown parameter 'sede'.*seed=0.*rate=0\.5"):
        runner.resolve_parameters(write_notebook(), {"sede": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", "0"), ("seed", 0.5), ("seed", True), ("rate", "0.5"), ("rate", False),
     ("dataset", 3), ("tags", "a"), ("seed", None)],
)  # fmt: skip
def test_a_value_of_another_type_is_refused_by_name(write_notebook, name, value):
    with pytest.raises(ValueError, match=rf"'{name}' must be .*, not {value!r}"):
        runner.resolve_parameters(write_notebook(), {name: value})


def test_a_wrong_type_in_the_file_names_the_file(write_notebook):
    write_params("seed: many\n")
    with pytest.raises(ValueError, match=r"toy\.yaml.*'seed' must be int"):
        runner.resolve_parameters(write_notebook(), {})


def test_a_whole_number_will_do_for_a_float(write_notebook):
    assert runner.resolve_parameters(write_notebook(), {"rate": 1})["rate"] == 1


@pytest.mark.parametrize(
    "line", ["a = len('x')", "a = seed + 1", "import os", "a, b = 1, 2", "print(1)", "a += 1"]
)
def test_a_parameters_cell_with_more_than_literals_is_refused_by_notebook(write_notebook, line):
    header = f'# %% tags=["parameters"]\nseed = 0\n{line}\n'
    with pytest.raises(ValueError, match="10_toy"):
        runner.declared_parameters(write_notebook(header=header))


@pytest.mark.parametrize("n", [0, 2])
def test_a_notebook_has_one_parameters_cell(write_notebook, n):
    header = '# %% tags=["parameters"]\nseed = 0\n\n' * n + "# %%\n1\n"
    with pytest.raises(ValueError, match=rf"10_toy\.py has {n} cells"):
        runner.declared_parameters(write_notebook(header=header))


def test_the_modules_that_a_script_uses_are_those_that_python_loads(write_notebook):
    script = write_notebook("from lib.data.cards import read_card"
    code = "import sys, lib.cards; print(*[n for n in sys.modules if n.startswith('lib.')])"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True)
    names = loaded.stdout.decode().split()
    found = [str(file.relative_to(paths.ROOT)) for file in runner.modules_used(script)]
    assert "lib.runner" in names and found == sorted(n.replace(".", "/") + ".py" for n in names)


# --- running -------------------------------------------------------------------------------------


@pytest.fixture
def keep_sigterm():
    """`main` sets a handler; take it back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["-p", "sede", "1"], "unknown parameter 'sede'. Valid: dataset='toy'"),
        (["-p", "seed", "one"], "'seed' must be int"),
        (["-p", "tags", "7"], "'tags' must be list"),
        (["-p", "rate", "1e-3", "-p", "sede", "1"], "'sede'"),  # YAML takes 1e-3 for a word
        (["-p", "note", "1", "-p", "dataset", "null", "-p", "sede", "1"], "'sede'"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_starts(
    write_notebook, output_root, capsys, keep_sigterm, given, named
):
    notebook = write_notebook("raise SystemExit")
    assert runner.main([str(notebook), *given]) == 1
    assert named in capsys.readouterr().err
    assert not (output_root / "data").exists()


def test_a_notebook_that_is_not_there_is_named(capsys, keep_sigterm):
    assert runner.main(["notebooks/99_nothing.py"]) == 1
    assert "99_nothing.py" in capsys.readouterr().err


BODY = """
import json, os
from pathlib import Path

out = Path(os.environ["OUTPUT_ROOT"], "seen.json")
out.write_text(json.dumps([dataset, vlm, seed, rate, share, note, tags, os.getcwd()]))
print("a line for the log")
"""


def test_a_notebook_runs_with_its_parameters_into_the_run_folder(write_notebook, output_root):
    given = [("seed", "4"), ("rate", "1"), ("note", "007"), ("tags", "[x, y]")]
    done = command(write_notebook(BODY), *given, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "a line for the log" in done.stdout + done.stderr
    seen = json.loads((output_root / "seen.json").read_text())
    assert seen == ["toy", "none/at all", 4, 1, -1, "007", ["x", "y"], str(paths.ROOT)]
    folder = paths.run_folder("toy", "none/at all", 4)
    assert folder.is_relative_to(output_root) and folder.name == "seed4"
    assert listed(folder) == ["executed", "executed/10_toy.ipynb"]
    seconds = runner.notebook_seconds(folder)
    assert list(seconds) == ["executed/10_toy.ipynb"] and 0 < seconds["executed/10_toy.ipynb"] < 60
    cells = json.loads((folder / "executed" / "10_toy.ipynb").read_text())["cells"]
    injected = ["".join(c["source"]) for c in cells if "injected" in str(c["metadata"])]
    assert len(injected) == 1 and "seed = 4" in injected[0]


FAILING = """
from lib.artefacts import atomic
from lib import paths

with atomic(paths.run_folder(dataset, vlm, seed) / "votes.npy") as part:
    part.write_text("half")
    raise ValueError("first line\\nno tile is kept")

print("never reached")
"""


def test_a_failing_notebook_is_named_with_its_cell_and_keeps_what_ran(write_notebook):
    done = command(write_notebook(FAILING), capture_output=True, timeout=120)
    assert done.returncode == 1
    error = done.stderr[done.stderr.rindex("error: ") :]
    assert "10_toy failed in cell 4" in error and "no tile is kept" in error
    assert "10_toy.failed.ipynb" in error and "Traceback" not in error
    folder = paths.run_folder("toy", "none/at all", 0)
    assert listed(folder) == ["executed", "executed/10_toy.failed.ipynb"]
    kept = json.loads((folder / "executed" / "10_toy.failed.ipynb").read_text())
    outputs = [o for cell in kept["cells"] for o in cell.get("outputs", [])]
    assert [o["ename"] for o in outputs if o["output_type"] == "error"] == ["ValueError"]
    assert runner.notebook_seconds(folder) == {}


def test_a_kernel_that_dies_is_reported_with_the_notebook(write_notebook):
    """As when the system kills it for its memory."""
    notebook = write_notebook("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    done = command(notebook, capture_output=True, timeout=120)
    assert done.returncode == 1
    assert "10_toy" in done.stderr[done.stderr.rindex("error: ") :]
    assert not list(paths.run_folder("toy", "none/at all", 0).rglob("10_toy.ipynb"))


SLOW = """
import os, time
from lib.artefacts import atomic
from lib import paths

folder = paths.run_folder(dataset, vlm, seed)
with atomic(folder / "votes.npy") as part:
    part.write_text("half")
    (folder / "kernel").write_text(str(os.getpid()))
    time.sleep(100)
"""


def alive(process):
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


def test_a_run_leaves_nothing_beside_the_sources(write_notebook):
    before = set(paths.ROOT.iterdir())
    runner.run_notebook(write_notebook("seed"), {})
    assert {path for path in paths.ROOT.iterdir() if path.name.startswith("kernel")} <= before


def test_a_terminated_run_leaves_no_named_artefact_and_no_kernel(write_notebook):
    folder = paths.run_folder("toy", "none/at all", 0)
    pid = folder / "kernel"
    process = command(
        write_notebook(SLOW), start=subprocess.Popen,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    kernel = None
    try:
        assert wait_for(lambda: pid.is_file() and pid.read_text(), 60), "the notebook did not start"
        kernel = int(pid.read_text())
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 143
        named = [name for name in listed(folder) if ".part-" not in name]
        assert named == ["executed", "kernel"]
        if sys.platform.startswith("linux"):
            assert wait_for(lambda: not alive(kernel), 10), "the kernel still runs"
    finally:
        process.kill()
        process.wait()
        if kernel and alive(kernel):
            os.kill(kernel, signal.SIGKILL)


def test_a_start_removes_what_a_killed_run_left_but_not_what_a_running_one_writes(write_notebook):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True).stdout.strip()  # fmt: skip
    folder = paths.run_folder("toy", "none/at all", 0)
    folder.mkdir(parents=True)
    left = folder / f".part-{artefacts.HOST}-{dead}-votes.npy"
    left.write_text("half")
    written = folder / f".part-{artefacts.HOST}-{os.getpid()}-view_features.npy"  # this process lives
    written.write_text("half")
    runner.run_notebook(write_notebook("seed"), {})
    assert not left.exists()
    assert written.exists()

"""Defaults of the notebook, then those of the dataset, then those passed; all are checked."""

import pytest

from lib import paths
from lib.parameters import declared_parameters, resolve_parameters


def write_params(text, dataset="toy"):
    paths.params_file(dataset).write_text(text)


def test_passed_values_win_over_the_dataset_file_and_that_over_defaults(write_notebook):
    notebook = write_notebook()
    write_params("rate: 0.25  # reason\nshare: 7\n")
    write_params("rate: 0.75\n", "other")
    defaults = declared_parameters(notebook)
    assert (defaults["rate"], defaults["share"], defaults["tags"]) == (0.5, -1, ["a", "b"])
    assert resolve_parameters(notebook, {"share": 9}) == defaults | {"rate": 0.25, "share": 9}
    assert resolve_parameters(notebook, {"dataset": "other"})["rate"] == 0.75
    assert resolve_parameters(notebook, {"dataset": "third"})["rate"] == 0.5
    assert resolve_parameters(notebook, {"dataset": "third", "rate": "1e-3"})["rate"] == 0.001
    write_params("# nothing differs\n")
    assert resolve_parameters(notebook, {"rate": 1}) == defaults | {"rate": 1.0}


def test_an_encoder_alone_goes_beside_the_vlm_of_the_dataset(write_notebook):
    header = '# %% tags=["parameters"]\ndataset = "toy"\nvlm = "a"\n'
    notebook = write_notebook(header=header)
    write_params("vlm: b\n", "other")
    for told, vlm in (("", "b"), ("@e", "b@e"), ("c@e", "c@e")):
        assert resolve_parameters(notebook, {"dataset": "other", "vlm": told})["vlm"] == vlm
    assert resolve_parameters(notebook, {"vlm": "@e"})["vlm"] == "a@e"


def test_a_section_holds_for_one_notebook_and_wins_over_what_holds_for_all(write_notebook):
    toy = write_notebook()
    header = '# %% tags=["parameters"]\ndataset = "toy"\nrate = 0.5\nshare = 3\nrounds = 2\n'
    other = write_notebook(name="20_other", header=header)
    write_params("rate: 0.25\nrounds: 5\n20_other:\n  rate: 0.125\n  share: 4\n")
    resolved = resolve_parameters(other, {})
    assert (resolved["rate"], resolved["share"], resolved["rounds"]) == (0.125, 4, 5)
    resolved = resolve_parameters(toy, {})
    assert (resolved["rate"], resolved["share"]) == (0.25, -1) and "rounds" not in resolved


@pytest.mark.parametrize(
    "text, message",
    [
        ("rat: 0.1\n", r"toy\.yaml: unknown parameter 'rat': did you mean rate"),
        ("10_toy: {sede: 1}\n", r"toy\.yaml, 10_toy: unknown parameter 'sede': did you mean seed"),
        ("10_tog: {seed: 1}\n", r"toy\.yaml: there is no notebook '10_tog': .* 10_toy"),
        ("seed: many\n", r"toy\.yaml.*'seed' must be int"),
        ("share: 5\n", "'share' is another parameter in each of 10_toy, 20_other: write it below"),
    ],
)
def test_a_parameter_file_that_fits_no_notebook_is_refused(write_notebook, text, message):
    write_notebook(name="20_other", header='# %% tags=["parameters"]\nshare = 3\n')
    write_params(text)
    with pytest.raises(ValueError, match=message):
        resolve_parameters(write_notebook(), {})


def test_an_unknown_parameter_is_named_with_the_valid_ones(write_notebook):
    with pytest.raises(ValueError, match=r"10_toy: unknown parameter 'sede': did you mean seed"):
        resolve_parameters(write_notebook(), {"sede": 1})


@pytest.mark.parametrize(
    "name, value",
    [
        *[("seed", "0"), ("seed", 0.5), ("seed", True), ("rate", "0.5"), ("rate", False)],
        *[("dataset", 3), ("tags", "a"), ("seed", None)],
    ],
)
def test_a_value_of_another_type_is_refused_by_name(write_notebook, name, value):
    with pytest.raises(ValueError, match=rf"'{name}' must be .*, not {value!r}"):
        resolve_parameters(write_notebook(), {name: value})


@pytest.mark.parametrize(
    "line", ["a = len('x')", "a = seed + 1", "import os", "a, b = 1, 2", "print(1)", "a += 1"]
)
def test_a_parameters_cell_with_more_than_literals_is_refused_by_notebook(write_notebook, line):
    header = f'# %% tags=["parameters"]\nseed = 0\n{line}\n'
    with pytest.raises(ValueError, match="10_toy"):
        declared_parameters(write_notebook(header=header))


@pytest.mark.parametrize("n", [0, 2])
def test_a_notebook_has_one_parameters_cell(write_notebook, n):
    header = '# %% tags=["parameters"]\nseed = 0\n\n' * n + "# %%\n1\n"
    with pytest.raises(ValueError, match=rf"10_toy\.py has {n} cells"):
        declared_parameters(write_notebook(header=header))

"""Classes and their words from one line of text."""

import pytest

from apps.own_tiles.words import parse_classes, parse_words


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("fat; muscle", {"fat": ["fat"], "muscle": ["muscle"]}),
        (" fat ;; muscle ; ", {"fat": ["fat"], "muscle": ["muscle"]}),
        ("a = fat; muscle", {"a": ["fat"], "muscle": ["muscle"]}),
        (
            "benign = benign colonic tissue | normal mucosa; malignant = colon adenocarcinoma",
            {
                "benign": ["benign colonic tissue", "normal mucosa"],
                "malignant": ["colon adenocarcinoma"],
            },
        ),
        ("fat | adipose |; muscle", {"fat": ["fat", "adipose"], "muscle": ["muscle"]}),
        ("= fat; b=muscle", {"fat": ["fat"], "b": ["muscle"]}),
        (
            """'x' = the "dark" one; "y" = l'autre""",
            {"'x'": ['the "dark" one'], '"y"': ["l'autre"]},
        ),
        ("Drüse = 腺 | glándula; 脂肪", {"Drüse": ["腺", "glándula"], "脂肪": ["脂肪"]}),
        ("<b>& = {} fat; a\\b = 100 %s", {"<b>&": ["{} fat"], "a\\b": ["100 %s"]}),
        (
            "HER2 score >= 2; low = Ki67 <= 5 % | p != 1; == 3",
            {
                "HER2 score >= 2": ["HER2 score >= 2"],
                "low": ["Ki67 <= 5 %", "p != 1"],
                "== 3": ["== 3"],
            },
        ),
    ],
)
def test_names_and_wordings_are_read_from_one_line(text, classes):
    assert parse_classes(text, ["{}"]) == classes
    in_papers = {name: [f"An H&E image of {w}" for w in words] for name, words in classes.items()}
    assert parse_classes(text) == in_papers
    assert list(parse_classes(text)) == list(classes)  # the order is that of the text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least two classes are needed, by semicolon; there are 0 in ''"),
        ("   ", "at least two classes are needed.*there are 0"),
        (";;", "at least two classes are needed.*there are 0"),
        ("fat", "at least two classes are needed.*there are 1 in 'fat'"),
        ("fat, muscle", "at least two classes are needed.*there are 1"),
        ("fat;", "at least two classes are needed.*there are 1"),
        ("a =; muscle", r"the class 'a =' has no words"),
        ("fat; b = | ", r"the class 'b = \|' has no words"),
        ("fat; =", "the class '=' has no words"),
        ("fat; |", r"the class '\|' has no words"),
        ("fat; fat", "two classes are called 'fat'"),
        ("a = fat; a = muscle", "two classes are called 'a'"),
        ("fat; fat = muscle", "two classes are called 'fat'"),
        ("f\u00e4t = fat; fa\u0308t = muscle", "two classes are called 'fa\u0308t'"),
        ("Fat; fat", "two classes are called 'fat'"),
        ("a = Fat  cell; b = fat cell", "two classes have the words 'fat cell'"),
        (f"fat; {'x ' * 600}", "has 1199 letters, at most 1,000 are read"),
        ("; ".join(map(str, range(600))), "there are 600 classes, at most 500 are taken"),
        ("fat; a\x1b[2J", "it holds control characters"),
        ("fat; none of these", "'none of these' stands for no class"),
        ("a = fat; b = fat", "two classes have the words 'fat'"),
        ("a = fat | lipid; b = muscle | lipid", "two classes have the words 'lipid'"),
    ],
)
def test_what_is_no_list_of_classes_is_refused_with_its_reason(text, message):
    with pytest.raises(ValueError, match=message):
        parse_classes(text)


def test_other_tissue_follows_the_classes_and_shares_no_name_or_words_with_them():
    prompts, others = parse_words("a = fat; b = gland", "c = muscle | fibres; nerve", ["{}"])
    assert others == ["c", "nerve"] and list(prompts) == ["a", "b", "c", "nerve"]
    assert prompts["c"] == ["muscle", "fibres"]
    assert parse_words("fat; gland", " ; ") == (parse_classes("fat; gland"), [])
    for classes, words, message in (
        ("fat", "muscle; nerve", "at least two classes are needed"),
        ("fat; gland", "fat", "two classes are called 'fat'"),
        ("a = fat; b = gland", "fat", "two classes have the words 'fat'"),
        ("fat; gland", "other tissue", "'other tissue' stands for all that is no class"),
        ("fat; gland", "none of these", "'none of these' stands for no class"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_words(classes, words)

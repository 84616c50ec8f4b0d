"""Words of classes, wordings and templates."""

from apps.own_tiles.steps import prompts_of_classes
from apps.slide_viewer.own_slides import words

from .fault import Fault, nothing


def own(classes, templates=""):
    return lambda _: str(prompts_of_classes(classes, "", templates, demo=False)[0])


MANY = "; ".join(f"tissue {n}" for n in range(10_000))
LONG = "tumour " * 10_000
REFUSED = [
    ("none", own(""), ["at least two classes are needed, by semicolon; there are 0 in ''"]),
    ("one", own("fat"), ["there are 1 in 'fat'"]),
    ("by comma", own("fat, muscle"), ["by semicolon; there are 1 in 'fat, muscle'"]),
    ("by line", own("fat\nmuscle"), ["at least two classes are needed, by semicolon"]),
    ("by the full-width semicolon", own("fat\uff1bmuscle"), ["at least two classes are needed"]),
    ("semicolons alone", own(";;;"), ["there are 0 in ';;;'"]),
    ("a name without words", own("a =; b"), ["the class 'a =' has no words"]),
    ("wordings without words", own("a = |; b"), ["the class 'a = |' has no words"]),
    ("one name twice", own("a = fat; a = muscle"), ["two classes are called 'a'"]),
    ("the same words", own("a = fat; b = fat"), ["two classes have the words 'fat'"]),
    ("names that differ in capitals", own("Fat; fat"), ["two classes are called 'fat'"]),
    ("words that differ in capitals", own("a = Fat; b = fat"), ["two classes have the words"]),
    ("names that differ in accents' bytes", own("f\u00e4t; fa\u0308t"), ["two classes are called"]),
    ("names that differ in spaces", own("a  b = x; a b = y"), ["two classes are called"]),
    ("words that differ in spaces", own("x = a  b; y = a b"), ["two classes have the words"]),
    ("none of these", own("fat; none of these"), ["'none of these' stands for no class"]),
    ("ten thousand words", own(f"fat; {LONG}"), ["69999 letters", "1,000"]),
    ("ten thousand classes", own(MANY), ["10000 classes", "at most 500"]),
    ("a name of ten thousand letters", own("x" * 10_000 + " = fat; b"), ["10000 letters"]),
    ("a control character", own("fat; mus\x1b[2Jcle"), ["mus", "no text"]),
    ("a template without a place", own("a; b", "an image"), ["'an image' needs one {}"]),
    ("a template of two places", own("a; b", "{} and {}"), ["'{} and {}' needs one {}"]),
    ("a template of another place", own("a; b", "{c} image"), ["'{c} image' needs one {}"]),
    ("a long template", own("a; b", "{} " + "x" * 2000), ["2003 letters"]),
    ("slides: one class", lambda _: words("fat", "", ""), ["at least two classes are needed"]),
    ("slides: none", lambda _: words("", "", ""), ["at least two classes are needed"]),
    (
        "slides: other tissue that is a class",
        lambda _: words("fat; tumour", "muscle; Fat", ""),
        ["'Fat' is both a class and other tissue"],
    ),
    (
        "slides: other tissue twice",
        lambda _: words("fat; tumour", "muscle; muscle", ""),
        ["other tissue 'muscle' is there twice"],
    ),
]
TAKEN = [
    ("at least", own("HER2 score >= 2; HER2 score 0"), ["'An H&E image of HER2 score >= 2'"]),
    ("at most", own("Ki67 <= 5 %; Ki67 above"), ["'Ki67 <= 5 %': ['An H&E image of Ki67 <= 5 %']"]),
    (
        "a name and at least",
        own("high = score >= 2; low"),
        ["'high': ['An H&E image of score >= 2']"],
    ),
    ("not equal", own("grade != 1; grade 1"), ["image of grade != 1"]),
    ("two equals", own("grade == 1; grade 2"), ["image of grade == 1"]),
    ("braces", own("{} fat; {0}"), ["'{} fat'"]),
    ("quotes", own("'a' = the \"dark\" one; b"), ['the "dark" one']),
    ("a dollar", own("$HOME; `id`"), ["'$HOME'"]),
    ("other letters", own("\u8102\u80aa; \u7b4b\u8089"), ["\u8102\u80aa"]),
]
FAULTS = [Fault("prompts", name, nothing, does, says) for name, does, says in REFUSED]
FAULTS += [Fault("prompts", name, nothing, does, says, False) for name, does, says in TAKEN]

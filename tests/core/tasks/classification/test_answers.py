"""What many answers say together in the terminal."""

from io import StringIO

from rich.console import Console

from vladapt.core.tasks.classification.answers import predictions_summary, predictions_table

COLUMNS = {"unlike": "unlike the fit", "set": "set"}


def printed(content, width=80) -> list[str]:
    out = StringIO()
    Console(file=out, width=width).print(content)
    return [line.rstrip() for line in out.getvalue().splitlines() if line.strip()]


def answer(number: int, **further) -> dict:
    label = f"class{number % 20}" if number % 2 else "mass"
    return {"id": f"patient/scan{number}.png", "label": label, "confidence": 0.5 + number / 1000, "top": [], **further}


def test_two_hundred_answers_in_fifteen_lines():
    rows = [answer(number, unlike=number < 3, set=["mass"] * (1 + number % 2)) for number in range(200)]
    lines = printed(predictions_summary(rows, COLUMNS))
    assert len(lines) <= 15 and lines[0].strip() == "200 images"
    assert lines[3].split() == ["mass", "100", "59.9%"]
    assert lines[9].split()[:4] == ["5", "further", "classes", "50"]
    assert sum(int(row.split()[-2]) for row in lines[3:10]) == 200
    least = "Least certain: patient/scan0.png (mass 50.0%), patient/scan1.png (class1 50.1%)"
    assert " ".join(lines[10:]).startswith(least)
    assert lines[-1] == "Unlike the fit: 3 images"  # a note says how large sets are


def test_of_several_labels_each_counts_and_none_is_one():
    rows = [{"id": "a", "labels": ["edema", "mass"], "confidences": [0.9, 0.5], "top": []}]
    rows.append({"id": "b", "labels": [], "confidences": [], "top": []})
    lines = printed(predictions_summary(rows, {}))
    assert [line.split() for line in lines[3:]] == [["edema", "1", "90.0%"], ["mass", "1", "50.0%"], ["none", "1"]]


def test_patients_are_called_so():
    rows = [answer(number, images=2) for number in range(3)]
    assert printed(predictions_summary(rows, {}))[0].strip() == "3 patients"


def test_names_of_a_patients_images_are_not_broken_and_leave_out_the_folder_of_all(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    top, columns = [{"class": "normal", "probability": 0.2}], {"images": "images"}
    names = [["new/a/scan0191.png", "new/a/scan0192.png", "new/a/scan0193.png"], ["new/b/scan0194.png"]]
    rows = [{"id": "520add51910a6b54", **answer(0, top=top, images=of)} for of in names]
    lines = "\n".join(printed(predictions_table(rows, columns)))
    assert all(f" {name.removeprefix('new/')}" in lines for of in names for name in of) and "new/" not in lines


def test_a_domain_has_its_own_word_for_images():
    rows = [answer(number, unlike=True) for number in range(3)]
    words = {"image": "clip", "images": "clips"}
    assert printed(predictions_summary(rows, {"unlike": "unlike the fit"}, words))[-1] == "Unlike the fit: 3 clips"


def test_a_name_is_not_broken_in_a_narrow_terminal():
    rows = [answer(7, unlike=True, set=["mass", "effusion"])]
    assert any("patient/scan7.png" in line for line in printed(predictions_table(rows, COLUMNS), width=70))


def test_what_decided_is_not_cut_off_beside_a_long_name(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    top = [{"class": "pneumothorax", "probability": 0.2}]
    row = {
        **answer(7, unlike=True, set="axial slice 12"),
        "id": "chexpert/valid/patient00101/study1/view.jpg",
        "top": top,
    }
    columns = {"set": "decided by", "unlike": "unlike"}
    lines = printed(predictions_table([row], columns), width=80)
    assert all(line[-1] in "┓┃┩│┘" for line in lines)
    assert all(word in " ".join(lines) for word in ("decided", "axial", "unlike", "yes", "20.0%"))

"""Links to files outside the data folder, as DVC and git-annex make them."""

import os

import numpy as np
import pytest
from PIL import Image

from vladapt.core.data.class_folders import read_class_folders
from vladapt.core.data.files import leads_up, locate
from vladapt.core.data.images import IMAGE
from vladapt.core.data.links import FOLLOWED, follow_links
from vladapt.core.data.manifests import read_manifest
from vladapt.core.data.pairs.file_finder import FileFinder
from vladapt.core.errors import ConfigError, DataError


@pytest.fixture
def linked(tmp_path, monkeypatch):
    """A folder of two classes whose images are links to files in a store beside it."""
    monkeypatch.setenv(FOLLOWED, "")
    for name in ("red", "blue"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(3):
            file = tmp_path / "store" / f"{name}{number}"
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(file, "png")
            (tmp_path / "photos" / name / f"{number}.png").symlink_to(file)
    return tmp_path


def test_nothing_is_read_through_links_unasked_and_the_reason_is_told(linked):
    told = r"no readable image found \(blue/0.png: a link that leaves the data folder; .* --follow-links .*\)"
    with pytest.raises(DataError, match=told):
        read_class_folders(linked / "photos", formats=(IMAGE,))


def test_links_lead_below_the_folders_that_are_named_and_nowhere_else(linked):
    (linked / "elsewhere").mkdir()
    follow_links([str(linked / "elsewhere")])
    with pytest.raises(DataError, match="leaves the data folder"):
        read_class_folders(linked / "photos", formats=(IMAGE,))
    follow_links([str(linked / "elsewhere"), str(linked / "store")])
    data = read_class_folders(linked / "photos", formats=(IMAGE,))
    assert len(data.items) == 6 and not data.skipped


def test_a_folder_that_is_not_there(linked):
    with pytest.raises(ConfigError, match=r"--follow-links .*nowhere: no such folder"):
        follow_links([str(linked / "nowhere")])
    assert os.environ[FOLLOWED] == ""


def test_a_link_to_a_followed_folder_is_not_one_that_leads_up(linked):
    (linked / "photos" / "more").symlink_to(linked / "store")
    follow_links([str(linked)])
    assert not leads_up(linked / "photos" / "more")


@pytest.mark.parametrize("reads", ["table of labels", "table of captions"])
def test_a_table_that_names_a_link_is_read_where_links_may_lead(linked, reads):
    photos = linked / "photos"
    if reads == "table of labels":
        (photos / "labels.csv").write_text(
            "image,label\nred/0.png,red\nred/1.png,red\nblue/0.png,blue\nblue/1.png,blue\n"
        )
        read = lambda: len(read_manifest(photos / "labels.csv", formats=(IMAGE,)).items)  # noqa: E731
    else:
        finder = FileFinder(photos, [photos])
        read = lambda: len([finder.find(f"{name}/{n}.png", "a line") for name in ("red", "blue") for n in (0, 1)])  # noqa: E731
    with pytest.raises(DataError, match=r"leaves the folder .*; copy the file there, or give --follow-links"):
        read()
    follow_links([str(linked / "store")])
    assert read() == 4


def test_a_name_that_leaves_by_itself_has_another_cure(linked):
    with pytest.raises(DataError, match="list only files inside it"):
        locate("../store/red0", [linked / "photos"], "a line")

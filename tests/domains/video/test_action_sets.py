"""Labelled clips: class folders, folders of frames, lists, tables and those of published sets."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.splits import assign_splits
from vladapt.core.errors import ConfigError, DataError
from vladapt.domains.video import Video

pytest.importorskip("av", reason="extra video is not installed")


def read(path, task="classification", **options):
    return Video().read(path, task, **options)


def said(data):
    """id -> (class, split)."""
    return {item.id: (data.class_names[item.target.index], item.split) for item in data.items}


def divided(data, tmp_path):
    return assign_splits(data, seed=1, hashes=FileHashes(tmp_path / "cache"))


# folders --------------------------------------------------------------------------------------------------------------


def test_class_folders_of_videos(clips):
    folder = (
        clips("set/train/jump_up/a.mp4", "set/train/run/b.mp4", "set/test/run/c.mp4", "set/test/jump_up/d.mp4") / "set"
    )
    data = read(folder, frames=4)
    assert data.kind == "clips" and data.class_names == ("jump up", "run")
    assert said(data)["train/jump_up/a.mp4"] == ("jump up", "train") and data.load(data.items[0]).shape == (
        4,
        32,
        56,
        3,
    )


def test_tables_beside_class_folders_may_say_who_is_seen_or_something_else(clips, write):
    folder = clips(*(f"set/{c}/{n}.mp4" for c in ("run", "sit") for n in range(4))) / "set"
    write("set/results.csv", "epoch,loss\n1,0.5\n")
    write("set/train_log.csv", "day,weather\n1,sun\n")
    assert len(read(folder).items) == 8 and not any(item.group for item in read(folder).items)
    names = [f"{c}/{n}.mp4" for c in ("run", "sit") for n in range(4)]
    write("set/metadata.csv", "file,person\n" + "".join(f"{name},p{name[4]}\n" for name in names))
    groups = {item.id: item.group for item in read(folder).items}
    assert groups["run/1.mp4"] == groups["sit/1.mp4"] != groups["run/2.mp4"]


def test_clips_cut_from_one_video_belong_together(clips):
    folder = (
        clips(*(f"set/run/v_Run_g0{g}_c0{c}.mp4" for g in (1, 2) for c in (1, 2)), "set/sit/v_Sit_g01_c01.mp4") / "set"
    )
    groups = {item.id: item.group for item in read(folder).items}
    assert groups["run/v_Run_g01_c01.mp4"] == groups["run/v_Run_g01_c02.mp4"] != groups["run/v_Run_g02_c01.mp4"]
    assert groups["sit/v_Sit_g01_c01.mp4"] != groups["run/v_Run_g01_c01.mp4"]


@pytest.fixture
def frames(tmp_path):
    """frames("run/a", count, pattern): a folder of frames, each of its own grey, 4 levels per number."""

    def make(name, count=12, pattern="img_{}.jpg", start=0, size=(20, 24)):
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        for k in range(count):
            Image.fromarray(np.full((*size, 3), 4 * (start + k), np.uint8)).save(folder / pattern.format(k + 1))
        return folder

    return make


def greys(clip):
    return [round(float(frame.mean()) / 4) for frame in clip]


def test_folders_of_frames_are_clips_in_the_order_of_their_numbers(frames, tmp_path):
    frames("set/run/a"), frames("set/run/b", pattern="{:06d}.png", start=20), frames("set/sit/c", start=40)
    data = read(tmp_path / "set", frames=4, sampling="first-to-last")
    assert {item.id: data.class_names[item.target.index] for item in data.items} == {
        "run/a": "run",
        "run/b": "run",
        "sit/c": "sit",
    }
    assert [greys(data.load(item)) for item in data.items] == [[0, 3, 7, 11], [20, 23, 27, 31], [40, 43, 47, 51]]
    seconds = read(tmp_path / "set", frames=8, sampling="fps", fps=1.0, frame_rate=4.0)
    assert greys(seconds.load(seconds.items[0])) == [0, 4, 8]
    drawn = read(tmp_path / "set", frames=3, sampling="segment-random")
    clip = drawn.load(drawn.items[0])
    assert greys(clip) == [2, 6, 10] and all(k // 4 == n for n, k in enumerate(greys(clip.redrawn(3))))


def test_a_pattern_chooses_among_the_images_of_a_folder(frames, tmp_path):
    for name in ("set/run/a", "set/sit/b"):
        frames(name, 6), frames(name, 6, "flow_x_{}.jpg", start=50)
    both, one = read(tmp_path / "set"), read(tmp_path / "set", frame_pattern="img_*.jpg", sampling="first-to-last")
    assert greys(one.load(one.items[0])) == list(range(6)) and max(greys(both.load(both.items[0]))) > 50
    digests = [item.decode["digest"] for item in one.items]
    assert digests[0] == digests[1], "copies of a clip are found by content, in whatever folder they lie"


def test_videos_beside_folders_of_frames_are_refused(frames, clips, tmp_path):
    frames("set/run/a"), frames("set/sit/b"), clips("set/run/c.mp4", "set/sit/d.mp4")
    frames("few/sit/b"), clips("few/run/c.mp4", "few/sit/d.mp4")
    frames("apart/run/a"), frames("apart/hop/a"), clips("apart/sit/d.mp4")
    for name in ("set", "few", "apart"):
        with pytest.raises(DataError, match=r"holds both videos and folders of frames \(.+\); keep one kind"):
            read(tmp_path / name)


def test_links_that_lead_out_are_not_followed(frames, tmp_path):
    frames("outside/secret", 3, start=50), frames("set/run/a", 3), frames("set/sit/b", 3)
    (tmp_path / "set/run/a/img_9.jpg").symlink_to(tmp_path / "outside/secret/img_1.jpg")
    (tmp_path / "set/sit/c").symlink_to(tmp_path / "outside/secret")
    data = read(tmp_path / "set", sampling="first-to-last")
    assert [item.id for item in data.items] == ["run/a", "sit/b"] and data.skipped[0][0] == "sit/c"
    assert greys(data.load(data.items[0])) == [0, 1, 2]


def test_images_alone_are_no_clips(frames, tmp_path):
    frames("set/run", 3), frames("set/sit", 3)
    with pytest.raises(DataError, match="CLASS/CLIP/"):
        read(tmp_path / "set")


def test_new_clips_are_videos_and_folders_of_frames(frames, clips, tmp_path):
    frames("new/a", 3), frames("new/deep/b", 4), clips("new/c.mp4", "new/deep/d.mp4")
    data = Video().read_images([tmp_path / "new"], frames=2)
    assert sorted(item.id.rpartition("new/")[2] for item in data.items) == ["a", "c.mp4", "deep/b", "deep/d.mp4"]
    assert all(data.load(item).shape[0] == 2 for item in data.items)
    assert len(Video().read_images([tmp_path / "new/a"]).items) == 1
    with pytest.raises(DataError, match="an image, not a clip; give the folder of its frames"):
        Video().read_images([tmp_path / "new/a/img_1.jpg"])
    with pytest.raises(DataError, match="no such file or folder"):
        Video().read_images([tmp_path / "nothing"])


# lists ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [" ", "\t", ",", ";"])
def test_lists_of_path_and_label_with_any_separator(clips, write, separator):
    clips("v/a b.mp4", "v/c.mp4")
    write("classInd.txt", "1 RunFast\n2 sit_down\n")
    data = read(write("train_list.txt", f"v/a b.mp4{separator}0\nv/c.mp4{separator}1\n"))
    assert said(data) == {"v/a b.mp4": ("run fast", "train"), "v/c.mp4": ("sit down", "train")}


def test_a_list_with_numbers_of_frames_and_names_of_folders(frames, write):
    frames("f/one"), frames("f/two")
    data = read(write("val.txt", "f/one 12 0\nf/two 12 1\n"), class_names=("run", "sit"))
    assert said(data) == {"f/one": ("run", "val"), "f/two": ("sit", "val")}


def test_another_separator_in_a_list_is_one_line(clips, write):
    clips("a.mp4", "b.mp4")
    with pytest.raises(DataError, match=r"list.txt line 2: 'b.mp4;1' is not a path and a label with a space"):
        read(write("list.txt", "a.mp4 0\nb.mp4;1\n"))


def test_lists_of_ucf101_by_their_split(clips, write):
    names = [f"{c}/v_{c}_g0{g}_c01.mp4" for c in ("ApplyLipstick", "Archery") for g in (1, 2, 3)]
    root = clips(*(f"videos/{name}" for name in names))
    for fold, tested in ((1, 1), (2, 2)):
        lines = {"train": "", "test": ""}
        for number, name in enumerate(names):
            lines["test" if number % 3 + 1 == tested else "train"] += f"{name} {number // 3 + 1}\n"
        write(f"videos/ucfTrainTestlist/trainlist0{fold}.txt", lines["train"])
        write(f"videos/ucfTrainTestlist/testlist0{fold}.txt", lines["test"].replace(" 1\n", "\n").replace(" 2\n", "\n"))
    first, second = (said(read(root / "videos", fold=fold)) for fold in (1, 2))
    assert first["Archery/v_Archery_g01_c01.mp4"] == ("Archery", "test")
    assert second["Archery/v_Archery_g01_c01.mp4"] == ("Archery", "train") and len(first) == 6
    assert first["ApplyLipstick/v_ApplyLipstick_g02_c01.mp4"] == ("apply lipstick", "train")
    with pytest.raises(ConfigError, match=r"data.fold=3: .* has the splits 1, 2"):
        read(root / "videos", fold=3)


def test_lists_of_hmdb51_by_their_split_with_the_source_of_each_clip(clips, write):
    names = ["A_b_sit_u_nm_np1_fr_goo_0.mp4", "A_b_sit_u_nm_np1_fr_goo_1.mp4", "C_sit_f_cm_np1_ba_med_2.mp4"]
    root = clips(*(f"set/sit/{name}" for name in names), "set/wave/D_wave_u_nm_np1_fr_goo_0.mp4")
    folder = "set/testTrainMulti_7030_splits"
    write(f"{folder}/sit_test_split1.txt", f"{names[0]} 1 \n{names[1]} 1 \n{names[2]} 2 \n")
    write(f"{folder}/wave_test_split1.txt", "D_wave_u_nm_np1_fr_goo_0.mp4 1 \n")
    write(f"{folder}/sit_test_split2.txt", f"{names[0]} 0 \n{names[1]} 2 \n{names[2]} 1 \n")
    write(f"{folder}/wave_test_split2.txt", "D_wave_u_nm_np1_fr_goo_0.mp4 2 \n")
    data = read(root / "set")
    assert sorted(said(data).values()) == [("sit", "test"), ("sit", "train"), ("sit", "train"), ("wave", "train")]
    groups = [item.group for item in data.items if item.id.startswith("sit")]
    assert groups[0] == groups[1] != groups[2]
    assert len(read(root / "set", fold=2).items) == 3, "0 is neither"
    write(f"{folder}/sit_test_split1.txt", "x.mp4 7\n")
    with pytest.raises(DataError, match=r"sit_test_split1.txt line 1: 'x.mp4 7' is not a file and 0, 1 or 2"):
        read(root / "set")


def test_tables_of_kinetics_with_videos_that_are_gone(clips, write):
    root = clips("set/abc_000000_000010.mp4", "set/run/def.mp4", "set/ghi.mp4")
    head = "label,youtube_id,time_start,time_end,split\n"
    write("set/kinetics_train.csv", head + "run fast,abc,0,10,train\nsit,def,0.1,0.4,train\nsit,gone,1,2,train\n")
    write("set/kinetics_val.csv", head + "sit,ghi,0,0.4,validate\n")
    data = read(root / "set")
    assert said(data) == {
        "abc#0-10": ("run fast", "train"),
        "def#0.1-0.4": ("sit", "train"),
        "ghi#0-0.4": ("sit", "val"),
    }
    times = {item.id: (item.decode.get("start"), item.decode.get("end")) for item in data.items}
    assert times["abc#0-10"] == (None, None) and times["def#0.1-0.4"] == (0.1, 0.4), "abc was cut out already"
    assert data.notes == ["Clips that the list names but that are missing: 1, the first gone."] and not data.skipped
    content = {"abc": {"annotations": {"label": "run", "segment": [0, 10]}, "subset": "train"}}
    content["ghi"] = {"annotations": {"label": "sit", "segment": [0, 0.4]}, "subset": "validate"}
    assert sorted(said(read(write("set/all.json", content))).values()) == [("run", "train"), ("sit", "val")]


def test_lists_of_something_something(clips, write):
    root = clips("set/1.mp4", "set/2.mp4", "set/3.mp4")
    push = {"label": "pushing cup from left to right", "template": "Pushing [something] from left to right"}
    lift = {"label": "lifting pen", "template": "Lifting [something]"}
    write("set/something-something-v2-train.json", [{"id": "1", **push}, {"id": "2", **lift}])
    write("set/something-something-v2-validation.json", [{"id": "3", **push}])
    names = {"Pushing something from left to right": "0", "Lifting something": "1"}
    write("set/something-something-v2-labels.json", names)
    domain = Video()
    data = domain.read(root / "set", "classification")
    assert data.class_names == tuple(names) and data.published == "something-something-v2"
    assert {item.id: (item.target.index, item.split) for item in data.items} == {
        "1": (0, "train"),
        "2": (1, "train"),
        "3": (0, "val"),
    }
    assert not domain.of(data).mirrored, "left and right are told apart: no flip"
    captions = read(root / "set", "retrieval")
    assert captions.items[0].captions() == ("pushing cup from left to right",)


def test_verbs_and_nouns_of_narrations_by_their_numbers(clips, write):
    root = clips("set/P01/P01_01.mp4", "set/P02/P02_03.mp4")
    head = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,narration,"
    head += "verb,verb_class,noun,noun_class\n"
    rows = ["P01_01_0,P01,P01_01,00:00:00.00,00:00:00.20,open the door,open,3,door,8"]
    rows += ["P01_01_1,P01,P01_01,00:00:00.20,00:00:00.40,turn on light,turn-on,6,light,113"]
    rows += ["P02_03_0,P02,P02_03,00:00:00.10,00:00:00.30,pull door,pull,3,door,8"]
    write("set/EPIC_100_train.csv", head + "\n".join(rows[:2]) + "\n")
    write("set/EPIC_100_validation.csv", head + rows[2] + "\n")
    write("set/EPIC_100_verb_classes.csv", "id,key\n3,open\n6,turn-on\n")
    data = read(root / "set", target="verb")
    assert sorted(said(data).values()) == [("open", "train"), ("open", "val"), ("turn-on", "train")]
    assert data.items[0].target.numbers() == {"verb": 3.0, "noun": 8.0}
    assert data.items[1].decode["start"] == 0.2 and data.load(data.items[1]).shape[0] == 8
    assert read(root / "set", target="noun").class_names == ("door", "light")
    assert read(root / "set").class_names == ("open door", "turn-on light")
    narrated = read(root / "set", "retrieval")
    assert narrated.items[0].captions() == ("open the door",)
    assert narrated.items[0].target.numbers() == {"verb": 3.0, "noun": 8.0}


# tables ---------------------------------------------------------------------------------------------------------------


def test_a_table_says_times_classes_splits_and_persons(clips, write):
    root = clips(*(f"clips/{n}.mp4" for n in range(6)))
    rows = [{"file": f"clips/{n}.mp4", "action": ("bend", "wave_hand")[n % 2], "person": n // 2} for n in range(6)]
    write("clips.json", rows)
    data = read(root)
    assert data.class_names == ("bend", "wave hand")
    assert [item.group == data.items[0].group for item in data.items] == [True, True, False, False, False, False]
    assert any("person" in note for note in data.notes)
    assert not any(item.group for item in read(root, group_column="none").items)
    csv = "clip;start;end;label;split\n1;0.04;0.2;run;train\n1;0.2;0.4;sit;train\n2.mp4;;;sit;test\n"
    timed = read(write("moments.csv", csv), root=str(root / "clips"))
    assert said(timed) == {"1#0.04-0.2": ("run", "train"), "1#0.2-0.4": ("sit", "train"), "2.mp4": ("sit", "test")}


def test_splits_share_no_video_and_no_person(clips, write, tmp_path):
    clips(*(f"clips/{n}.mp4" for n in range(24)))
    rows = [
        f"{n},{s},{s + 0.2},{('run', 'sit')[(n + k) % 2]},{n % 8}" for n in range(24) for k, s in enumerate((0.0, 0.2))
    ]
    path = write("all.csv", "clip,start,end,label,person\n" + "\n".join(rows) + "\n")
    data = divided(read(path, root=str(tmp_path / "clips")), tmp_path)
    sides = {}
    for item in data.items:
        sides.setdefault(("person", item.group), set()).add(item.split)
        sides.setdefault(("video", item.source), set()).add(item.split)
    assert {item.split for item in data.items} == {"train", "val", "test"}
    assert all(len(splits) == 1 for splits in sides.values())


def test_copies_of_a_video_under_other_names_stay_on_one_side(clips, tmp_path):
    folder = clips(*(f"set/{c}/{n}.mp4" for n in range(12) for c in ("run", "sit"))) / "set"
    for n in range(12):
        (folder / "run" / f"copy of {n}.mp4").write_bytes((folder / "run" / f"{n}.mp4").read_bytes())
    data = divided(read(folder), tmp_path)
    split = {item.id: item.split for item in data.items}
    assert all(split[f"run/{n}.mp4"] == split[f"run/copy of {n}.mp4"] for n in range(12))


def test_several_labels_of_a_clip(clips, write):
    clips("a.mp4", "b.mp4", "c.mp4")
    data = read(write("all.csv", "clip,labels\na.mp4,run|sing\nb.mp4,run\nc.mp4,sit\n"))
    assert data.kind == "multilabel" and data.class_names == ("run", "sing", "sit")
    assert [item.target.values for item in data.items] == [(1, 1, 0), (1, 0, 0), (0, 0, 1)]


def test_bad_tables_are_one_line(clips, write):
    clips("a.mp4", "b/a.mp4", "c.mp4")
    for text, words in {
        "clip,label\na.mp4,run\nc.mp4,sit\nd.mp4,sit\n": None,
        "clip,label\nx.mp4,run\ny.mp4,sit\n": "labels without clips: x.mp4: no such video",
        "clip,start,end,label\na.mp4,2,1,run\n": "line 2: begins at 2 seconds and ends at 1",
        "clip,start,end,label\na.mp4,soon,1,run\n": "line 2: 'soon' is not a time",
        "clip,colour\na.mp4,red\n": "no column of the label or caption",
        "name of it,label\na.mp4,red\n": "no column of the clip",
        "clip,label\n../secret.mp4,run\n": "lies outside the folder",
        "clip,label,split\na.mp4,run,other\n": "split 'other'",
        "clip,label\na,run\nc,sit\n": r"'a' may be .*a.mp4",
        "clip,caption\na.mp4,somebody runs\n": "holds captions but no classes; give --task retrieval",
    }.items():
        path = write("all.csv", text)
        if words is None:
            data = read(path)
            assert len(data.items) == 2 and data.skipped[0][0] == "d.mp4"
            continue
        with pytest.raises(DataError, match=words):
            read(path)


def test_what_cannot_be_read_is_said(tmp_path, write):
    write("two/a.csv", "clip,label\n"), write("two/b.csv", "clip,label\n")
    with pytest.raises(DataError, match=r"holds a.csv, b.csv; give one of them"):
        read(tmp_path / "two")
    for path, words in {
        tmp_path / "none": "no such file or folder; give class folders of videos",
        write("empty/readme.md", "nothing").parent: "no image in it",
        write("a.xyz", "what"): "not a known kind of list",
        write("list.txt", "\n"): "no line names a clip",
    }.items():
        with pytest.raises(DataError, match=words):
            read(path)


def test_options_that_change_nothing_are_named(clips, write):
    clips("a.mp4", "b.mp4")
    path = write("all.csv", "clip,label\na.mp4,run\nb.mp4,sit\n")
    given = {
        "fps": 2.0,
        "interval": 3,
        "frame_rate": 5.0,
        "fold": 2,
        "partition": "9k",
        "target": "verb",
        "moments": True,
    }
    notes = read(path, **given).notes
    assert len(notes) == len(given) and all(any(f"Option {name} has" in note for note in notes) for name in given)
    assert read(path, sampling="fps", fps=2.0, keep_frames=True).notes == []


def test_columns_of_tables_are_read_when_asked_for(clips, write):
    folder = clips("set/a.mp4", "set/b.mp4", "set/c.mp4") / "set"
    write("set/train.csv", "video,start,end,label,site,day\na.mp4,,,run,north,1\na.mp4,1,2,sit,north,2\n")
    write("set/test.csv", "video,label,language,site\nc.mp4,sit,Deutsch,east\nb.mp4,sit,English,south\n")
    columns = read(folder).columns()
    assert columns.place == "test.csv, train.csv" and columns.names == ("video", "label", "site")
    assert columns.taken == {"video", "label"}
    assert columns.cells("site") == {"a.mp4": "north", "a.mp4#1-2": "north", "b.mp4": "south"}


def test_a_list_without_columns_has_none(clips, write):
    folder = clips("set/a.mp4", "set/b.mp4") / "set"
    write("set/train.csv", "a.mp4 0\nb.mp4 1\n")
    assert read(folder).columns is None

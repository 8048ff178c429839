"""Captioned clips: published sets of sentences about videos, and plain tables."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.errors import ConfigError, DataError
from vladapt.domains.video import Video
from vladapt.domains.video.caption_sets import named_annotations

pytest.importorskip("av", reason="extra video is not installed")


def read(path, **options):
    return Video().read(path, "retrieval", **options)


def said(data):
    """id -> (captions, split)."""
    return {item.id: (item.captions(), item.split) for item in data.items}


@pytest.fixture
def msrvtt(clips, write):
    root = clips(*(f"set/videos/video{n}.mp4" for n in range(5)))
    splits = ("train", "train", "validate", "test", "test")
    videos = [{"video_id": f"video{n}", "split": split} for n, split in enumerate(splits)]
    texts = [{"video_id": f"video{n}", "caption": f"{word} {n}"} for word in ("one", "two") for n in range(5)]
    write("set/MSRVTT_data.json", {"videos": videos, "sentences": texts})
    write(
        "set/MSRVTT_JSFUSION_test.csv",
        "key,vid_key,video_id,sentence\nret0,msr4,video4,two 4\nret1,msr0,video0,one 0\n",
    )
    write("set/MSRVTT_train.9k.csv", "video_id\nvideo1\nvideo2\nvideo3\n")
    return root / "set"


def test_msrvtt_whole_and_by_its_partitions(msrvtt):
    whole = said(read(msrvtt))
    assert {id_: split for id_, (_, split) in whole.items()} == {
        **dict.fromkeys(("video0", "video1"), "train"),
        "video2": "val",
        **dict.fromkeys(("video3", "video4"), "test"),
    }
    assert whole["video3"][0] == ("one 3", "two 3")
    nine = said(read(msrvtt, partition="9k"))
    assert nine["video4"] == (("two 4",), "test") and nine["video0"] == (("one 0",), "test")
    assert {id_ for id_, (_, split) in nine.items() if split == "train"} == {"video1", "video2", "video3"}
    own = said(read(msrvtt, partition="1k-a"))
    assert {id_: split for id_, (_, split) in own.items()} == {
        **dict.fromkeys(("video0", "video4"), "test"),
        "video1": "train",
        "video2": "val",
    }


def test_a_partition_without_its_list_is_one_line(msrvtt):
    (msrvtt / "MSRVTT_train.9k.csv").unlink()
    with pytest.raises(ConfigError, match=r"data.partition=9k: needs MSRVTT_train.9k.csv beside MSRVTT_data.json"):
        read(msrvtt, partition="9k")


def test_msvd_by_its_lists_with_clips_of_one_video_together(clips, write):
    names = ("ab_c_1_8", "ab_c_20_31", "xy_5_9")
    root = clips(*(f"set/{name}.avi" for name in names))
    for name in names:  # they are called avi, and are mp4: the content decides
        assert (root / f"set/{name}.avi").is_file()
    write(
        "set/AllVideoDescriptions.txt",
        "# remarks\n\nab_c_1_8 a man sings\nab_c_1_8 a song\nxy_5_9 a cat\nzz_1_2 gone\n",
    )
    write("set/train_list.txt", "ab_c_1_8\nab_c_20_31\nzz_1_2\n")
    write("set/test_list.txt", "xy_5_9\n")
    data = read(root / "set")
    assert said(data) == {"ab_c_1_8": (("a man sings", "a song"), "train"), "xy_5_9": (("a cat",), "test")}
    table = "VideoID,Start,End,WorkerID,Source,AnnotationTime,Language,Description\n"
    table += "ab_c,1,8,7,clean,3,English,a man sings\nab_c,1,8,7,clean,3,German,ein Mann singt\n"
    table += "ab_c,20,31,7,clean,3,English,he stops\nxy,5,9,7,clean,3,English,a cat\n"
    rows = read(write("set/corpus.csv", table))
    assert rows.items[0].captions() == ("a man sings",)
    assert rows.items[0].group == rows.items[1].group != rows.items[2].group


LISTS = ("train", "val", "test")


def test_msvd_by_its_captions_as_json_and_the_pickle_is_not_read(clips, write, tmp_path):
    names = ("-ab_c_1_8", "xy_5_9", "zz_1_2")
    root = clips(*(f"set/YouTubeClips/{name}.avi" for name in names)) / "set"
    for split, name in zip(LISTS, names):
        write(f"set/{split}_list.txt", f"{name}\n")
    (root / "raw-captions.pkl").write_bytes(b"not even a pickle")
    for place in (root, root / "raw-captions.pkl"):
        with pytest.raises(DataError, match="a pickle may run any code and is not read") as refused:
            read(place)
    command = str(refused.value).split('python -c "')[1].removesuffix('"')
    captions = {names[0]: [["a", "man", "sings"], ["a", "song"]], names[1]: [["a", "cat"]], names[2]: [["it", "rains"]]}
    (root / "raw-captions.pkl").write_bytes(pickle.dumps({**captions, "of_no_list_1_2": [["gone"]]}))
    subprocess.run([sys.executable, "-c", command], cwd=root, check=True)
    data = read(root)
    assert said(data) == {
        names[0]: (("a man sings", "a song"), "train"),
        names[1]: (("a cat",), "val"),
        names[2]: (("it rains",), "test"),
    }
    assert data.published == "msvd" and said(read(root / "raw-captions.json")) == said(data)


def test_didemo_by_the_lists_beside_its_json(clips, write):
    root = clips(*(f"set/{name}.mp4" for name in ("1@N00_a.avi", "2@N00_b", "3@N00_c"))) / "set"
    for split, video in zip(LISTS, ("1@N00_a.avi", "2@N00_b.mov", "3@N00_c.3gp")):
        told = [{"annotation_id": n, "video": video, "description": f"part {n}", "times": [[n, n]]} for n in (0, 1)]
        left_out = {"annotation_id": 7, "video": "3@N00_c.3gp", "description": "unused", "times": [[0, 0]]}
        write(f"set/{split}_data.json", told if split == "test" else [*told, left_out])
        write(f"set/{split}_list.txt", f"{video}\n")
    assert {name: split for name, (_, split) in said(read(root)).items()} == {
        "1@N00_a.avi": "train",
        "2@N00_b.mov": "val",
        "3@N00_c.3gp": "test",
    }
    assert said(read(root))["1@N00_a.avi"][0] == ("part 0 part 1",)


def test_didemo_as_paragraphs_and_as_moments(clips, write):
    clips("set/v1.avi.mp4", "set/v2.mp4")
    told = [
        ("v1.avi", "a dog", [[0, 0], [0, 0], [1, 1]]),
        ("v1.avi", "it runs", [[0, 0]]),
        ("v2.mov", "a cat", [[0, 0]]),
    ]
    listed = [{"video": video, "description": text, "times": times} for video, text, times in told]
    path = write("set/train_data.json", listed)
    assert said(read(path)) == {"v1.avi": (("a dog it runs",), "train"), "v2.mov": (("a cat",), "train")}
    moments = read(path, moments=True)
    assert said(moments)["v1.avi#0-5"] == (("a dog", "it runs"), "train")
    assert moments.items[0].decode["start"] == 0.0 and moments.items[0].decode["end"] == 5.0
    with pytest.raises(DataError):
        moments.load(moments.items[0])


def test_activitynet_as_paragraphs_and_as_moments(clips, write):
    root = clips("set/v_abc.mp4", "set/def.mp4")
    content = {
        "v_abc": {"duration": 0.5, "timestamps": [[0, 0.2], [0.1, 0.4]], "sentences": [" a man ", "he jumps"]},
        "v_def": {"duration": 0.5, "timestamps": [[0, 0.4]], "sentences": ["a pool"]},
    }
    path = write("set/val_1.json", content)
    assert said(read(root / "set")) == {"v_abc": (("a man he jumps",), "val"), "v_def": (("a pool",), "val")}
    moments = read(path, moments=True)
    assert [item.id for item in moments.items] == ["v_abc#0-0.2", "v_abc#0.1-0.4", "v_def#0-0.4"]
    content["v_def"]["timestamps"] = []
    with pytest.raises(DataError, match=r"val_1.json v_def: 1 sentences, 0 times"):
        read(write("set/val_1.json", content), moments=True)


def test_activitynet_is_tested_on_the_first_annotator(clips, write):
    root = clips("set/v_abc.mp4", "set/v_def.mp4") / "set"
    of = {"duration": 0.4, "timestamps": [[0, 0.2]]}
    write("set/train.json", {"v_abc": {**of, "sentences": ["he jumps"]}})
    write("set/val_1.json", {"v_def": {**of, "sentences": ["a pool"]}})
    write("set/val_2.json", {"v_def": {**of, "sentences": ["water"]}})
    for split, names in (("train", ["v_abc"]), ("val", ["v_def"])):
        write(f"set/{split}_ids.json", names)
    data = read(root)
    assert said(data) == {"v_abc": (("he jumps",), "train"), "v_def": (("a pool",), "val")}
    assert any("val_2.json is not read: it describes the videos of val_1.json again" in note for note in data.notes)
    assert said(read(root, moments=True))["v_def#0-0.2"] == (("a pool", "water"), "val")


def test_vatex_by_the_lists_beside_its_json(clips, write):
    names = [f"Ab-{n}_000010_000020" for n in range(3)]
    root = clips(*(f"set/{name}.mp4" for name in names)) / "set"
    for split, name in zip(LISTS, names):
        write(f"set/{split}_list.txt", f"{name}\n")
    captions = {name: {"enCap": [f"one {name}", "two"], "chCap": ["x"]} for name in names}
    whole = write("set/vatex_data.json", {**captions, "zz_000001_000002": {"enCap": ["gone"]}})
    expected = {name: ((f"one {name}", "two"), split) for split, name in zip(LISTS, names)}
    assert said(read(root)) == expected and read(root).published == "vatex"
    whole.unlink()
    write("set/vatex_training_v1.0.json", [{"videoID": names[0], **captions[names[0]]}])
    later = [{"videoID": name, **captions[name]} for name in names[1:]]
    write("set/vatex_validation_v1.0.json", later)
    assert said(read(root)) == expected


def test_lsmdc_by_the_files_of_its_challenge(clips, write):
    names = [f"{n}_FILM_00.01.0{n}.000-00.01.0{n + 1}.000" for n in range(3)]
    root = clips(*(f"set/videos/FILM_{n}/{name}.avi" for n, name in enumerate(names))) / "set"
    files = ("LSMDC16_annos_training.csv", "LSMDC16_annos_val.csv", "LSMDC16_challenge_1000_publictect.csv")
    for file, name in zip(files, names):
        start, end = name.rsplit("_", 1)[1].split("-")
        write(f"set/{file}", "\t".join([name, start, end, start, end, "SOMEONE smiles."]) + "\n")
    assert said(read(root)) == {name: (("SOMEONE smiles.",), split) for split, name in zip(LISTS, names)}


def test_sentences_by_the_name_of_their_video(clips, write):
    root = clips("set/a.mp4", "set/b.mp4") / "set"
    write("set/train_9k.json", {"a.mp4": ["one", "two"]})
    write("set/test_JSFUSION.json", {"b.mp4": ["three"]})
    assert said(read(root)) == {"a.mp4": (("one", "two"), "train"), "b.mp4": (("three",), "test")}


NAMES = st.text("ab-_.@19", min_size=1, max_size=8)
TEXTS = st.lists(st.lists(st.text("xyz", min_size=1), min_size=1), min_size=1, max_size=3)


@settings(max_examples=60)
@given(content=st.dictionaries(NAMES, TEXTS), lists=st.dictionaries(NAMES, st.sampled_from(LISTS)), whole=st.booleans())
def test_lists_choose_videos_and_their_splits_and_change_no_sentence(content, lists, whole):
    told = {name: [" ".join(words) for words in texts] if whole else texts for name, texts in content.items()}
    with tempfile.TemporaryDirectory() as folder:
        for split in {*lists.values()}:
            names = [name for name, of in lists.items() if of == split]
            (Path(folder) / f"{split}_list.txt").write_text("\n".join(names) + "\n")
        made = named_annotations(Path(folder) / "raw-captions.json", told)
    chosen = [name for name in content if name in lists] if lists else list(content)
    assert [each.name for each in made] == chosen
    assert [each.split for each in made] == [lists.get(name, "") for name in chosen]
    assert [each.captions for each in made] == [tuple(map(" ".join, content[name])) for name in chosen]


def test_vatex_and_lsmdc(clips, write):
    root = clips("vatex/Ab-c_000010_000020.mp4", "vatex/Ab-c_000030_000040.mp4")
    listed = [
        {"videoID": f"Ab-c_{times}", "enCap": [f"at {times}", "twice"]} for times in ("000010_000020", "000030_000040")
    ]
    data = read(write("vatex/vatex_training_v1.0.json", listed))
    assert said(data)["Ab-c_000010_000020"] == (("at 000010_000020", "twice"), "train")
    assert data.items[0].group == data.items[1].group
    root = clips("lsmdc/FILM/FILM_00.01.02.000-00.01.04.000.mp4")
    line = "FILM_00.01.02.000-00.01.04.000\t00.01.02.000\t00.01.04.000\t00.01.02.000\t00.01.04.000\tSomebody smiles.\n"
    write("lsmdc/LSMDC16_annos_test.csv", line)
    assert list(said(read(root / "lsmdc")).values()) == [(("Somebody smiles.",), "test")]


def test_plain_tables_of_captions(clips, write):
    root = clips("set/a.mp4", "set/b.mp4")
    jsonl = '{"clip": "a.mp4", "caption": "a man"}\n{"clip": "a.mp4", "caption": "he sits"}\n'
    jsonl += '{"clip": "b.mp4", "caption": ["a cat", "an animal"], "start": 0.1, "end": 0.3}\n'
    path = write("set/captions.jsonl", jsonl)
    assert said(read(path)) == {"a.mp4": (("a man", "he sits"), ""), "b.mp4#0.1-0.3": (("a cat", "an animal"), "")}
    assert said(read(root / "set")) == said(read(path))
    assert not read(path).notes
    path = write("set/captions.csv", "clip,caption\na.mp4,a man\nb.mp4,\n")
    assert said(read(path)) == {"a.mp4": (("a man",), "")}
    assert read(path).notes == [f"Lines without a caption, left out: 1, first {path} line 3."]


def test_captions_without_clips_and_other_faults_are_one_line(clips, write, tmp_path):
    clips("set/a.mp4", "set/run/b.mp4", "set/sit/c.mp4")
    table = "clip,caption\nx.mp4,a man\ny.mp4,a cat\n"
    with pytest.raises(DataError, match=r"captions without clips: x.mp4: no such video below .*data.root=FOLDER"):
        read(write("set/all.csv", table))
    with pytest.raises(DataError, match="holds classes but no captions"):
        read(write("set/all.csv", "clip,label\na.mp4,run\n"))
    (tmp_path / "set/all.csv").unlink()
    with pytest.raises(DataError, match="holds no list of captions"):
        read(tmp_path / "set")
    with pytest.raises(DataError, match="'x' has 1 cells; give clip, four times, sentence"):
        good = "F_1\t00.01.02.000\t00.01.04.000\t00.01.02.000\t00.01.04.000\tText.\n"
        read(write("set/lsmdc.csv", good + "x\n"))


@pytest.mark.parametrize(
    ("name", "content"),
    {
        "MSRVTT_data.json": {"videos": [{"video_id": "a", "split": "train"}, "b"], "sentences": []},
        "activitynet.json": {"a": {"timestamps": [[0, 1]], "sentences": ["x"]}, "b": True},
        "vatex.json": [{"videoID": "a", "enCap": ["x"]}, {"videoID": "b", "enCap": 5}],
        "didemo.json": [{"video": "a", "description": "x", "times": [[]]}],
        "raw-captions.json": {"a": [["a", "man"]], "b": 5},
        "something.json": [{"id": "a", "label": "x"}, None],
    }.items(),
)
def test_an_entry_of_another_form_is_one_line(write, name, content):
    with pytest.raises(DataError, match=f"{name}: an entry does not have the form of the first one"):
        read(write(name, content))

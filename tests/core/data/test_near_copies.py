"""Near copies: found however an image was saved, marked, turned or cut, never where two images only look alike."""

import hashlib
import io
import os
import runpy
import shutil
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from vladapt import DomainData, Item, Label
from vladapt.core.data import file_hashes, nearest, thumbnails, verify
from vladapt.core.data import near_copies as module
from vladapt.core.data.class_folders import read_class_folders
from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.images import decode_image, reduced_image
from vladapt.core.data.near_copies import near_copies, near_copies_by_hash
from vladapt.core.data.splits import assign_splits, links_of
from vladapt.core.data.thumbnails import GREY_SIDE, Thumbnails, thumbnail
from vladapt.core.data.verify import content_key, drop_unreadable
from vladapt.core.runtime import reading

BASES = 24


@cache
def drawn(number, size=200):
    """A picture of soft coloured blobs with some detail; each number another."""
    generator = np.random.default_rng(number)
    coarse = Image.fromarray(generator.integers(0, 256, (7, 7, 3), dtype=np.uint8)).resize((size, size), 3)
    fine = Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)).resize((size, size), 3)
    return Image.blend(coarse, fine, 0.25)


@cache
def looking_alike(number, size=200):
    """One frame and one overall shape, as X-rays have; what is inside differs."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    generator = np.random.default_rng(number)
    inside = np.asarray(Image.fromarray(generator.integers(0, 256, (10, 10), dtype=np.uint8)).resize((size, size), 3))
    pixels = np.where(np.hypot(x, y) < 0.95, 110 + 40 * np.cos(2 * x) + 0.12 * (inside - 128.0), 4)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def saved(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return Image.open(io.BytesIO(file.getvalue()))


def marked(image):
    ImageDraw.Draw(image).text((40, 60), "LEFT 042", fill=(255, 255, 0), font=ImageFont.load_default(16))
    return image


def covered(image):
    """By two lines of letters, which touch most parts of the upper half; the lower one is as it was."""
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(image.height / 9)
    for y in (0.05, 0.3):
        draw.text((4, y * image.height), "PROOF 19 OF 74", fill=(255, 255, 255), font=font)
    return image


COPIES = {
    "smaller": lambda image: image.resize((60, 60), Image.Resampling.LANCZOS),
    "larger": lambda image: image.resize((400, 400), Image.Resampling.BICUBIC),
    "of another shape": lambda image: image.resize((150, 190), Image.Resampling.BILINEAR),
    "JPEG 20": lambda image: saved(image, "JPEG", quality=20),
    "JPEG 95": lambda image: saved(image, "JPEG", quality=95),
    "smaller JPEG": lambda image: saved(image.resize((80, 80)), "JPEG", quality=40),
    "WebP": lambda image: saved(image, "WEBP", quality=50),
    "GIF": lambda image: saved(image.convert("RGB").quantize(method=Image.Quantize.FASTOCTREE), "GIF"),
    "grey": lambda image: image.convert("L"),
    "grey JPEG": lambda image: saved(image.convert("L"), "JPEG", quality=50),
    "with a text": lambda image: marked(image.convert("RGB")),
    "brighter": lambda image: image.point(lambda level: min(255, round(1.25 * level))),
    "darker": lambda image: image.point(lambda level: round(0.6 * level)),
    "of less contrast": lambda image: image.point(lambda level: level // 2 + 60),
    "of another gamma": lambda image: image.point(lambda level: round(255 * (level / 255) ** 0.7)),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "upside down": lambda image: image.transpose(Image.Transpose.ROTATE_180),
    "turned left": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "turned right": lambda image: image.transpose(Image.Transpose.ROTATE_270),
    "transposed": lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    "cut at a corner": lambda image: image.crop((0, 0, round(0.95 * image.width), round(0.95 * image.height))),
    "cut and mirrored": lambda image: image.crop((10, 0, 200, 200)).transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def pairs_among(tmp_path, images, apart=None, of=near_copies):
    store = Thumbnails(tmp_path / "cache")
    keys = [
        hashlib.sha256(image.tobytes() + str((n, image.size)).encode()).hexdigest() for n, image in enumerate(images)
    ]
    for key, image in zip(keys, images, strict=True):
        store.add(key, thumbnail(image if isinstance(image, np.ndarray) else np.asarray(image.convert("RGB"))))
    store.flush()
    return {tuple(pair) for pair in of(keys, Thumbnails(tmp_path / "cache"), apart).tolist()}


@pytest.mark.parametrize("change", COPIES)
@pytest.mark.parametrize("draw", [drawn, looking_alike])
def test_copies_are_found_and_nothing_else(tmp_path, change, draw):
    bases = [draw(number) for number in range(BASES)]
    found = pairs_among(tmp_path, [*bases, *(COPIES[change](image) for image in bases)])
    true = {(number, BASES + number) for number in range(BASES)}
    assert len(found & true) >= 0.95 * BASES and found <= true


def test_marks_on_many_parts_leave_the_others_the_very_same(tmp_path, monkeypatch):
    bases = [drawn(number) for number in range(BASES)]
    images, true = [*bases, *map(covered, map(Image.Image.copy, bases))], {(n, BASES + n) for n in range(BASES)}
    found = pairs_among(tmp_path, images)
    assert len(found) >= 0.9 * BASES and found <= true
    monkeypatch.setattr(module, "LEAST_AGREEMENT", (*module.LEAST_AGREEMENT[:3], 99.0))
    monkeypatch.setattr(module, "MOST_ASKED", (*module.MOST_ASKED[:3], 99.0))
    assert len(pairs_among(tmp_path, images)) < 0.7 * BASES


def test_a_fine_texture_is_recognised_with_its_edges_cut(tmp_path):
    """As crowns of trees from above: thumbnails are interpolated at the scale of all that they show."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    noise = np.fft.fft2(np.random.default_rng(3).normal(size=(BASES, 64, 64))) / np.maximum(frequency, 1e-2) ** 0.5
    grey = np.fft.ifft2(noise).real
    bases = [Image.fromarray((128 + 40 * one / one.std()).clip(0, 255).astype(np.uint8)) for one in grey]
    found = pairs_among(tmp_path, [*bases, *(image.crop((3, 3, 61, 61)) for image in bases)])
    true = {(number, BASES + number) for number in range(BASES)}
    assert len(found & true) >= 0.9 * BASES and found <= true


def test_copies_are_not_measured_by_one_another_where_each_image_has_its_own_colour(tmp_path):
    """Neighbours of one colour are nearly all copies there, and say nothing of how far different images agree."""
    count, generator = 2 * BASES, np.random.default_rng(0)
    tints = generator.choice([0.2, 1.0], (count, 3)) + generator.uniform(0, 0.4, (count, 3))
    bases = [
        Image.fromarray((np.asarray(drawn(number).convert("L"))[:, :, None] * tint).clip(0, 255).astype(np.uint8))
        for number, tint in enumerate(tints)
    ]
    copies = [saved(marked(image.resize((70, 70)).resize(image.size)), "JPEG", quality=20) for image in bases]
    found = pairs_among(tmp_path, [*bases, *copies])
    true = {(number, count + number) for number in range(count)}
    assert len(found & true) >= 0.95 * count and found <= true


def test_in_large_sets_few_are_compared_and_cut_and_marked_copies_are_found(tmp_path, monkeypatch):
    """In the cells nearest to each image and to the image cut at all edges, and by halves that are not marked."""
    generator, count = np.random.default_rng(0), 1500
    spectra = np.fft.fft2(generator.normal(size=(count, 64, 64)))
    grey = np.fft.ifft2(spectra / np.maximum(np.hypot(*np.meshgrid(*2 * [np.fft.fftfreq(64)])), 1e-2) ** 1.3).real
    grey = 128 + 40 * grey / grey.std(axis=(1, 2), keepdims=True)
    bases = [Image.fromarray(each.clip(0, 255).astype(np.uint8)) for each in grey]
    changes = [lambda image: image.crop((0, 0, 61, 61)), lambda image: image.crop((3, 3, 61, 61)), COPIES["mirrored"]]
    changes.append(lambda image: covered(image.convert("RGB")))
    copies = [changes[number % 4](image) for number, image in enumerate(bases[:400])]
    true = {(number, count + number) for number in range(400)}
    monkeypatch.setattr(module, "SEARCHED_WHOLE", 1000)
    monkeypatch.setattr(module, "VISITS", 0)
    monkeypatch.setattr(nearest, "POINTS_A_CELL", 20)

    def recalls():
        pairs = pairs_among(tmp_path, [*bases, *copies])
        assert pairs <= true
        return [sum(number % 4 == change for number, _ in pairs) / 100 for change in range(4)]

    cut, trimmed, mirrored, marked = recalls()
    assert cut >= 0.95 and trimmed >= 0.9 and mirrored == 1 and marked >= 0.9
    for name in ("CELLS", "CELLS_OF_VIEW"):
        monkeypatch.setattr(module, name, 1)
    monkeypatch.setattr(module, "CHANGED", 5.0)
    fewer = recalls()
    assert fewer[3] < marked - 0.05
    monkeypatch.setattr(module, "VISITS", 4 * (count + len(copies)))  # by halves too
    assert recalls()[3] > fewer[3] + 0.05
    monkeypatch.setattr(module, "VISITS", 0)
    monkeypatch.setattr(module, "TRIMMED", 1.0)
    assert recalls()[1] < fewer[1] - 0.1


def test_copies_so_bright_that_the_ground_is_white_are_found(tmp_path, monkeypatch):
    """By the cell in the middle of a smear, where that shows enough."""
    away = np.hypot(*(np.mgrid[:200, :200] - 99.5))
    grey = [np.asarray(drawn(number).convert("L")) for number in range(BASES)]
    bases = [
        Image.fromarray(np.where(away < 70, 40 + level * 0.5, 190 + level * 0.2).astype(np.uint8)) for level in grey
    ]
    images = [*bases, *(image.point(lambda level: 1.4 * level) for image in bases)]
    true = {(number, BASES + number) for number in range(BASES)}
    found = pairs_among(tmp_path, images)
    assert len(found) >= 0.5 * BASES and found <= true
    monkeypatch.setattr(thumbnails, "WHITE", 256)
    assert len(pairs_among(tmp_path, images)) < 0.2 * BASES


def test_pairs_are_registered_up_to_a_number_and_the_nearest_first(tmp_path, monkeypatch):
    images = [looking_alike(number) for number in range(60)]
    images += [COPIES["cut at a corner"](image) for image in images[:4]]
    monkeypatch.setattr(module, "MOST_DOUBTFUL", 0)
    assert pairs_among(tmp_path, images) == {(number, 60 + number) for number in range(4)}
    monkeypatch.setattr(module, "MOST_COMPARED", 3)
    assert len(pairs_among(tmp_path, images)) in (1, 2, 3)


@pytest.mark.parametrize("draw", [drawn, looking_alike])
def test_hashes_tell_copies_that_are_neither_turned_nor_cut(tmp_path, draw):
    """Of large sets; what the hashes of images that look alike suggest is confirmed, too."""
    changes = ["smaller", "JPEG 95", "WebP", "grey", "brighter"]
    bases = [draw(number) for number in range(BASES)]
    images = [*bases, *(COPIES[changes[number % len(changes)]](image) for number, image in enumerate(bases))]
    found = pairs_among(tmp_path, images, of=near_copies_by_hash)
    true = {(number, BASES + number) for number in range(BASES)}
    assert len(found) >= 0.9 * BASES and found <= true
    apart = np.tile(np.arange(BASES), 2)
    assert not pairs_among(tmp_path, images, apart, of=near_copies_by_hash)
    mirrored = pairs_among(tmp_path, [*bases, *map(COPIES["mirrored"], bases)], of=near_copies_by_hash)
    assert len(mirrored) < BASES / 2


def test_of_some_images_of_one_hash_each_is_compared_with_each():
    hashes = np.array([5, 5, 5, 7, 7], np.uint64)
    pairs = module._of_near_hashes(hashes, np.arange(5))
    assert pairs.tolist() == np.stack(np.triu_indices(5, 1), axis=1).tolist()


def test_what_hashes_suggest_is_bounded(tmp_path, monkeypatch):
    bases = [drawn(number) for number in range(6)]
    images = [*bases, *(COPIES["JPEG 20"](image) for image in bases), *(COPIES["JPEG 95"](image) for image in bases)]
    all_ = pairs_among(tmp_path, images, of=near_copies_by_hash)
    monkeypatch.setattr(module, "MOST_CANDIDATES", 4)
    some = pairs_among(tmp_path, images, of=near_copies_by_hash)
    assert some and some < all_


def test_images_cut_at_all_edges_are_found(tmp_path):
    bases = [drawn(number) for number in range(BASES)]
    found = pairs_among(tmp_path, [*bases, *(image.crop((10, 10, 190, 190)) for image in bases)])
    true = {(number, BASES + number) for number in range(BASES)}
    assert len(found) >= 0.9 * BASES and found <= true


@pytest.mark.thorough(but=("64",))
@pytest.mark.parametrize("draw", [drawn, looking_alike])
@pytest.mark.parametrize("size", [28, 64, 200])
def test_different_images_are_no_copies(tmp_path, draw, size):
    assert not pairs_among(tmp_path, [draw(number, size) for number in range(400)])


def test_detail_tells_small_images_of_one_shape_apart(tmp_path):
    """What they share is a few waves; what they show lies in faint detail."""
    y, x = np.mgrid[-1 : 1 : 28 * 1j, -1 : 1 : 28 * 1j]
    shape, images = 128 + 60 * np.cos(2 * x + 1) * np.cos(2 * y - 0.5), []
    for number in range(8):
        drawn_detail = np.random.default_rng(number).integers(0, 256, (14, 14), dtype=np.uint8)
        detail = np.asarray(Image.fromarray(drawn_detail).resize((28, 28), 3)) - 128.0
        images.append(Image.fromarray((shape + 0.05 * detail).astype(np.uint8)))
    assert not pairs_among(tmp_path, images)


def test_colour_tells_images_apart(tmp_path):
    image = np.asarray(drawn(1)).astype(int)
    turned = image[..., [1, 2, 0]]
    turned = turned + (image @ [0.299, 0.587, 0.114] - turned @ [0.299, 0.587, 0.114])[..., None]  # of equal luminance
    images = [Image.fromarray(each.clip(0, 255).astype(np.uint8)) for each in (image // 2 + 64, turned // 2 + 64)]
    assert not pairs_among(tmp_path, images)
    assert pairs_among(tmp_path, [images[0], images[0].convert("L")]) == {(0, 1)}


def test_flat_images_have_no_copies(tmp_path):
    assert not pairs_among(tmp_path, [Image.new("RGB", (50, 50), (level, 0, 0)) for level in range(0, 200, 10)])


def test_images_that_belong_together_are_not_compared(tmp_path):
    images = [drawn(0), drawn(0, 100), drawn(1), drawn(1, 100)]
    assert pairs_among(tmp_path, images, apart=np.array([0, 0, 1, 2])) == {(2, 3)}
    assert not pairs_among(tmp_path, images, apart=np.zeros(4, dtype=int))


def test_many_copies_of_one_image_hang_together(tmp_path):
    images = [drawn(0, size) for size in range(100, 180)]
    pairs = pairs_among(tmp_path, images)
    reached, before = {0}, set()
    while reached != before:
        before, reached = reached, reached | {n for pair in pairs if reached & set(pair) for n in pair}
    assert reached == set(range(80))


def test_thumbnails_of_every_kind_of_pixels():
    pixels = np.asarray(drawn(5))
    plain = thumbnail(pixels)
    deep = thumbnail((pixels / 255).astype(np.float32))
    assert plain.dtype == np.uint8 and np.abs(deep.astype(int) - plain).max() <= 1
    still = thumbnail(np.stack([pixels] * 3))
    assert (still[: GREY_SIDE**2] == 128).all() and np.array_equal(still[GREY_SIDE**2 :], plain[GREY_SIDE**2 :])
    assert np.array_equal(thumbnail(np.concatenate([pixels, pixels[..., :2]], axis=2)), plain)
    assert thumbnail(np.zeros((4, 4, 2), np.float32)) is None and thumbnail(np.zeros((0, 4, 3), np.uint8)) is None


def clip_of(room, things, ways, size=96):
    """Things that cross one room, (8, H, W, 3): what they look like, and where they go."""
    frames = np.stack([np.asarray(drawn(room, size))] * 8)
    for step, frame in enumerate(frames):
        for thing, way in zip(things, ways):
            y, x = ((way[0] + step * way[1]) % (size - 32), (way[2] + step * way[3]) % (size - 32))
            frame[y : y + 32, x : x + 32] = np.asarray(drawn(thing, 32))
    return frames


def test_clips_of_one_camera_are_no_copies_and_a_clip_mirrored_or_saved_anew_is_one(tmp_path):
    generator = np.random.default_rng(0)
    clips = [clip_of(0, (n, n + 50, n + 90), generator.integers(1, 60, (3, 4))) for n in range(1, 31)]
    changed = [
        np.stack([np.asarray(saved(Image.fromarray(f), "JPEG", quality=60)) for f in clip]) for clip in clips[:8]
    ]
    mirrored = [clip[:, :, ::-1] for clip in clips[8:16]]
    pairs = pairs_among(tmp_path, [*clips, *changed, *mirrored])
    assert pairs <= {(n, 30 + n) for n in range(16)} and len(pairs) >= 14


def test_a_reduced_image_has_the_thumbnail_of_the_whole(tmp_path):
    for number in range(10):
        file = tmp_path / f"{number}.jpg"
        drawn(number, 1100 + 37 * number).rotate(90, expand=True).save(file, quality=85)
        pixels, size = reduced_image(file, 8 * GREY_SIDE)
        whole = decode_image(file, {})
        assert size == whole.shape[:2] and pixels.shape[0] < 0.6 * whole.shape[0]
        first, second = (thumbnail(each).astype(int) for each in (whole, pixels))
        assert np.abs(first[:-8] - second[:-8]).mean() < 2
        assert np.array_equal(thumbnail(pixels, size)[-8:], thumbnail(whole)[-8:])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of 20 images, every second of them once more as a smaller JPEG; for reading only."""
    folder = tmp_path_factory.mktemp("set")
    for number in range(40):
        place = folder / ("b" if number % 2 else "a")
        place.mkdir(exist_ok=True)
        drawn(number).save(place / f"{number:02}.png")
        if number % 4 < 2:
            drawn(number).resize((90, 90)).save(place / f"copy_{number:02}.jpg", quality=50)
    return folder


def checked(folder, cache):
    hashes = FileHashes(cache)
    return drop_unreadable(read_class_folders(folder), hashes), hashes


def sides(data):
    by_number = defaultdict(set)
    for item in data.items:
        by_number[item.source.stem[-2:]].add(item.split)
    return by_number.values()


def test_windows_of_one_picture_are_no_copies_of_each_other(tmp_path):
    whole = np.asarray(drawn(1, 120))
    Image.fromarray(np.concatenate([whole, whole[:, ::-1]], axis=1)).save(tmp_path / "field.png")
    boxes = ([0, 0, 120, 120], [120, 0, 240, 120])
    items = [Item(str(n), tmp_path / "field.png", {"box": box}, Label(0), apart=True) for n, box in enumerate(boxes)]

    def load(item):
        left, top, right, bottom = item.decode["box"]
        return decode_image(item.source, {})[top:bottom, left:right]

    hashes = FileHashes(tmp_path / "cache")
    data = drop_unreadable(DomainData(items, ("a",), load), hashes)
    assert not links_of(data, hashes).near
    for n, item in enumerate(items):  # the same in two files
        Image.fromarray(load(item)).save(tmp_path / f"{n}.png")
    files = [Item(f"{n}.png", tmp_path / f"{n}.png", {}, Label(0)) for n in range(2)]
    data = drop_unreadable(DomainData(files, ("a",), lambda item: decode_image(item.source, {})), hashes)
    assert len(links_of(data, hashes).near) == 1


def test_made_splits_keep_near_copies_together(folder, tmp_path):
    data, hashes = checked(folder, tmp_path / "cache")
    divided = assign_splits(data, seed=0, hashes=hashes)
    assert all(len(side) == 1 for side in sides(divided))
    note = (
        "Near copies of other images (resized, turned, cut, ...): 20; each stays in the split of the image it copies."
    )
    assert divided.notes == [note]
    assert assign_splits(data, seed=0, hashes=hashes, links=links_of(data, hashes)).items == divided.items
    unaware = assign_splits(read_class_folders(folder), seed=0, hashes=hashes)
    assert any(len(side) > 1 for side in sides(unaware)) and not unaware.notes


def test_the_order_of_the_files_changes_no_link(folder, tmp_path):
    data, hashes = checked(folder, tmp_path / "cache")
    backwards = data.with_items(data.items[::-1])
    alike = {frozenset(data.items[n].id for n in some) for some in links_of(data, hashes).near}
    (tmp_path / "cache" / "near-copies").rename(tmp_path / "aside")
    assert alike == {frozenset(backwards.items[n].id for n in some) for some in links_of(backwards, hashes).near}
    assert len(alike) == 20


def test_given_splits_stay_and_the_divided_are_told(folder, tmp_path):
    data, hashes = checked(folder, tmp_path / "cache")
    where = {"copy": "train", "test": "test", "val": "val"}
    items = []
    for item in data.items:
        kind = "copy" if "copy" in item.id else "val" if item.source.stem.endswith(("0", "1")) else "test"
        items.append(item.with_(split=where[kind]))
    divided = assign_splits(data.with_items(items), seed=0, hashes=hashes)
    assert [item.split for item in divided.items] == [item.split for item in items]
    assert divided.notes[1].startswith("Warning: 16 of 32 test images have a near copy in train or val")
    assert divided.notes[2].startswith("Warning: 4 of 8 val images have a near copy in train")


def test_val_taken_from_a_given_train_split_has_no_near_copies_in_it(folder, tmp_path):
    data, hashes = checked(folder, tmp_path / "cache")
    items = [item.with_(split="test" if item.source.stem == "03" else "train") for item in data.items]
    divided = assign_splits(data.with_items(items), seed=0, hashes=hashes)
    assert {item.split for item in divided.items} == {"train", "val", "test"}
    assert all(len(side) == 1 for side in sides(divided))


def test_nothing_is_decoded_a_second_time(folder, tmp_path, monkeypatch):
    data, _ = checked(folder, tmp_path / "cache")
    count = []
    loaded = DomainData(data.items, data.class_names, load=lambda item: count.append(item) or data.load(item))
    again = drop_unreadable(loaded, FileHashes(tmp_path / "cache"))
    assert not count and len(again.items) == 60
    drop_unreadable(loaded, FileHashes(tmp_path / "another cache"))
    assert len(count) == 60


def test_what_an_older_cache_lacks_is_made(folder, tmp_path):
    checked(folder, tmp_path / "cache")
    for file in (tmp_path / "cache" / "thumbnails").iterdir():
        file.unlink()
    data, hashes = checked(folder, tmp_path / "cache")
    assert not data.thumbnails.missing({content_key(item, hashes) for item in data.items})


def test_large_sets_are_compared_without_being_checked_whole(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(DomainData, "VERIFIED_UP_TO", 10)
    folder = shutil.copytree(folder, tmp_path / "set")
    (folder / "a" / "broken.png").write_bytes(b"no image")
    data, hashes = checked(folder, tmp_path / "cache")
    assert len(data.items) == 61 and not data.skipped
    divided = assign_splits(data, seed=0, hashes=hashes)
    assert all(len(side) == 1 for side in sides(divided)) and "Near copies" in divided.notes[0]
    for place in (verify, module):
        monkeypatch.setattr(place, "NEIGHBOURS_UP_TO", 20)
    monkeypatch.setattr(module, "near_copies", lambda *args: pytest.fail("of neighbours"))
    data, hashes = checked(folder, tmp_path / "cache")
    assert data.notes[-1].startswith("Near copies among more than 20 images are told by perceptual hashes")
    by_hash = assign_splits(data, seed=0, hashes=hashes)
    assert all(len(side) == 1 for side in sides(by_hash))
    monkeypatch.setattr(verify, "find_spec", lambda name: None)
    data, _ = checked(folder, tmp_path / "cache")
    assert data.thumbnails is None and "not looked for: that needs faiss" in data.notes[-1]


def test_exact_copies_count_as_exact_alone(tmp_path):
    items = []
    for number in range(12):
        file = tmp_path / f"{number:02}.png"
        drawn(number // 2).save(file)
        items.append(Item(file.name, file, target=Label(number // 2 % 2)))
    hashes = FileHashes(tmp_path / "cache")
    data = DomainData(items, ("a", "b"), load=lambda item: np.asarray(Image.open(item.source)))
    divided = assign_splits(drop_unreadable(data, hashes), seed=0, hashes=hashes)
    assert divided.notes == ["Exact copies of other images: 6; copies are never in two splits."]


@pytest.mark.thorough(but=("medical/pneumonia",))
@pytest.mark.parametrize("name", ["medical/wbc_classification", "medical/pneumoniamnist", "remote_sensing/rsscn7"])
def test_real_sets(data_dir, name):
    script = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "near_duplicates.py"))
    files = script["files_of"](data_dir / name)[:80]
    measured = script["measure"](files)
    assert measured.images == len(files) > 30 and measured.recall >= 0.95 and measured.false <= 0.001


@pytest.fixture
def read_twice(tmp_path):
    """A folder of pictures, the first of them saved again, and what a command does with it before it divides it."""
    folder = tmp_path / "set"
    for number in range(12):
        (folder / f"class {number % 2}").mkdir(parents=True, exist_ok=True)
        drawn(number).save(folder / f"class {number % 2}" / f"{number}.png")
    drawn(0).resize((90, 90)).save(folder / "class 0" / "again.png")

    def command():
        hashes = FileHashes(tmp_path / "cache")
        data = drop_unreadable(read_class_folders(folder), hashes, workers=1)
        return links_of(data, hashes)

    return command


def test_pairs_are_kept_under_the_keys_and_made_again_where_they_are_damaged(read_twice, tmp_path, monkeypatch):
    first, searched = read_twice(), []
    assert first.near_count == 1
    real = module.near_copies
    monkeypatch.setattr(module, "near_copies", lambda *args: searched.append(1) or real(*args))
    assert read_twice() == first and not searched
    (kept,) = (tmp_path / "cache" / "near-copies").iterdir()
    whole = kept.read_bytes()
    for damaged in (whole[:-1], b"", whole[:-16], whole[:32] + b"\1" + whole[33:]):
        searched.clear()
        kept.write_bytes(damaged)
        assert read_twice() == first and searched
        assert kept.read_bytes() == whole


def test_another_image_or_group_is_another_set_of_pairs(read_twice, tmp_path):
    read_twice()
    drawn(3).resize((90, 90)).save(tmp_path / "set" / "class 1" / "once more.png")
    assert read_twice().near_count == 2
    data, hashes = read_class_folders(tmp_path / "set"), FileHashes(tmp_path / "cache")
    thumbnails, keys = Thumbnails(tmp_path / "cache"), sorted(content_key(item, hashes) for item in data.items)
    apart = np.arange(len(keys))
    pairs = module.remembered_near_copies(keys, thumbnails, apart)
    assert len(pairs) == 2
    apart[pairs[0]] = -1
    assert module.remembered_near_copies(keys, thumbnails, apart).tolist() == pairs[1:].tolist()
    assert module.remembered_near_copies(keys, thumbnails, 7 - apart).tolist() == pairs[1:].tolist()
    assert len(list((tmp_path / "cache" / "near-copies").iterdir())) == 3


def test_a_second_command_asks_for_each_file_once_to_list_it_and_once_for_its_hash(read_twice, tmp_path, monkeypatch):
    monkeypatch.setattr(DomainData, "VERIFIED_UP_TO", 0)
    monkeypatch.setattr(reading, "SETTLED_NS", -1)  # as if the files had been there for a while
    read_twice()
    asked, opened = Counter(), []
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **more: asked.update([os.path.basename(path)]) or real(path, **more))
    monkeypatch.setattr(file_hashes, "sha256_of", opened.append)
    read_twice()
    times = sorted(asked[f"{name}.png"] for name in (*range(12), "again"))
    assert times[:-2] == [2] * 11  # one of each folder is looked at more often, to tell how the set is laid out
    assert not opened

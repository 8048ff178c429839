"""What a place that stands without a flag is taken for."""

import numpy as np

from vladapt.core.contracts.recipe import holds_features


def test_features_are_told_by_the_names_of_their_arrays(tmp_path):
    np.savez(tmp_path / "features.npz", image_features=np.zeros((2, 3)), labels=np.zeros(2))
    np.savez(tmp_path / "images.npz", train_images=np.zeros((2, 4, 4)), train_labels=np.zeros(2))
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    (tmp_path / "features.safetensors").touch()
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    shards = tmp_path / "embedded" / "0a1b"
    (shards / "_state").mkdir(parents=True)
    (shards / "part-00000000.parquet").touch()
    names = ["features.npz", "features.safetensors", "embedded", "embedded/0a1b"]
    assert all(holds_features(tmp_path / name) for name in names)
    assert not any(holds_features(tmp_path / name) for name in ("images.npz", "broken.npz", "photos", "nothing"))


def test_a_place_alone_is_the_data_or_the_features(tmp_path):
    from vladapt.core.commands.options import FIT, FromRecipe

    np.savez(tmp_path / "features.npz", image_features=np.zeros((2, 3)))
    made = FromRecipe(judged=FIT, several=True, place=True).flags([], ()).made
    assert made({"place": str(tmp_path / "features.npz")}).flags["features"] == str(tmp_path / "features.npz")
    assert made({"place": str(tmp_path)}).flags["data.path"] == str(tmp_path)

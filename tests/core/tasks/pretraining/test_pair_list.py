"""A pre-training on a list of pairs that lie in tars, each drawn as often as its weight says."""

import json

from tar_shards import shard, simple

from vladapt.core.data.pairs.pair_list import list_schema
from vladapt.core.runtime.progress import Reporter
from vladapt.core.tasks.pretraining.pretrain import PretrainPlan, pretrain
from vladapt.core.training.settings import TrainingSettings


def test_it_trains_on_the_pairs_of_a_list_by_their_weights(small_clip_spec, tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    tar = shard(tmp_path / "pool.tar", simple(30))
    keys = [f"{number:04d}" for number in range(0, 30, 2)]
    rows = [{"id": f"pool:{k}", "weight": 2.0, "source": tar.name, "key": k, "row": -1, "caption": None} for k in keys]
    pq.write_table(pa.Table.from_pylist(rows, list_schema()), tmp_path / "LIST.parquet")
    lines = []
    plan = PretrainPlan(
        data=str(tmp_path / "LIST.parquet"),
        out=str(tmp_path / "model"),
        losses={"clip": 1.0},
        backbone=small_clip_spec,
        device="cpu",
        settings=TrainingSettings(epochs=1, batch_size=4),
    )
    reporter = Reporter(quiet=True)
    monkeypatch.setattr(reporter, "info", lines.append)
    done = pretrain(plan, reporter=reporter)
    facts = json.loads((tmp_path / "model" / "run.json").read_text())["data"]
    assert facts["splits"]["train"] == 11 and facts["images"] == 15
    assert done.summary["steps"] == 22 // 4
    assert any("Weights: an epoch draws 22 of 11 pairs" in line for line in lines), lines
    assert any("List: 15 samples of 1 tars" in note for note in done.notes), done.notes

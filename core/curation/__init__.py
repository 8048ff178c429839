"""Pairs of image and text, gathered into one table; curators run on it; what they decide, as files."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "decide": "DecisionStage counted survey_pairs",
        "facts": "PairFacts",
        "record": "chain_of last_of record_of write_record",
        "report": "curation_report",
        "table": "FeatureShards HAS build_table decided open_table positions_kept",
    },
)

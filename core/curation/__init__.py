"""Pairs of image and text, gathered into one table; curators run on it; what they decide, as files."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "decide": "DecisionStage survey_pairs tally",
        "facts": "PairFacts",
        "lists": "KeptPairs decision_files read_part write_list write_uids",
        "peers": "PeerFiles",
        "recipes": "CurationRecipe RECIPES curation_recipe",
        "record": "StageDone chain_of last_of record_of stages_of write_record",
        "report": "curation_report unchecked",
        "tars": "write_tars",
        "stored": "StoredColumns PairFeatures",
        "table": "HAS build_table decided open_table positions_kept",
    },
)

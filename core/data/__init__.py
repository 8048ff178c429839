"""Readers of folders, tables and annotation files, and what is drawn from them: splits, shots, pools, pairs."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "array_files": "ArrayFile",
        "class_folders": "Layout",
        "coco": "CocoFile",
        "crops": "Box ListedImage",
        "detect": "read_any",
        "detections": "read_detections",
        "drawing": "Drawing",
        "files": "Format ItemCollector folders loader locate shown visible walk",
        "file_hashes": "FileHashes",
        "group_columns": "columns_beside group_by_tables_beside group_of group_rows",
        "group_names": "GroupNames",
        "hamming": "bits_apart hashes_within near_pairs",
        "images": "IMAGE decode_image",
        "k_centre": "farthest_first",
        "links": "stays_inside",
        "listed_splits": "with_lists",
        "matlab": "read_matlab",
        "number_tables": "read_numbers",
        "nearest": "faiss_library nearest_rows",
        "pairs.captions": "CaptionSampler",
        "pairs.pair_set": "Pair PairSet StoredImages",
        "pairs.reading": "read_pairs",
        "pairs.record_fields": "split_named",
        "sampling": "Selection selection_split",
        "splits": "assign_splits",
        "tables": "Row Table csv_text read_table",
        "unlabelled": "decodable images_of read_unlabelled readable",
        "verify": "check_tolerated digests_of remember_by_file",
        "voc": "VocSet",
    },
)

"""Readers of folders, tables and annotation files, and what is drawn from them: splits, shots, pools, pairs."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "array_files": "array_headers load_arrays read_array_header reading_arrays",
        "augmentation": "SeededAugment",
        "class_folders": "CONTAINERS SPLIT_FOLDERS find_layout",
        "coco": "by_kind_of_id coco_images find_coco_files image_roots is_coco read_coco_file split_of usable_id "
        "what_lacks",
        "crops": "BoxedImage image_folders",
        "detect": "read_any",
        "detections": "read_detections",
        "files": "Format ItemCollector folders format_of licence_of loader locate shown stays_inside visible walk "
        "with_max_pixels",
        "group_columns": "AUTO NONE group_by_tables_beside group_of group_rows",
        "images": "BAND_PIXELS DECODER_LIMITS IMAGE IMAGE_SUFFIXES decode_bytes decode_image decode_values too_large "
        "upright_size",
        "listed_splits": "with_lists",
        "manifests": "IMAGE_COLUMNS LABEL_COLUMNS SPLIT_COLUMNS",
        "pairs.augment_text": "TextAugment",
        "pairs.captions": "CaptionSampler generator_of",
        "pairs.pair_set": "Pair PairSet StoredImages",
        "pairs.reading": "JSON_NAMES TABLES read_pairs",
        "pairs.record_fields": "split_named",
        "pairs.shards": "shards_in",
        "sampling": "NoValidation Selection folds rank selection_split",
        "splits": "assign_splits",
        "support_folder": "support_folder_images",
        "tables": "Row TABLE_SUFFIXES Table plain_name read_table",
        "unlabelled": "decodable images_of read_unlabelled readable",
        "verify": "FileHashes VERIFY_ALL_UP_TO check_skipped remember_by_file",
        "voc": "find_voc_files parse_voc voc_image_name voc_objects voc_splits",
    },
)

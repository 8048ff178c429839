"""Files, processes, progress and threads: what the machine asks for, whatever is computed."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "files": "WorkFolder caching file_stem filled_once replacing write_cached write_whole",
        "local_page": "LocalPage",
        "process": "cache_folder installed_version",
        "progress": "Reporter",
        "ranks": "Ranks",
        "reading": (
            "check_regular json_text json_values read_json read_start read_text read_yaml text_lines version_of "
            "why_not_regular"
        ),
    },
)

"""What `embed`, `index`, `search`, `select`, `push` and `serve` take besides data and places: each option is a keyword
of the function and a flag of the command. What is None was not given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..contracts.options import option, options_of, settle
from ..errors import ConfigError

if TYPE_CHECKING:
    from ..shards import Executor

PARQUET, BAGS = "parquet", "bags"
PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Who runs the tasks that work is cut into. Results do not depend on it."""

    engine: str = option(
        "local", "who runs shards: local, this machine (the default), ray, or an engine of a plug-in", metavar="NAME"
    )
    processes: int | None = option(
        None,
        "worker processes, each with its own model, in turn on the GPUs of the machine; by default this one, and with "
        "--engine ray one per GPU or core",
        low=1,
        metavar="N",
    )
    address: str | None = option(
        None,
        "the Ray cluster: HOST:PORT, or auto for that of this machine; by default RAY_ADDRESS, or a Ray started here",
        metavar="auto|HOST:PORT",
    )
    worker_cpus: int | None = option(
        None, "cores per worker on Ray; by default 1, or an equal share of the machine for each GPU", low=1
    )
    worker_gpus: float | None = option(
        None, "GPUs per worker on Ray, such as 0.5; by default 1 where the cluster has some", low=0.0
    )

    @property
    def is_elsewhere(self) -> bool:
        """Whether other processes are to work."""
        return self.engine != "local" or self.processes is not None

    def executor(self, device: str, say: Callable[[str], None]) -> Executor:
        """Who runs shards.

        Args:
            device: that models are for: with "cpu", workers ask for no GPU.
            say: tells the user one line.

        Raises:
            ConfigError: options that do not go together.
        """
        from ..runtime.process import visible_gpus
        from ..shards import build_executor

        cluster = {name: getattr(self, name) for name in ("address", "worker_cpus", "worker_gpus")}
        if self.engine == "local":
            if of_cluster := [name for name, value in cluster.items() if value is not None]:
                raise ConfigError(
                    f"--{of_cluster[0].replace('_', '-')}: is for a cluster; add --engine ray, or omit it"
                )
            if self.processes is None:
                return build_executor("serial")
            gpus = visible_gpus() if device in ("auto", "cuda") else []
            return build_executor("pool", processes=self.processes, devices=gpus)
        if self.engine in ("serial", "pool"):
            raise ConfigError(f"--engine {self.engine}: is local; give --engine local, with --processes N for a pool")
        if device == "cpu" and self.worker_gpus is None:
            cluster["worker_gpus"] = 0
        return build_executor(self.engine, processes=self.processes, say=say, **cluster)


@dataclass(frozen=True, kw_only=True)
class CutOptions(EngineOptions):
    """How work is cut into shards, and who runs them."""

    shard_size: int = option(10_000, "images per shard; by default 10000, a minute or a few of work", low=1)


@dataclass(frozen=True, kw_only=True)
class ShardOptions(CutOptions):
    """The same of work of which a part may be run by itself."""

    shard: str | None = option(
        None,
        "only shards K, K + N, K + 2 N, ... of all, as one of N jobs that know nothing of each other",
        metavar="K/N",
    )


@dataclass(frozen=True, kw_only=True)
class ReaderOptions(ShardOptions):
    """The same of a model of transformers that reads the pairs."""

    batch_size: int = option(16, "pairs at once; by default 16", low=1)
    device: str = option("auto", "where the model runs: auto (the default), cpu, cuda, ...", metavar="NAME")
    precision: str = option("float32", "of the model: float32 (the default), bfloat16 or float16", choices=PRECISIONS)


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(ReaderOptions):
    """How it is told whether image and text match."""

    tokens: int = option(35, "tokens of a text, at most; by default 35", low=3)


@dataclass(frozen=True, kw_only=True)
class CaptionOptions(ReaderOptions):
    """How captions are written."""

    prompt: str = option("", "what a caption begins with, or the model is asked", metavar="TEXT")
    tokens: int = option(30, "tokens of a caption, at most; by default 30", low=1)
    top_p: float = option(
        0.0, "draw from the likeliest words of this probability; by default 0, none are drawn", low=0, high=1
    )
    beams: int = option(1, "sequences followed at once where none is drawn; by default 1", low=1)
    repetition: float = option(1.0, "above 1, words do not come again so easily; by default 1", above=0)
    seed: int = option(0, "of what is drawn; by default 0", low=0)
    matcher: str | None = option(
        None, "a BLIP with a head for matching: tells which captions match their image", metavar="MODEL"
    )


OF_SHARDS = frozenset(each.name for each in options_of(ShardOptions))


def are_shards(outputs: str | Sequence[str] | None) -> bool:
    """Whether shards are among kinds of output, as `--as` has them."""
    return PARQUET in ",".join([outputs] if isinstance(outputs, str) else outputs or ()).split(",")


def refuse_of_shards(options: Mapping[str, Any], *further: str) -> None:
    """Raise the ConfigError of an option of shards where no shards are asked for.

    Args:
        options: by name.
        further: names of options that are of shards, too.
    """
    for name, value in options.items():
        if name in (*OF_SHARDS, *further) and value is not None:
            flag = name.replace("_", "-")
            raise ConfigError(f"--{flag}: is an option of shards; give --as parquet too, and a folder as --out")


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How photographs are decoded."""

    fast_decode: bool = option(
        False,
        "let the decoder of JPEG reduce large photographs on the way, to twice the pixels per side that the backbone "
        "takes or more; features differ a little, and are those of another encoder",
    )


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(ShardOptions, DecodeOptions):
    """What is written besides one vector per image."""

    as_: str | None = option(
        None,
        "write a folder: of shards, which the same command continues where it was stopped, or of the features of the "
        "tiles of each slide, which --bags reads",
        choices=(PARQUET, BAGS),
        metavar="|".join((PARQUET, BAGS)),
    )
    captions: bool = option(False, "in shards, also write the features of the text that an image comes with")
    dtype: str = option(
        "float16", "numbers in shards: float16 (the default) or float32", choices=("float16", "float32")
    )
    view: int | None = option(
        None,
        "in shards, of an augmented view of each image in place of the image: its number, from 0, fixes it. "
        "Teachers of pretrain are stored so",
        low=0,
        high=1_000_000,
        metavar="N",
    )
    parts: bool = option(False, "also write the features of each frame, slice or window of a sample")
    patch_tokens: bool = option(False, "also store the features of all patches, for methods that use them")


@dataclass(frozen=True, kw_only=True)
class JoinOptions:
    """What the space of two towers is made of, and how."""

    pairs: str | None = option(
        None,
        "images with texts that the space is fitted on: a folder or file as `fit --task retrieval` reads it",
        metavar="DATA",
    )
    sentences: str | None = option(
        None,
        "a .csv, .tsv or .jsonl of sentences: a column that the image tower's own texts read, and their translations "
        "for --text; no image is needed",
        metavar="FILE",
    )
    translated: str | None = option(
        None,
        "columns of --sentences: FROM,TO,... (caption,caption_de); by default the first and those of its languages",
        metavar="FROM,TO",
    )
    names: str | None = option(
        None,
        "a file of names, one on each line, that the image tower knows by texts of its own; added to ImageNet's",
        metavar="FILE",
    )
    map: str = option(
        "auto",
        "the map from images to texts: auto, the best in cross-validation (the default), ridge, procrustes, "
        "robust-procrustes or least-squares",
        metavar="NAME",
    )
    ridge: float | None = option(
        None, "penalty of the map ridge; by cross-validation by default, 1 in what was published", low=0.0
    )
    untrained: str | None = option(
        None,
        "no map, but layers for `vladapt pretrain` to learn: text-head, from texts into the image tower's own space "
        "(recipes lit, m-clip), or projections of both into a new one (recipe clip-italian)",
        choices=("text-head", "projections"),
    )
    space_width: int | None = option(
        None, "width of the space of --untrained projections; 512 by default", low=1, high=65_536, metavar="N"
    )
    pooling: str | None = option(
        None,
        "how the tokens of --text become one vector, if nothing published says it: mean, cls or pooler",
        choices=("mean", "cls", "pooler"),
    )
    prefix: str = option("", "text before every text, as some encoders want it (query: )", metavar="TEXT")
    keep_image: float | None = option(
        None,
        "angle in degrees by which image features stand beside what texts see of them, in a space made of names: 88 by "
        "default, which methods for few labels need; 0 leaves them out",
        low=0.0,
        high=89.0,
    )
    seed: int = option(
        1,
        "random seed, of the division of pairs in cross-validation, and of layers that are not trained yet",
        low=0,
        high=2**31 - 1,
    )

    def __post_init__(self):
        settle(self, "join")


@dataclass(frozen=True, kw_only=True)
class CurateOptions(CutOptions):
    """What is known of the pairs besides their files, and which are still there."""

    features: str | None = option(
        None,
        "features of the pairs: the folder that `vladapt embed SOURCES --as parquet --captions` wrote",
        metavar="DIR",
    )
    encoder: str | None = option(
        None,
        "of features of several backbones: which, as its column is called behind image_features_; with =ENCODER behind "
        "it, what targets and test sets call the same encoder",
        metavar="NAME[=ENCODER]",
    )
    columns: tuple[str, ...] | None = option(
        None,
        "further columns of the pairs by their ids: folders of `vladapt curate score` or `caption`, or of your own "
        "Parquet files, with commas between",
        metavar="DIR",
    )
    after: tuple[str, ...] | None = option(
        None,
        "earlier decisions, folders with commas between; only pairs that all of them keep are judged",
        metavar="DIR",
    )
    tolerate: float = option(0.05, "share of the pairs that may be unreadable; by default 0.05", low=0.0, high=1.0)

    @property
    def encoder_names(self) -> tuple[str, str]:
        """(which of several, its other name); "" for what is not given."""
        name, _, other = (self.encoder or "").partition("=")
        return name.strip(), other.strip()


WRITE_FORMS = "list,tars,uids"


def forms_option() -> Any:
    """Field: the forms in which is written what is kept."""
    return option(
        ("list",),
        "what tells which pairs are kept, with commas between: list (LIST.parquet, which pretrain reads; always), "
        "tars, or uids (DataComp's array)",
        metavar=WRITE_FORMS,
    )


def check_write_forms(forms: Sequence[str]) -> None:
    """Raise the ConfigError of a form in which nothing is written."""
    if unknown := set(forms) - set(WRITE_FORMS.split(",")):
        raise ConfigError(f"--write {min(unknown)}: give some of {WRITE_FORMS.replace(',', ', ')}")


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """In which forms is written what is kept, and what the card says."""

    captions: str | None = option(
        None, "captions by a model, of `curate caption`; the list has them beside the texts, tars do not", metavar="DIR"
    )
    write: tuple[str, ...] = forms_option()
    samples: int = option(10_000, "pairs of each tar; by default 10000", low=1)
    name: str | None = option(None, "name of the set, in its card; by default the folder's", metavar="NAME")
    licence: str | None = option(None, "licence of the set, in its card, such as cc-by-4.0", metavar="ID")

    def __post_init__(self) -> None:
        check_write_forms(self.write)


@dataclass(frozen=True, kw_only=True)
class RemovalOptions(CurateOptions):
    """What is removed."""

    ids: str | None = option(None, "file of ids to remove, one per line", metavar="FILE")
    hashes: str | None = option(None, "file of sha256 or md5 sums of images to remove, one per line", metavar="FILE")


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """Of a page on decisions."""

    faces: bool = option(False, "show pictures as they are on the page; by default as mosaics in which nobody is known")


@dataclass(frozen=True, kw_only=True)
class ReportOptions(PageOptions):
    """Of the page alone, once the decisions are made."""

    attributes: str | None = option(
        None, 'two attributes and words that tell of them: {"old": ["old"], "young": [...]}', metavar="FILE"
    )


@dataclass(frozen=True, kw_only=True)
class CurationRunOptions(CurateOptions, PageOptions):
    """What a recipe of curation takes besides, and what it writes."""

    tests: tuple[str, ...] | None = option(
        None,
        "test sets that must not be in what is kept: files or folders of features, with commas between",
        metavar="DIR",
    )
    write: tuple[str, ...] = forms_option()

    def __post_init__(self) -> None:
        check_write_forms(self.write)


@dataclass(frozen=True, kw_only=True)
class IndexOptions(ShardOptions, DecodeOptions):
    """What an index holds, and how it is searched. Texts and images lie apart in the shared space of most backbones
    (one kind would fill the first places), so an index holds one of them."""

    texts: str | None = option(None, "index a text file, one text per line, instead of images", metavar="FILE")
    kind: str | None = option(
        None,
        "kind of index: flat (exact; the default), hnsw (a graph, for millions), ivf (cells, quick to build), ivf-pq "
        "or ivf-sq8 (codes, for many millions)",
        metavar="NAME",
    )
    features: str | None = option(
        None,
        "folder or URL of features as shards (`vladapt embed --as parquet`): those of the images are used, or written "
        "there; without images, all of it is indexed; or a file of stored pairs (npz, safetensors, or sample)",
        metavar="DIR|FILE",
    )
    add: bool = option(False, "add to the index at --out, instead of replacing it")
    only_new: bool = option(False, "with --add, leave out what the index has already")
    delete: str | None = option(
        None,
        "delete an entry from the index at --out, by its id as search shows it, or those of @FILE, one id per line",
        metavar="ID",
    )
    compact: bool = option(False, "rewrite the index at --out without what was deleted, in as few segments as possible")
    graph_threads: int | None = option(
        None,
        "threads that build an hnsw index; by default 1: with several the same images give another file each time",
        low=1,
        metavar="N",
    )
    verify: bool = option(False, "read the whole index at --out and check it against what was written")


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What is looked for besides words, and how it is shown.

    Results of one group have at least the mean cosine `cluster`: pictures that seem to show the same. `blur` hides the
    top quarter, where the heads of people cut out are.
    """

    image: str | None = option(
        None,
        "an image to look for, alone or together with the words; in an index of stored features, the id of an image",
        metavar="FILE",
    )
    weight: float | None = option(
        None, "weight of the words where an image is given too, 0 to 1; by default 0.5, with --compose slerp 0.8"
    )
    compose: str | None = option(
        None,
        "how an image and words become one query: sum (the default), product, slerp or freedom; options behind a "
        "colon, as in freedom:words=5",
        metavar="NAME",
    )
    vocabulary: str | None = option(
        None,
        "words that --compose freedom puts the image into, one per line; by default the class names of ImageNet",
        metavar="FILE",
    )
    top: int = option(10, "how many results; by default 10")
    refine: bool = option(
        True, "of ivf-pq and ivf-sq8, rank the nearest again by their stored features; yes by default", metavar="yes|no"
    )
    candidates: int | None = option(
        None, "how many of the nearest a method that looks at words and clip together ranks again; by default 100"
    )
    since: str | None = option(
        None, "only results from this date, time or frame on, where the index knows it", metavar="TIME"
    )
    own_group: bool | None = option(
        None,
        "whether results may be of the image's own group (patient, video); by default as its domain has it",
        metavar="yes|no",
    )
    cluster: float | None = option(None, "group results that are this alike, for instance 0.9", metavar="COSINE")
    blur: bool = option(False, "pixelate the top quarter of each picture on the page")
    html: str | None = option(None, "write a page of the pictures found to this file", metavar="FILE")
    backbone: str | None = option(
        None, "the index's backbone, if it has moved; it must be the same one", metavar="SPEC"
    )


@dataclass(frozen=True, kw_only=True)
class QueriesOptions(EngineOptions):
    """Many queries at once."""

    queries: str | None = option(
        None,
        'search for each line of a text file, or of .jsonl with {"image": FILE, "text": WORDS}, many at once; --out '
        "names the file of the results",
        metavar="FILE",
    )
    out: str | None = option(
        None,
        "file for the results, .jsonl or .csv; where the index is of rasters, of one query also .gpkg",
        metavar="FILE",
    )


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What of a set of composed queries is scored."""

    evaluate: str | None = option(
        None,
        "score the composed queries of a set: CIRR's, CIRCO's or FashionIQ's own JSON, FashionIQ's folder captions, or "
        "lines 'path domain class'",
        metavar="FILE",
    )
    gallery: str | None = option(
        None,
        "with lines 'path domain class', another such file that says what the index holds; by default the same",
        metavar="FILE",
    )
    at: tuple[int, ...] | None = option(
        None, "ranks that --evaluate counts to, for instance 10,50; by default those of the set", low=1, metavar="K,K"
    )
    submission: str | None = option(
        None,
        "instead of scores, write the answers to the test queries of CIRR or CIRCO into this folder, for the server of "
        "the set",
        metavar="DIR",
    )


@dataclass(frozen=True, kw_only=True)
class SelectOptions:
    """How many images are chosen, and how."""

    budget: int | None = option(None, "how many images to label; 50 by default", metavar="N")
    method: str | None = option(None, "how they are chosen (`vladapt list selectors`); by default pcb", metavar="NAME")
    labelled: str | None = option(
        None,
        "labels that `vladapt label` has written so far; their images are not listed again",
        metavar="FILE",
    )


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """Where the files of a run go, and what their card says."""

    out: str | None = option(None, "new folder for the files; by default NAME in the current folder", metavar="DIR")
    upload: bool = option(False, "upload the folder; without this option no network is used")
    public: bool = option(False, "make a new repository public; by default it is private")
    licence: str | None = option(
        None, "licence of the adapter, as spelt on the hub, for instance apache-2.0", metavar="ID"
    )
    data_licence: str | None = option(
        None, "licence of the data; by default the one that the run recorded", metavar="NAME"
    )
    dataset: str | None = option(None, "name of the data for the card, OWNER/NAME if on the hub", metavar="NAME")


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Who may ask, and how much is served at once."""

    host: str = option(
        "127.0.0.1",
        "address to listen on, by default 127.0.0.1; any but this machine's own needs --token",
        metavar="NAME",
    )
    port: int = option(8000, "port, by default 8000; 0 for any that is free", low=0, high=65_535, metavar="N")
    token: str | None = option(
        None, "token that requests must carry; by default $VLADAPT_TOKEN, which ps does not show", metavar="T"
    )
    workers: int = option(1, "worker processes, each with a copy of the model; by default 1", metavar="N")
    batch_size: int | None = option(None, "images per batch through the model; measured by default", metavar="N")
    max_mb: int | None = option(None, "largest request in MB; by default 64", metavar="N")
    max_pixels: int | None = option(None, "most pixels of an image; by default 64000000", low=1, metavar="N")
    queue: int | None = option(
        None, "images that may wait; further ones are refused with 503. By default 256", metavar="N"
    )
    training_ids: bool = option(
        False, "let `nearest` name labelled images as the run does, often by file names; by default by number"
    )

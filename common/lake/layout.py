"""The keys of all objects in a lake: those of the tables, and those of the commit protocol.

The parts of tables are `<table>/schema=1/<key>=<value>/.../part-<unit>.parquet`. The commit protocol's folders begin
with an underscore and lie outside the tables, so no glob over a table finds them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from common.errors import UsageError
from common.lake.schema import FOLDERS, SCHEMA_VERSION, TABLES
from common.store.base import StoreSettings
from common.store.store import Store

_ARCHIVE = re.compile(r"[a-z][a-z0-9_-]*")
# A value begins with a letter, because query engines read digits as a number. They read the reserved words as NULL or
# as another type.
_VALUE = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
_RESERVED = {"null", "none", "nil", "na", "nan", "inf", "infinity", "true", "false"}
# The folders between a table's schema and its parts: query engines show them as columns.
PARTITION_KEYS = {table: tuple(folders) for table, folders in FOLDERS.items()}
_OF_A_LAKE = re.compile(
    rf"(\A|/)(((_plans|_ledger|_staging|_strikes|_configs)/)?({'|'.join(TABLES)})/schema=\d+(/|\Z)"
    r"|_runs/r\d{8}T\d{6}-[0-9a-f]{8}\.json\Z|_lake\.json\Z|_doctor/exclusive-)"
)
SHIPPED = "shipped-"  # so begins the folder ingest= of crops that a dataset ships
_JOBS = {"faces": "ingest-", "scores": "score-"}  # table -> how the name of the job that fills it begins


def check_archive_name(name: str) -> str:
    """The name, if it can stand in a path and in SQL. Raises `UsageError`."""
    if not _ARCHIVE.fullmatch(name):
        raise UsageError(
            f"{name!r} is not an archive's name: use small letters, digits, _ and -, beginning with a letter"
        )
    if name in _RESERVED:
        raise UsageError(f"{name!r} cannot be an archive's name, query engines read it as a value: choose another name")
    return name


def is_of_a_lake(path: str) -> bool:
    """Whether mien keeps an object at this path or key in some lake, or a folder of such objects."""
    return _OF_A_LAKE.search(path) is not None


@dataclass(frozen=True)
class Partition:
    """The rows of one table that share one configuration and archive: `("scores", (("model", m), ("archive", a)))`."""

    table: str
    keys: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        if self.table not in TABLES:
            raise ValueError(f"no table {self.table}")
        for key, value in self.keys:
            if not _VALUE.fullmatch(value):
                raise UsageError(
                    f"{key}={value!r} cannot stand in a path: begin with a letter, then letters, digits, . _ -"
                )
            if value.lower() in _RESERVED:
                raise UsageError(f"{key}={value!r} is read as a value by query engines: choose another name")

    @classmethod
    def parse(cls, text: str) -> Partition | None:
        """The inverse of `str`: the partition whose folder is `text`; None if that is not a partition's folder."""
        table, _, path = text.partition("/")
        steps = [step.partition("=") for step in path.split("/")]
        schema, *keys = [(key, value) for key, _, value in steps]
        if schema != ("schema", str(SCHEMA_VERSION)) or tuple(key for key, _ in keys) != PARTITION_KEYS.get(table):
            return None
        try:
            return cls(table, tuple(keys))
        except UsageError:
            return None

    def __getitem__(self, key: str) -> str:
        """The value of one of the folders, such as `archive`."""
        return dict(self.keys)[key]

    @property
    def path(self) -> str:
        """Like `schema=1/model=demo-3f/archive=clips`: what follows the table's name."""
        return "/".join([f"schema={SCHEMA_VERSION}", *(f"{key}={value}" for key, value in self.keys)])

    @property
    def job(self) -> str:
        """The name in `videos` of the job that makes this partition of faces or scores: `score-<model>`."""
        return _JOBS[self.table] + self.keys[0][1]

    @property
    def videos(self) -> Partition:
        """For a partition of faces or scores: the partition of `videos` with the outcomes of its videos."""
        return Partition("videos", (("job", self.job), ("archive", self["archive"])))

    @property
    def data(self) -> Partition:
        """For a partition of `videos`: the partition of faces or scores of the same job. For any other: itself."""
        for table, prefix in _JOBS.items():
            if self.table == "videos" and self["job"].startswith(prefix):
                key = PARTITION_KEYS[table][0]
                return Partition(table, ((key, self["job"].removeprefix(prefix)), ("archive", self["archive"])))
        return self

    @property
    def shipped(self) -> bool:
        """Whether its faces are crops that a dataset ships."""
        return self.table == "faces" and self["ingest"].startswith(SHIPPED)

    def __str__(self) -> str:
        return f"{self.table}/{self.path}"


class Lake:
    """A lake: its store, and the keys of the objects in it. Picklable."""

    def __init__(self, url: str, settings: StoreSettings | None = None) -> None:
        self.store = Store(url, settings)

    @property
    def url(self) -> str:
        return self.store.url

    def part_key(self, partition: Partition, unit: str, n: int | None = None) -> str:
        """A unit's part; `n` counts the parts of a unit that has several."""
        return f"{partition}/part-{unit}{'' if n is None else f'-{n:05d}'}.parquet"

    def plan_prefix(self, partition: Partition) -> str:
        return f"_plans/{partition}/"

    def plan_key(self, partition: Partition, n: int) -> str:
        return f"{self.plan_prefix(partition)}{n:08d}.parquet"

    def ledger_prefix(self, partition: Partition) -> str:
        return f"_ledger/{partition}/"

    def ledger_key(self, partition: Partition, unit: str) -> str:
        return f"{self.ledger_prefix(partition)}{unit}.json"

    def staging_prefix(self, partition: Partition, unit: str | None = None) -> str:
        """Where finished videos wait for the commit of their unit."""
        return f"_staging/{partition}/" + (f"{unit}/" if unit else "")

    def strikes_prefix(self, partition: Partition, unit: str | None = None) -> str:
        """Where each attempt at a video puts its strike before it opens the video."""
        return f"_strikes/{partition}/" + (f"{unit}/" if unit else "")

    def config_key(self, partition: Partition) -> str:
        return f"_configs/{partition}/config.json"

    def run_key(self, run_id: str) -> str:
        return f"_runs/{run_id}.json"

    def partitions(self, table: str) -> list[Partition]:
        """The table's partitions that have a part or a plan, sorted. Folders that are not partitions are ignored."""
        found = {
            Partition.parse(entry.key.removeprefix("_plans/").rpartition("/")[0])
            for root in ("", "_plans/")
            for entry in self.store.list(f"{root}{table}/schema={SCHEMA_VERSION}/")
        }
        return sorted((partition for partition in found if partition), key=lambda partition: partition.keys)

"""Any order of adding, changing, running, crashing, retrying and reconciling leaves what a dict would hold."""

from __future__ import annotations

import signal
import tempfile

import commit_world as world
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

POINTS = [
    "plan.before_put",
    "plan.after_put",
    "piece.after",
    "outcome.before",
    "outcome.after",
    *(f"{kind}.{when}" for kind in ("part", "videos", "ledger") for when in ("before_create", "after_create")),
    *(f"{kind}.{when}" for kind in ("part", "videos", "ledger") for when in ("before_replace", "after_replace")),
    "part.after_create~-00001",
    "part.after_replace~-00001",
    "clean.before",
    "clean.strikes",
]
TAPES = st.sampled_from([f"/tapes/{n}.mp4" for n in range(8)])


class Lake(RuleBasedStateMachine):
    """`archive` is the truth; `committed` is what the tables must hold: the archive as of the last whole run."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.url = f"{self.folder.name}/lake"
        self.archive: dict[str, str] = {}
        self.committed: dict[str, str] = {}
        self.crashed = False
        self.changes = 0
        self.listed: set[tuple[object, ...]] = set()

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(tape=TAPES, bad=st.booleans())
    def add_or_change(self, tape: str, bad: bool) -> None:
        self.changes += 1
        self.archive[tape] = f"{'bad-' if bad else ''}v{self.changes}"
        self.listed.update(world.expected({tape: self.archive[tape]}, "faces"))

    @rule()
    def run(self) -> None:
        world.run(self.url, "faces", self.archive)
        self.committed = dict(self.archive)
        self.crashed = False

    @precondition(lambda self: self.archive)
    @rule(point=st.sampled_from(POINTS), retry=st.booleans())
    def crash(self, point: str, retry: bool) -> None:
        status = world.run_in_child(self.url, "faces", self.archive, fault=f"{point}:kill", retry=retry)
        assert status in (0, -signal.SIGKILL)
        if status == 0:
            self.committed = dict(self.archive)
            self.crashed = False
        else:
            self.crashed = True

    @rule()
    def retry(self) -> None:
        world.run(self.url, "faces", self.archive, retry=True)
        self.committed = dict(self.archive)
        self.crashed = False

    @rule()
    def reconcile(self) -> None:
        world.Committer(world.destination(self.url, "faces")).reconcile()

    @invariant()
    def no_row_is_doubled_and_each_is_of_a_version_that_was_listed(self) -> None:
        rows = world.content(self.url, "faces")
        assert len(rows) == len(set(rows))
        assert self.listed.issuperset(rows)
        if not self.crashed:
            assert rows == world.expected(self.committed, "faces")

    @precondition(lambda self: not self.crashed)
    @rule()
    def audit(self) -> None:
        world.Committer(world.destination(self.url, "faces")).reconcile()
        world.audit(self.url, "faces", self.committed)
        records = world.Committer(world.destination(self.url, "faces")).records()
        failed = {o.row["uri"] for record in records for o in record.videos if o.row["status"] == "failed"}
        assert failed == {uri for uri, version in self.committed.items() if version.startswith("bad")}


Lake.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=10,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestLake = pytest.mark.slow(Lake.TestCase)

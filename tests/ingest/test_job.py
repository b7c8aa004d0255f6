"""What `mien ingest` accepts."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ingest.job import IngestConfig


@pytest.mark.parametrize("wrong", [{"jpeg_quality": 101}, {"jpeg_quality": 0}, {"frames_per_part": 0}])
def test_what_no_worker_could_do_is_refused_before_there_are_any(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        IngestConfig.model_validate(wrong)

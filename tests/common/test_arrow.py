"""pyarrow without pandas."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from common.arrow import without_pandas
without_pandas()
import pyarrow, pyarrow.compute
table = pyarrow.Table.from_pylist([{"a": 1, "b": "x"}])
assert table.to_pylist() == [{"a": 1, "b": "x"}]
assert "pandas" not in sys.modules
import pandas
assert pandas.DataFrame({"a": [1]}).a.sum() == 1
"""


def test_arrays_are_made_without_pandas_which_others_may_still_import() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)


def test_where_pandas_is_imported_arrow_keeps_it() -> None:
    program = (
        "import pandas; from common.arrow import without_pandas; without_pandas(); import pyarrow;"
        "assert list(pyarrow.table({'a': [1]}).to_pandas().a) == [1]"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

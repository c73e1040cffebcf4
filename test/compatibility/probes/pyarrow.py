# /// script
# dependencies = ["pyarrow"]
# ///
import io

import pyarrow
from pyarrow import compute, parquet


def f(event):
    table = pyarrow.table({'a': [1, 2, 3], 'b': ['x', 'y', 'x']})
    data = io.BytesIO()
    parquet.write_table(table, data)
    read = parquet.read_table(io.BytesIO(data.getvalue()))
    assert read.equals(table) and compute.sum(read['a']).as_py() == 6
    return 'Parquet written and read, summed'

# /// script
# dependencies = ["polars"]
# ///
import polars


def f(event):
    frame = polars.DataFrame({'a': ['x', 'y', 'x'], 'b': [1, 2, 3]})
    found = frame.lazy().group_by('a').agg(polars.col('b').sum()).sort('a').collect()
    assert found['b'].to_list() == [4, 2]
    return 'lazy query'

# /// script
# dependencies = ["pandas"]
# ///
import io

import pandas


def f(event):
    frame = pandas.read_csv(io.StringIO('a,b\nx,1\ny,2\nx,3\n'))
    assert frame.groupby('a')['b'].sum().to_dict() == {'x': 4, 'y': 2}
    return 'CSV read, grouped'

import pandas


def f(event):
    """Mean and median of each column, of rows as JSON objects."""
    frame = pandas.DataFrame(event)
    return frame.agg(['mean', 'median']).to_dict()

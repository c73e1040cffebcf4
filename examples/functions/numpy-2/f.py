import numpy


def f(event):
    """The sum of a list of numbers, and which version of numpy has added them."""
    return {'sum': float(numpy.asarray(event, dtype=float).sum()), 'numpy': numpy.__version__}

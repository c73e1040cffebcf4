# /// script
# dependencies = ["numba"]
# ///
import numba
import numpy


@numba.njit
def total(values):
    result = 0.0
    for value in values:
        result += value
    return result


def f(event):
    assert total(numpy.arange(1000.0)) == 499500
    return 'loop compiled to machine code'

# /// script
# dependencies = ["numpy"]
# ///
import numpy


def f(event):
    matrix = numpy.array([[2.0, 1.0], [1.0, 3.0]])
    assert numpy.allclose(matrix @ numpy.linalg.inv(matrix), numpy.eye(2))
    return f'inverse of a matrix, spectrum of {len(numpy.fft.rfft(numpy.arange(256.0)))} lines'

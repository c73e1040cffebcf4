# /// script
# dependencies = ["matplotlib"]
# ///
import io

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot


def f(event):
    figure, axes = pyplot.subplots()
    axes.plot([1, 2, 3], [1, 4, 9], label='squares')
    axes.set_title('$x^2$')
    axes.legend()
    png = io.BytesIO()
    figure.savefig(png, format='png')
    assert png.getvalue().startswith(b'\x89PNG')
    return 'PNG of a plot with text'

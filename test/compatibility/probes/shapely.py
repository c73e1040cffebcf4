# /// script
# dependencies = ["shapely"]
# ///
import shapely


def f(event):
    one, other = shapely.box(0, 0, 2, 2), shapely.Point(2, 2).buffer(1)
    assert 0.7 < one.intersection(other).area < 0.8
    assert shapely.from_wkb(one.wkb).equals(one)
    return 'areas cut'

# /// script
# dependencies = ["scipy"]
# ///
from scipy import optimize, sparse, stats


def f(event):
    assert abs(optimize.brentq(lambda x: x * x - 2, 0, 2) - 2**0.5) < 1e-9
    assert stats.ttest_ind([1, 2, 3], [2, 3, 4]).pvalue > 0.1
    assert sparse.eye(100).tocsr().sum() == 100
    return 'root found, t-test, sparse matrix'

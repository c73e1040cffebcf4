# /// script
# dependencies = ["scikit-learn"]
# ///
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression


def f(event):
    x, y = make_classification(200, random_state=1)
    assert LogisticRegression().fit(x, y).score(x, y) > 0.8
    assert RandomForestClassifier(10, n_jobs=1, random_state=1).fit(x, y).score(x, y) > 0.8
    return 'regression and forest fitted'

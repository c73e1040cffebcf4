# /// script
# dependencies = ["orjson"]
# ///
import datetime

import orjson


def f(event):
    text = orjson.dumps({'a': [1, 2.5], 'when': datetime.date(2024, 2, 29)}, option=orjson.OPT_SORT_KEYS)
    assert orjson.loads(text) == {'a': [1, 2.5], 'when': '2024-02-29'}
    return 'JSON there and back'

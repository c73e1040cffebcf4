"""What packages put off until they are first really used, done ahead: in a zygote, so that it is done once, and the cheap ones
again in a spare, whose own copies of the pages that such a call writes to are then there already.

A warm-up takes at most a few milliseconds, starts no thread, and uses neither files nor the network, apart from modules that
it is the first to import. What it leaves behind is what any handler could find: modules, caches. One that fails, in a version of
the package that is unlike those it was written for, is passed over.
"""

import sys
import warnings
from typing import Any, Callable, Iterator, NamedTuple, Optional


class WarmUp(NamedTuple):
    module: str
    function: Callable[[Any], object]
    again: bool

    @property
    def name(self) -> str:
        return f'{self.module}: {self.function.__name__}'

    def run(self) -> None:
        self.function(sys.modules[self.module])


warm_ups: list[WarmUp] = []


def warm_up(module: str, again: bool = True) -> Callable[[Callable[[Any], object]], Callable[[Any], object]]:
    """Has a function called with that module where it is loaded. `again`: also in spares."""

    def register(function: Callable[[Any], object]) -> Callable[[Any], object]:
        warm_ups.append(WarmUp(module, function, again))
        return function

    return register


def loaded() -> Iterator[WarmUp]:
    return (each for each in warm_ups if each.module in sys.modules)


def run(again: bool = False, check: Optional[Callable[[str], bool]] = None) -> list[str]:
    """Runs those of loaded modules; answers which failed. With `check` it goes on while that answers True of a module."""
    failed = []
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # else one that a handler would cause was already shown, to nobody
        for each in loaded():
            if again and not each.again:
                continue
            try:
                each.run()
            except BaseException:  # a package may even call exit()
                failed.append(each.name)
            if check is not None and not check(each.module):
                break
    return failed


@warm_up('time')
def strptime(module: Any) -> None:
    module.strptime('2024-02-29 12:30:45', '%Y-%m-%d %H:%M:%S')
    module.strftime('%Y-%m-%d', module.gmtime(0))


@warm_up('datetime')
def dates(module: Any) -> None:
    moment = module.datetime.strptime('2024-02-29T12:30', '%Y-%m-%dT%H:%M')
    (moment + module.timedelta(days=1)).replace(tzinfo=module.timezone.utc).isoformat()
    module.datetime.fromisoformat('2024-02-29T12:30:45+00:00')


@warm_up('re')
def patterns(module: Any) -> None:
    module.split(r'[,;\s]+', module.sub(r'\s+', ' ', 'a  b, c'))
    module.match(r'^(?P<name>[\w.+-]+)@([\w-]+\.)+\w+$', 'someone@example.com')
    module.findall(r'\d+(?:\.\d+)?', '1 2.5')


@warm_up('json')
def round_trip(module: Any) -> None:
    value = {'a': [1, 2.5, None, True, 'text'], 'b': {'c': 'ü'}}
    module.loads(module.dumps(value))
    module.dumps(value, indent=1, sort_keys=True)


@warm_up('encodings')
def idna(_module: Any) -> None:
    'www.example.com'.encode('idna')


@warm_up('decimal')
def division(module: Any) -> None:
    with module.localcontext():  # whose flags it sets
        str(module.Decimal('1.10') / 3)


@warm_up('uuid')
def random_uuid(module: Any) -> None:
    str(module.uuid4())


@warm_up('hashlib')
def digest(module: Any) -> None:
    module.sha256(b'text').hexdigest()


@warm_up('urllib.parse')
def urls(module: Any) -> None:
    module.urlencode({'a': 'b c'})
    module.urljoin('http://example.com/a/b?c=d', '../e')


@warm_up('numpy')
def arrays(numpy: Any) -> None:
    values = numpy.arange(12.0).reshape(3, 4)
    (values @ values.T).sum(axis=0), values.mean(), values.std(), values[values > 3].astype('int64').tolist()
    numpy.sort(values, axis=None), numpy.concatenate([values, values]), numpy.where(values > 1, values, 0)
    repr(values)


@warm_up('numpy.linalg')
def linear_algebra(linalg: Any) -> None:
    linalg.solve([[2.0, 1.0], [1.0, 3.0]], [1.0, 2.0])


@warm_up('pandas')
def first_frame(pandas: Any) -> None:
    frame = pandas.DataFrame({'a': [1, 2, 3, 4], 'b': [2.5, 3.5, 1.5, 4.0]})
    frame['a'].corr(frame['b']), frame[frame['a'] > 1]['b'].mean()


@warm_up('pandas', again=False)
def groups(pandas: Any) -> None:
    frame = pandas.DataFrame({'a': [1, 2, 3, 4], 'b': [2.5, 3.5, 1.5, 4.0], 'c': ['x', 'y', 'x', 'y']})
    frame.groupby('c')['b'].mean().to_dict(), frame[['a', 'b']].corr(), frame.describe()
    frame.sort_values('b').to_dict('records')


@warm_up('pandas', again=False)
def joins(pandas: Any) -> None:
    left = pandas.DataFrame({'key': ['a', 'b'], 'one': [1, 2]})
    left.merge(pandas.DataFrame({'key': ['b', 'a'], 'two': [3, 4]}), on='key')
    pandas.concat([left, left]).reset_index(drop=True)


@warm_up('pandas', again=False)
def times(pandas: Any) -> None:
    stamps = pandas.to_datetime(pandas.Series(['2024-01-01', '2024-02-29']))
    stamps.dt.month.tolist(), pandas.date_range('2024-01-01', periods=3).strftime('%d').tolist()


@warm_up('pandas', again=False)
def tables(pandas: Any) -> None:
    import io

    pandas.read_csv(io.StringIO('a,b\n1,x\n2,y\n')).to_csv(index=False)


@warm_up('scipy.stats', again=False)
def statistics(stats: Any) -> None:
    stats.linregress([1.0, 2.0, 3.0], [1.0, 2.5, 2.9])
    stats.norm.cdf(0.5)


@warm_up('dateutil.parser')
def parsed_date(parser: Any) -> None:
    parser.parse('29 Feb 2024 12:30')


@warm_up('requests')
def prepared_request(requests: Any) -> None:
    requests.Request('POST', 'http://example.com/a', params={'b': 'c'}, json={'d': 1}).prepare()


@warm_up('pydantic', again=False)
def validation(pydantic: Any) -> None:
    model = pydantic.create_model('Model', name=(str, ...), count=(int, 0))
    model(name='a', count='1').model_dump_json()


@warm_up('jinja2', again=False)
def template(jinja2: Any) -> None:
    jinja2.Environment().from_string('{% for each in list %}{{ each|e }}{% endfor %}').render(list=[1, 'a'])


@warm_up('yaml', again=False)
def document(yaml: Any) -> None:
    yaml.safe_dump(yaml.safe_load('a: [1, 2]\nb: {c: text}\n'))

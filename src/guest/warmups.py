"""What packages put off until they are first really used, done ahead: in a zygote, so that it is done once, and the cheap ones
again in a spare, whose own copies of the pages that such a call writes to are then there already.

Once imports are done a warm-up takes at most some tens of milliseconds, one that is done again in spares a few. It starts no thread,
and uses neither files nor the network, apart from modules and data of its package that it is the first to load. What it leaves behind is what any handler could find: modules, caches. One that fails, in a version of
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


@warm_up('sklearn', again=False)
def estimators(_sklearn: Any) -> None:
    import sklearn.utils.validation

    sklearn.utils.validation.check_array([[1.0, 2.0], [3.0, 4.0]])


@warm_up('matplotlib', again=False)
def figure(_matplotlib: Any) -> None:
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plot = Figure(figsize=(1, 1))
    FigureCanvasAgg(plot)
    plot.subplots().plot([1, 2])
    plot.savefig(io.BytesIO(), format='png', dpi=20)


@warm_up('PIL', again=False)
def pictures(_pil: Any) -> None:
    import io

    from PIL import Image

    data = io.BytesIO()
    Image.new('RGB', (4, 4)).resize((2, 2)).save(data, 'PNG')
    Image.open(data).load()


@warm_up('lxml', again=False)
def markup(_lxml: Any) -> None:
    from lxml import etree, html

    etree.tostring(etree.fromstring('<a><b n="1"/></a>').xpath('//b')[0])
    html.fromstring('<p>one<br>two</p>').text_content()


@warm_up('pyarrow', again=False)
def columns(pyarrow: Any) -> None:
    pyarrow.table({'a': [1, 2], 'b': ['x', None]}).slice(1).to_pydict()


@warm_up('cryptography', again=False)
def ciphers(_cryptography: Any) -> None:
    from cryptography.fernet import Fernet
    from cryptography.hazmat.primitives import hashes

    digest = hashes.Hash(hashes.SHA256())
    digest.update(b'text')
    digest.finalize()
    box = Fernet(Fernet.generate_key())
    box.decrypt(box.encrypt(b'text'))


@warm_up('orjson')
def fast_round_trip(orjson: Any) -> None:
    orjson.loads(orjson.dumps({'a': [1, 2.5, None, True, 'text']}))


@warm_up('sqlalchemy', again=False)
def statements(sqlalchemy: Any) -> None:
    table = sqlalchemy.Table(
        'items', sqlalchemy.MetaData(), sqlalchemy.Column('id', sqlalchemy.Integer), sqlalchemy.Column('name', sqlalchemy.String)
    )
    engine = sqlalchemy.create_engine('sqlite://')
    with engine.begin() as connection:
        table.create(connection)
        connection.execute(table.insert(), [{'id': 1, 'name': 'a'}])
        connection.execute(sqlalchemy.select(table).where(table.c.id == 1)).all()
    engine.dispose()


@warm_up('psycopg2', again=False)
def literals(_psycopg2: Any) -> None:
    from psycopg2 import extensions, extras

    extensions.adapt('a').getquoted(), extras.Json({'a': 1}).dumps({'a': 1})


@warm_up('google.protobuf', again=False)
def messages(_protobuf: Any) -> None:
    from google.protobuf import json_format, struct_pb2

    value = struct_pb2.Struct()
    value.update({'a': 1, 'b': ['x']})
    json_format.MessageToDict(struct_pb2.Struct.FromString(value.SerializeToString()))


@warm_up('torch', again=False)
def inference(torch: Any) -> None:
    with torch.inference_mode():
        torch.nn.Linear(4, 2)(torch.ones(1, 4)).softmax(1).tolist()


@warm_up('cv2', again=False)
def pixels(cv2: Any) -> None:
    import numpy

    image = numpy.zeros((8, 8, 3), numpy.uint8)
    cv2.imdecode(cv2.imencode('.png', cv2.cvtColor(cv2.resize(image, (4, 4)), cv2.COLOR_BGR2GRAY))[1], cv2.IMREAD_COLOR)


@warm_up('shapely', again=False)
def shapes(shapely: Any) -> None:
    shapely.box(0, 0, 2, 2).intersection(shapely.Point(2, 2).buffer(1)).wkt


@warm_up('regex')
def unicode_patterns(regex: Any) -> None:
    regex.findall(r'\p{Lu}\w+', 'Some words')


@warm_up('cffi', again=False)
def declarations(cffi: Any) -> None:
    ffi = cffi.FFI()
    ffi.cdef('int atoi(const char *);')
    ffi.dlopen(None).atoi(ffi.new('char[]', b'1'))


@warm_up('aiohttp', again=False)
def addresses(aiohttp: Any) -> None:
    from aiohttp import web

    web.Application().router.add_get('/{name}', lambda request: None)
    aiohttp.FormData({'a': 'b'})()


@warm_up('fastapi', again=False)
def routes(fastapi: Any) -> None:
    app = fastapi.FastAPI()

    @app.get('/{number}')
    def item(number: int, text: str = '') -> dict:
        return {'number': number}

    app.openapi()


@warm_up('flask', again=False)
def pages(flask: Any) -> None:
    app = flask.Flask('warm_up')
    app.add_url_rule('/<name>', 'page', lambda name: flask.jsonify(name=name))
    app.test_client().get('/a')


@warm_up('django', again=False)
def pages_of_templates(_django: Any) -> None:
    from django.template import Context, Engine

    Engine().from_string('{% for each in list %}{{ each|escape }}{% endfor %}').render(Context({'list': [1, 'a']}))


@warm_up('httpx', again=False)
def client_request(httpx: Any) -> None:
    httpx.Request('POST', 'http://example.com/a', params={'b': 'c'}, json={'d': 1}).read()


@warm_up('bs4', again=False)
def soup(bs4: Any) -> None:
    bs4.BeautifulSoup('<ul><li class="a">one</li></ul>', 'html.parser').select('li.a')


@warm_up('openpyxl', again=False)
def workbook(openpyxl: Any) -> None:
    import io

    book, data = openpyxl.Workbook(), io.BytesIO()
    book.active.append(['a', 1])
    book.save(data)
    openpyxl.load_workbook(data)


@warm_up('tiktoken', again=False)
def tokens(tiktoken: Any) -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    tiktoken.Encoding('warm_up', pat_str=r'\w+|\s+', mergeable_ranks=ranks, special_tokens={}).encode('a text')


@warm_up('tokenizers', again=False)
def words(tokenizers: Any) -> None:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({'a': 0, '?': 1}, '?'))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.encode('a b')


@warm_up('google.cloud.storage', again=False)
def buckets(storage: Any) -> None:
    from google.auth.credentials import AnonymousCredentials

    storage.Client(project='a', credentials=AnonymousCredentials()).bucket('a').blob('b').path


@warm_up('numba', again=False)
def compiled_loop(numba: Any) -> None:
    numba.njit(lambda value: value + 1)(1)


@warm_up('babel', again=False)
def locale_data(_babel: Any) -> None:
    import datetime

    from babel import dates, numbers

    numbers.format_decimal(1.5, locale='en'), dates.format_date(datetime.date(2024, 2, 29), locale='en')

# /// script
# dependencies = ["psycopg2-binary"]
# ///
import psycopg2
from psycopg2 import extensions, sql


def f(event):
    assert extensions.adapt("it's").getquoted() == b"'it''s'"
    assert extensions.parse_dsn('host=db dbname=a')['dbname'] == 'a'
    try:
        psycopg2.connect('host=127.0.0.1 port=1 user=a connect_timeout=1')
    except psycopg2.OperationalError as error:
        assert 'refused' in str(error), error
    assert sql.Identifier('a').string == 'a'
    return f'libpq {psycopg2.__libpq_version__}: quoted; no server there'

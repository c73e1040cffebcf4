# /// script
# dependencies = ["duckdb"]
# ///
import duckdb


def f(event):
    with duckdb.connect() as database:
        database.execute('CREATE TABLE t AS SELECT range AS n, range % 3 AS k FROM range(1000)')
        assert database.execute('SELECT sum(n) FROM t GROUP BY k ORDER BY k').fetchone() == (166833,)
        database.execute("COPY t TO '/tmp/t.csv'")
        assert database.execute("SELECT count(*) FROM '/tmp/t.csv'").fetchone() == (1000,)
    return 'grouped, CSV in /tmp'

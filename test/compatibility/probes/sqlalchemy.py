# /// script
# dependencies = ["sqlalchemy"]
# ///
import sqlalchemy
from sqlalchemy import orm


class Base(orm.DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = 'items'
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str]


def f(event):
    engine = sqlalchemy.create_engine('sqlite:////tmp/items.db')
    Base.metadata.create_all(engine)
    with orm.Session(engine) as session:
        session.add_all([Item(name='a'), Item(name='b')])
        session.commit()
        assert session.scalars(sqlalchemy.select(Item.name).order_by(Item.name)).all() == ['a', 'b']
    return 'ORM on SQLite in /tmp'

# /// script
# dependencies = ["pydantic"]
# ///
import pydantic


class Item(pydantic.BaseModel):
    name: str
    count: int = pydantic.Field(ge=0)


def f(event):
    assert Item.model_validate_json('{"name": "a", "count": "3"}').count == 3
    try:
        Item(name='a', count=-1)
    except pydantic.ValidationError as error:
        return f'validated; {error.error_count()} error found'
    raise AssertionError('expected an error')

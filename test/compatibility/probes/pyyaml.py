# /// script
# dependencies = ["pyyaml"]
# ///
import yaml


def f(event):
    value = {'a': [1, 2.5, None], 'b': {'c': 'text'}}
    assert yaml.load(yaml.dump(value, Dumper=yaml.CSafeDumper), Loader=yaml.CSafeLoader) == value
    return 'YAML there and back by libyaml'

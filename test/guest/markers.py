"""Compares the markers and versions of unpack.py with those of the ``packaging`` that pip brings, on this interpreter."""

import itertools
import random
import sys

sys.path.insert(0, sys.argv[1])
import unpack  # noqa: E402
from pip._vendor.packaging import markers, version  # noqa: E402

VERSIONS = '2.7 3 3.0 3.6 3.9 3.10 3.11 3.11.2 3.12 3.13.0 3.13.0rc1 4 3.11.dev1 3.11.post1'.split()
OPERATORS = '== != < <= > >= ~= ==='.split()
ATOMS = [
    *(f'{name} {word} "{number}"' for name in ('python_version', 'python_full_version') for word in OPERATORS for number in VERSIONS),
    *(f'python_version {word} "{prefix}.*"' for word in ('==', '!=') for prefix in ('3', '3.1', '3.11', '2', '3.11.0')),
    *(f'"{number}" {word} python_version' for word in ('<', '>=', '==') for number in ('3.9', '3.11', '4')),
    'python_version in "2.7 3.11 3.13"',
    'python_version not in "2.6 3.9"',
    *(f"sys_platform {word} '{name}'" for word in ('==', '!=', 'in', 'not in', '<') for name in ('linux', 'win32', 'linux darwin')),
    'os.name == "nt"',
    'os_name != "nt"',
    'platform_system == "Linux"',
    'platform.machine == "x86_64"',
    'platform_machine in "x86_64 aarch64 ppc64le"',
    "platform_python_implementation != 'PyPy'",
    'python_implementation == "CPython"',
    'implementation_name == "cpython"',
    'implementation_version >= "3.8"',
    "extra == 'test'",
    "'test' == extra",
    'extra != "test"',
]


def check(text):
    for extra in ('', 'test'):
        try:
            expected = markers.Marker(text).evaluate({'extra': extra})
        except Exception:
            continue  # not understood
        mine = unpack.holds(text, {**unpack.marker_environment(), 'extra': extra})
        assert mine == expected, (text, extra, mine, expected)


def any_marker(depth):
    if depth == 0 or random.random() < 0.3:
        return random.choice(ATOMS)
    left, right = any_marker(depth - 1), any_marker(depth - 1)
    return random.choice(['{} and {}', '{} or {}', '({} or {})', '( {} and {})', '({}) and {}']).format(left, right)


PARTS = [['', 'v', '1!'], ['1', '1.0', '1.0.0', '1.10', '2.0.1'], ['', 'a1', '.beta.2', 'rc', '-c3'], ['', '.post1', '-2', 'r3'], ['', '.dev0', 'dev4'], ['', '+l.1', '+10', '+a']]

for atom in ATOMS:
    check(atom)
for _ in range(2000):
    check(any_marker(4))
texts = [''.join(parts) for parts in itertools.product(*PARTS)]
for left, right in zip(random.choices(texts, k=20000), random.choices(texts, k=20000)):
    mine, other = unpack.version_key(left), unpack.version_key(right)
    theirs = version.Version(left), version.Version(right)
    assert ((mine < other), (mine == other)) == ((theirs[0] < theirs[1]), (theirs[0] == theirs[1])), (left, right)
for broken in ('', ' ', '(', 'x', 'python_version', 'python_version <', 'python_version < "3', '"a" "b"', 'nothing == "x"', '(' * 5000, 'os_name ~= "a"', 'a' * 100000):
    unpack.holds(broken, unpack.marker_environment())
for text, expected in {
    'Foo.Bar_baz': ('foo-bar-baz', ''),
    'a[b,c] (>=1.0,<2) ; python_version > "3"': ('a', ' python_version > "3"'),
    'a>=1;extra=="x"': ('a', 'extra=="x"'),
    'a @ https://x/y;z#egg=1 ; os_name == "nt"': ('a', ' os_name == "nt"'),
    'a@https://x/y': ('a', ''),
    '-r x': None,
}.items():
    assert unpack.read_requirement(text) == expected, (text, unpack.read_requirement(text))

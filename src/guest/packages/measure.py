"""Measures what importing a distribution costs. Runs in a sandbox, as a text of its own.

Called with a request as JSON: ``modules`` (its own), ``others`` (the modules of each other distribution), ``packages`` (the folder
with everything, for sys.path), ``own`` (the folder with what is its own), ``runs``. Answers ``cost``, or ``error``, on stdout. Each
import happens in a fresh interpreter: forks of one would not be fresh.
"""

import json
import os
import signal
import statistics
import subprocess
import sys

from rules import Refused, failed

ANSWER = '/tmp/answer'
MAX_ANSWER_BYTES = 16 << 20

# Imports what comes before, then measures the rest. Ends without what modules want to be done at the end.
PROCESS = """
import gc, importlib, json, os, sys, time
packages, own, before, modules, answer = json.loads(sys.argv.pop(1))
sys.path.append(packages)

def dirty_kib():
    # Written or anonymous. What is only mapped is the page cache's, and private by chance.
    with open('/proc/self/smaps_rollup', encoding='ascii') as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith('Private_Dirty:'))

def dependencies():
    for name, module in list(sys.modules.items()):
        file = getattr(module, '__dict__', {}).get('__file__')
        if isinstance(file, str) and file.startswith(packages + '/'):
            if not os.path.exists(own + file[len(packages):]):
                yield name

for name in before:
    try:
        importlib.import_module(name)
    except BaseException:
        pass
gc.collect()
kib, start = dirty_kib(), time.perf_counter()
for name in modules:
    importlib.import_module(name)
end = time.perf_counter()
gc.collect()
kib = dirty_kib() - kib
with open(answer, 'w', encoding='utf-8') as file:
    json.dump({'ms': (end - start) * 1000, 'kib': kib, 'dependencies': list(dependencies())}, file)
os._exit(0)
"""


def run(request, before, modules):
    """Answers None when the modules can't be imported."""
    if os.path.lexists(ANSWER):
        os.unlink(ANSWER)
    text = json.dumps([request['packages'], request['own'], before, modules, ANSWER])
    ended = subprocess.run(
        [sys.executable, '-I', '-S', '-B', '-W', 'ignore', '-c', PROCESS, text],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    if ended.returncode == -signal.SIGKILL:  # by the kernel, for want of memory
        raise failed(f'importing {", ".join(modules)} was killed')
    try:
        with open(ANSWER, encoding='utf-8') as file:
            answer = json.loads(file.read(MAX_ANSWER_BYTES))
        return {'ms': float(answer['ms']), 'kib': int(answer['kib']), 'dependencies': list(map(str, answer['dependencies']))}
    except (OSError, ValueError, LookupError, TypeError):
        return None


def measure(request):
    modules, dependencies = [], set()

    def is_loaded(module):
        return any(f'{name}.'.startswith(f'{module}.') for name in dependencies)

    for name in request['modules']:
        answer = run(request, [], [name])  # and what it reads is in memory from here on
        if answer is not None:
            modules.append(name)
            dependencies.update(answer['dependencies'])
    # What a zygote with those distributions has imported; what else of them is imported with this one is counted as its own.
    before = [module for others in request['others'] if any(map(is_loaded, others)) for module in others]
    exclusive, inclusive = [], []
    for _ in range(request['runs']):
        exclusive.append(run(request, before, modules))
        inclusive.append(run(request, [], modules))
    exclusive, inclusive = ([answer for answer in answers if answer is not None] for answers in (exclusive, inclusive))
    return {
        'exclusiveMs': median(answer['ms'] for answer in exclusive),
        'inclusiveMs': median(answer['ms'] for answer in inclusive),
        'privateMiB': max(median(answer['kib'] for answer in exclusive) / 1024, 0),
        'runs': min(len(exclusive), len(inclusive)),
    }


def median(values):
    values = list(values)
    return statistics.median(values) if values else 0


def main():
    try:
        answer = {'cost': measure(json.loads(sys.argv[1]))}
    except Refused as refused:
        answer = {'error': {'code': refused.code, 'message': str(refused)}}
    json.dump(answer, sys.stdout)


if __name__ == '__main__':
    main()

"""What each warm-up of src/guest/warmups.py saves: how long the same call takes in a child that was just forked.

    python3 bench/warmups.py [SITE-PACKAGES] [MODULE...]

Prints for each the median in milliseconds of CPU time: where nothing was done ahead, where the parent had done it, and where the child
had done it as well, as a spare does.
"""

import gc
import importlib
import importlib.util
import os
import statistics
import struct
import sys
import time

ROUNDS = 15


def load_warm_ups():
    file = os.path.join(os.path.dirname(__file__), '..', 'src', 'guest', 'warmups.py')
    spec = importlib.util.spec_from_file_location('warmups', file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_child(function):
    """Milliseconds that a function says, called in a child."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, struct.pack('d', function()))
        os._exit(0)
    os.close(write)
    value = struct.unpack('d', os.read(read, 8))[0]
    os.close(read)
    os.waitpid(pid, 0)
    return value


def timed(call):
    started = time.process_time()
    call()
    return (time.process_time() - started) * 1000


def median(call, rehearse=None):
    def measured():
        if rehearse is not None:
            rehearse()
        return timed(call)

    return statistics.median(in_child(measured) for _ in range(ROUNDS))


def main():
    site, modules = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ('', [])
    if site:
        sys.path.append(site)
    gc.disable()
    for name in modules:
        importlib.import_module(name)
    warm_ups = load_warm_ups()
    calls = {each.name: each.run for each in warm_ups.loaded()}
    gc.collect()
    gc.freeze()
    found = {name: [median(call)] for name, call in calls.items()}
    if warm_ups.run():
        raise SystemExit(f'expected warm-ups that succeed, got {warm_ups.run()}')
    gc.collect()
    gc.freeze()
    for name, call in calls.items():
        found[name] += [median(call), median(call, rehearse=call)]
    print(f'{"":34} {"nothing":>9} {"parent":>9} {"child too":>9}')
    for name, values in found.items():
        print(f'{name:34} ' + ' '.join(f'{value:9.3f}' for value in values))


main()

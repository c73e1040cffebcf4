# /// script
# dependencies = ["coverage"]
# ///
import runpy

import coverage


def f(event):
    with open('/tmp/code.py', 'w') as file:
        file.write('a = 1\nif a > 1:\n    b = 2\n')
    measured = coverage.Coverage(data_file=None)
    measured.start()
    runpy.run_path('/tmp/code.py')
    measured.stop()
    assert measured.analysis('/tmp/code.py')[2] == [3]
    return 'lines counted'

# /// script
# dependencies = ["black"]
# ///
import subprocess


def f(event):
    done = subprocess.run(['/packages/bin/black', '-q', '-'], input='a = [1,\n 2]', capture_output=True, text=True)
    assert done.stdout == 'a = [1, 2]\n', done
    return 'its console script, as a program'

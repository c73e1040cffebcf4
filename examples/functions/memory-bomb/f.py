def f(event):
    """Takes memory until its sandbox is ended for it: 507."""
    taken = []
    while True:
        taken.append(bytearray(b'x' * (1 << 20)))

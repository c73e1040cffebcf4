# /// script
# dependencies = ["tiktoken"]
# ///
import tiktoken


def f(event):
    ranks = {bytes([byte]): byte for byte in range(256)} | {b'ab': 256, b'abc': 257}
    encoding = tiktoken.Encoding('own', pat_str=r'\w+|\s+', mergeable_ranks=ranks, special_tokens={'<end>': 258})
    tokens = encoding.encode('abc ab<end>', allowed_special='all')
    assert tokens == [257, 32, 256, 258] and encoding.decode(tokens) == 'abc ab<end>'
    return 'encoded with ranks of its own: those of models are downloaded'

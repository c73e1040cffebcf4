# /// script
# dependencies = ["cffi"]
# ///
import cffi


def f(event):
    ffi = cffi.FFI()
    ffi.cdef('int atoi(const char *); void *malloc(size_t);')
    library = ffi.dlopen(None)
    assert library.atoi(ffi.new('char[]', b'42')) == 42

    @ffi.callback('int(int)')
    def double(number):
        return number * 2

    assert double(21) == 42
    return 'C function called, and called back'

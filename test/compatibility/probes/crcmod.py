# /// script
# dependencies = ["crcmod"]
# ///
import crcmod._crcfunext
import crcmod.predefined


def f(event):
    assert crcmod._crcfunext
    assert crcmod.predefined.mkCrcFun('crc-32')(b'123456789') == 0xCBF43926
    return 'checksum by its C extension'

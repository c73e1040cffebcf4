# /// script
# dependencies = ["cryptography"]
# ///
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa


def f(event):
    box = Fernet(Fernet.generate_key())
    assert box.decrypt(box.encrypt(b'text')) == b'text'
    key = ec.generate_private_key(ec.SECP256R1())
    key.public_key().verify(key.sign(b'text', ec.ECDSA(hashes.SHA256())), b'text', ec.ECDSA(hashes.SHA256()))
    rsa.generate_private_key(65537, 2048)
    return 'encrypted, signed, RSA key'

"""The initiator's half of WireGuard's handshake, for the benchmark of those who answer."""

import hashlib
import hmac
import struct
import time

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

INITIATION, RESPONSE, COOKIE_REPLY = 1, 2, 3
MASK = 0xFFFFFFFF


def digest(*parts):
    return hashlib.blake2s(b"".join(parts)).digest()


def mac(secret, *parts):
    return hashlib.blake2s(b"".join(parts), key=secret, digest_size=16).digest()


def derive(chain, material, number):
    """HKDF with BLAKE2s."""
    secret = hmac.new(chain, material, hashlib.blake2s).digest()
    outputs, last = [], b""
    for place in range(1, number + 1):
        last = hmac.new(secret, last + bytes([place]), hashlib.blake2s).digest()
        outputs.append(last)
    return outputs


def seal(secret, plain, associated):
    return ChaCha20Poly1305(secret).encrypt(bytes(12), plain, associated)


def hchacha(secret, nonce):
    """The key that XChaCha20 makes of a key and the first 16 bytes of a nonce."""
    state = list(struct.unpack("<16I", b"expand 32-byte k" + secret + nonce))

    def quarter(a, b, c, d):
        for one, other, by, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            state[one] = (state[one] + state[other]) & MASK
            mixed = state[by] ^ state[one]
            state[by] = (mixed << turn | mixed >> (32 - turn)) & MASK

    for _ in range(10):
        for column in range(4):
            quarter(column, column + 4, column + 8, column + 12)
        for column in range(4):
            quarter(column, 4 + (column + 1) % 4, 8 + (column + 2) % 4, 12 + (column + 3) % 4)
    return struct.pack("<8I", *state[:4], *state[12:])


class Peer:
    """One that asks; `secret` is any 32 bytes."""

    def __init__(self, secret, responder):
        self.private = X25519PrivateKey.from_private_bytes(secret)
        self.public = self.private.public_key().public_bytes_raw()
        self.responder = responder
        self.shared = self.private.exchange(X25519PublicKey.from_public_bytes(responder))
        self.cookie = None
        self.last = b""

    def initiation(self, index, seconds):
        """The first message, with a timestamp of so many seconds from now; messages of one peer need ever later ones."""
        chain = digest(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
        transcript = digest(digest(chain, b"WireGuard v1 zx2c4 Jason@zx2c4.com"), self.responder)
        ephemeral = X25519PrivateKey.generate()
        public = ephemeral.public_key().public_bytes_raw()
        (chain,) = derive(chain, public, 1)
        transcript = digest(transcript, public)
        chain, secret = derive(chain, ephemeral.exchange(X25519PublicKey.from_public_bytes(self.responder)), 2)
        static = seal(secret, self.public, transcript)
        transcript = digest(transcript, static)
        chain, secret = derive(chain, self.shared, 2)
        now = time.time() + seconds
        timestamp = struct.pack(">QI", 0x400000000000000A + int(now), int(now % 1 * 1e9))
        message = struct.pack("<II", INITIATION, index) + public + static + seal(secret, timestamp, transcript)
        message += mac(digest(b"mac1----", self.responder), message)
        self.last = message[116:132]
        return message + (mac(self.cookie, message) if self.cookie else bytes(16))

    def learn(self, reply):
        """Takes the cookie out of the answer to the last message."""
        nonce, sealed = reply[8:32], reply[32:64]
        secret = hchacha(digest(b"cookie--", self.responder), nonce[:16])
        self.cookie = ChaCha20Poly1305(secret).decrypt(bytes(4) + nonce[16:], sealed, self.last)

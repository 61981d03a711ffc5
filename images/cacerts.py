"""Writes the certificates that a JVM trusts: those of a PEM bundle, as the key store that Java reads by default.

usage: cacerts.py BUNDLE STORE

keytool would take a process a certificate, and writes the time of day into its store.
Source: the comment on the file's format in the JDK's sun.security.provider.JavaKeyStore (JKS, version 2).
"""

import hashlib
import ssl
import struct
import sys
from pathlib import Path

END = "-----END CERTIFICATE-----"
# The password that every JVM tries; it protects nothing here, and the store holds no secret.
PASSWORD = "changeit"


def text(value: str) -> bytes:
    return struct.pack(">H", len(value)) + value.encode()


def main(bundle: Path, store: Path) -> None:
    """Convert the bundle.

    Args:
        bundle: certificates, PEM.
        store: the file to write; its directory is made.
    """
    certificates = [ssl.PEM_cert_to_DER_cert(pem.strip() + "\n" + END) for pem in bundle.read_text().split(END) if pem.strip()]
    if not certificates:
        sys.exit(f"cacerts.py: {bundle} has no certificates")
    data = struct.pack(">III", 0xFEEDFEED, 2, len(certificates))
    for number, certificate in enumerate(certificates):
        # An entry for a trusted certificate (2): its alias, its time (ms since 1970), its type, itself.
        data += struct.pack(">I", 2) + text(f"ca-{number}") + struct.pack(">Q", 0) + text("X.509")
        data += struct.pack(">I", len(certificate)) + certificate
    # S324: the format's own digest; it tells a damaged file, no more.
    digest = hashlib.sha1(PASSWORD.encode("utf-16-be") + b"Mighty Aphrodite" + data)  # noqa: S324
    store.parent.mkdir(parents=True, exist_ok=True)
    store.write_bytes(data + digest.digest())


main(Path(sys.argv[1]), Path(sys.argv[2]))

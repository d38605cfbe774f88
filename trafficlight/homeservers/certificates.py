"""Certificate authorities for homeservers, whose federation verifies TLS."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFETIME = datetime.timedelta(days=30)
_SKEW = datetime.timedelta(days=1)  # the clock of a container or an engine may be behind
_AUTHORITY = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "trafficlight test authority")])
_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Certificates:
    """The certificate files of a provider, PEM.

    :param authority: the certificate that its homeservers trust.
    :param certificate: a certificate signed by it, for ``localhost`` and ``127.0.0.1`` at every port.
    :param private_key: the key of that certificate.
    """

    authority: Path
    certificate: Path
    private_key: Path

    @classmethod
    def create(cls, folder: Path) -> "Certificates":
        """Create an authority and a certificate in a folder, without the authority's key. Blocks shortly."""
        authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]
        certificate = (
            _builder(subject, key, authority_key, is_authority=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(authority_key, hashes.SHA256())
        )
        files = cls(folder / "authority.crt", folder / "server.crt", folder / "server.key")
        files.authority.write_bytes(_self_signed(authority_key))
        files.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
        files.private_key.touch(mode=0o600)
        files.private_key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return files


def create_rsa_authority() -> tuple[bytes, bytes]:
    """Return a new authority's certificate and key, both PEM. Blocks shortly.

    RSA in the traditional format: some of Complement's images can read nothing else.
    """
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return _self_signed(key), pem


def _self_signed(key: _Key) -> bytes:
    builder = _builder(_AUTHORITY, key, key, is_authority=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _builder(
    subject: x509.Name, key: _Key, authority_key: _Key, *, is_authority: bool
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )
    issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    constraints = x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(_AUTHORITY)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _LIFETIME)
        .add_extension(constraints, critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(issued_by, critical=False)
    )

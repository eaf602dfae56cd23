"""Certificates of TLS for tests, made by openssl."""

import subprocess
from pathlib import Path


class Authority:
    """A certificate authority of a test, in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        folder.mkdir(exist_ok=True)
        self._openssl("req", "-x509", *_NEW_KEY, "-subj", f"/CN={name}", *self._files(name), *_FOR_CA)

    @property
    def root(self) -> Path:
        return self.folder / f"{self.name}.crt"

    def issue(
        self, name: str, *, days: int = 365, of: str = "IP:127.0.0.1,DNS:localhost"
    ) -> tuple[Path, Path]:
        """Make a certificate for this machine, or others, or renew it in its place; return it and its key.

        With −1 days it has expired.
        """
        request = self.folder / f"{name}.csr"
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        new = ("-keyout", f"{name}.new", "-out", request.name)
        self._openssl("req", *_NEW_KEY, "-subj", f"/CN={name}", *new)
        names = self.folder / "names.cnf"
        names.write_text(f"subjectAltName={of}\n")
        signed = ("-CA", f"{self.name}.crt", "-CAkey", f"{self.name}.key", "-CAcreateserial")
        result = ("-days", str(days), "-extfile", names.name, "-out", f"{name}.signed")
        self._openssl("x509", "-req", "-in", request.name, *signed, *result)
        (self.folder / f"{name}.new").replace(key)
        (self.folder / f"{name}.signed").replace(certificate)
        return certificate, key

    def _files(self, name: str) -> tuple[str, ...]:
        return ("-keyout", f"{name}.key", "-out", f"{name}.crt")

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=self.folder)


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
_FOR_CA = ("-addext", "basicConstraints=critical,CA:TRUE", "-days", "3650")

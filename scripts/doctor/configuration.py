"""What `triptych doctor` checks of the settings with which a server of the home would start."""

import time
from collections.abc import Iterator

from scripts.doctor.bucket import shared_bucket_check
from scripts.doctor.check import Check, State
from server.access import DamagedTokensError, TokenFile
from server.config import ServerConfig
from server.exposure import ExposedError, check_exposure
from server.settings import FILE_NAME, SettingsSource, WrongSettingError
from server.tls import TlsFiles
from store.home import Home
from store.valkey import ClusterTlsError
from triptych_client import TlsFilesError


def configuration_checks(home: Home) -> Iterator[Check]:
    """Yield the checks of triptych.toml and the environment, the certificate that they name, and tokens."""
    hint = "mend it: `triptych serve --help` and docs/configuration.md list the options"
    try:
        config = SettingsSource(home.path).load()
    except WrongSettingError as error:
        yield Check("configuration", State.FAILED, str(error), hint)
        return
    file = home.path / FILE_NAME
    found = str(file) if file.exists() else f"no {FILE_NAME}: defaults and the environment"
    yield Check("configuration", State.OK, found)
    if config.artifacts:
        yield shared_bucket_check(home, config.artifacts)
    yield from _cluster_checks(config, hint)
    yield from _tls_checks(config, hint)
    yield from _access_checks(config)


def _cluster_checks(config: ServerConfig, hint: str) -> Iterator[Check]:
    """Yield a failed check where the files of TLS towards the cluster of the state cannot be used."""
    try:
        if config.state is not None:
            config.state.check_files()
    except ClusterTlsError as error:
        yield Check("cluster", State.FAILED, str(error), hint)


def _tls_checks(config: ServerConfig, hint: str) -> Iterator[Check]:
    try:
        files = TlsFiles.of(config.tls_cert, config.tls_key, config.tls_client_ca)
    except TlsFilesError as error:
        yield Check("certificate", State.FAILED, f"[tls]: {error}", hint)
        return
    if files is None:
        return
    try:
        files.load()
    except (TlsFilesError, OSError) as error:
        yield Check("certificate", State.FAILED, str(error), "make another certificate and key, in PEM files")
    else:
        yield Check("certificate", State.OK, str(files.certificate))


def _access_checks(config: ServerConfig) -> Iterator[Check]:
    """Yield the checks of the tokens, and of whom the server would let in without."""
    try:
        check_exposure(config)
    except ExposedError as error:
        yield Check("exposure", State.FAILED, str(error), "choose one of the three ways")
    if not config.tokens.exists():
        return
    try:
        tokens = TokenFile(config.tokens).read()
    except DamagedTokensError as error:
        hint = f"make new ones: remove {config.tokens}, then triptych token create"
        yield Check("tokens", State.FAILED, str(error), hint)
        return
    now = time.time()
    hold = [token for token in tokens.values() if not token.revoked and token.expires_at > now]
    found = f"{len(hold)} of {len(tokens)} tokens hold"
    if hold:
        yield Check("tokens", State.OK, found)
    else:
        yield Check("tokens", State.WARNING, f"{found}: nobody may call", "triptych token create")

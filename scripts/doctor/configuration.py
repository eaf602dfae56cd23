"""What `triptych doctor` checks of the settings with which a server of the home would start."""

from collections.abc import Iterator

from scripts.doctor.check import Check, State
from server.settings import FILE_NAME, SettingsSource, WrongSettingError
from server.tls import TlsFilesError, server_credentials
from store.home import Home


def configuration_checks(home: Home) -> Iterator[Check]:
    """Yield the checks of triptych.toml and the environment, and of the certificate that they name."""
    hint = "mend it: `triptych serve --help` and docs/configuration.md list the options"
    try:
        config = SettingsSource(home.path).load()
    except WrongSettingError as error:
        yield Check("configuration", State.FAILED, str(error), hint)
        return
    file = home.path / FILE_NAME
    found = str(file) if file.exists() else f"no {FILE_NAME}: defaults and the environment"
    yield Check("configuration", State.OK, found)
    if config.tls_cert is None and config.tls_key is None:
        return
    if config.tls_cert is None or config.tls_key is None:
        yield Check("certificate", State.FAILED, "[tls] cert and key: one is named without the other", hint)
        return
    try:
        server_credentials(config.tls_cert, config.tls_key)
    except (TlsFilesError, OSError) as error:
        yield Check("certificate", State.FAILED, str(error), "make another certificate and key, in PEM files")
    else:
        yield Check("certificate", State.OK, str(config.tls_cert))

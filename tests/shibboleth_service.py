"""A real shibd with the settings of the role ``reverse_proxy``, for tests. Apache's mod_shib asks it about sessions."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any

from apache_server import FAKETIME, make_own, own_account
from saml_provider import SamlServer, saml_arguments
from web_site import render, template

if TYPE_CHECKING:
    from web_site import Site

PROGRAM = shutil.which("shibd", path=f"{os.environ['PATH']}:/usr/sbin")


class Shibd:
    """shibd for a site.

    Args:
        site: The site, which does not run yet.
        provider: The identity provider.
        metadata: The metadata, if it is not that of the provider alone.
        chosen: See ``saml_arguments``. Names of the role's arguments are arguments of the role.

    Attributes:
        arguments: The arguments of the role.
        provider: The identity provider.
    """

    def __init__(self, site: Site, provider: SamlServer, metadata: str | None = None, **chosen: Any) -> None:
        given = {name: chosen.pop(name) for name in list(chosen) if name.startswith("reverse_proxy_")}
        top = site.directory
        self.site, self.provider = site, provider
        self.directory = top / "shibd"
        make_own(self.directory)
        self.settings = top / "etc" / "saml" / "shibboleth2.xml"
        self.arguments = saml_arguments(site, provider, metadata, parameter="entityID", **chosen) | {
            "reverse_proxy_sso_provider": "shibboleth",
            "reverse_proxy_public_url": site.url,
            "__reverse_proxy_shibd_socket": str(self.directory / "socket"),
            "__reverse_proxy_shibboleth_key": str(top / "secrets" / "saml-sp.key"),
            "__reverse_proxy_config_directory": str(top / "etc"),
            **given,
        }
        files = {name: template(f"{name}.j2") for name in ("attribute-map.xml", "attribute-policy.xml")}
        files["shibboleth2.xml"] = template("shibboleth2.xml.j2", __reverse_proxy_shibboleth_provider=provider.url)
        for name, text in render(self.arguments, files).items():
            (top / "etc" / "saml" / name).write_text(text)

    def start(self) -> None:
        """Start shibd, after the site, and wait until it answers."""
        logger = self.directory / "logger"
        logger.write_text(
            "log4j.rootCategory=INFO, log\n"
            "log4j.appender.log=org.apache.log4j.FileAppender\n"
            f"log4j.appender.log.fileName={self.directory}/log\n"
            "log4j.appender.log.layout=org.apache.log4j.PatternLayout\n"
            "log4j.appender.log.layout.ConversionPattern=%p %c: %m%n\n"
        )
        environment = os.environ | {"SHIBSP_LOGGING": str(logger)}
        if FAKETIME:
            environment |= {
                "LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(self.site.clock), "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }  # fmt: skip
        if account := own_account():
            os.chown(self.directory, account["user"], account["group"])
        with (self.directory / "errors").open("wb") as errors:
            self.process = subprocess.Popen(
                [str(PROGRAM), "-f", "-F", "-c", str(self.settings), "-p", str(self.directory / "pid")],
                **own_account(), env=environment, stdout=errors, stderr=errors,
            )  # fmt: skip
        for _ in range(400):
            if self.process.poll() is not None:
                break
            if (self.directory / "socket").exists():
                return
            time.sleep(0.02)
        raise AssertionError(f"shibd did not start: {(self.directory / 'errors').read_text()}{self.log()}")

    def stop(self) -> None:
        """Stop shibd."""
        self.process.terminate()
        self.process.wait(timeout=30)

    def log(self) -> str:
        """Return shibd's log."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

"""The entries of an inventory about the operation of the service: how it is watched and tested. No I/O."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from hpchub.model import fields as f
from hpchub.model.entry import Entry


class Monitoring(Entry):
    """How the service is watched: its metrics and its logs."""

    metrics_networks: list[f.ScraperNetwork] = Field(default=[])
    """The addresses of the Prometheus servers, which may read the metrics with the token. Empty: nobody may read them,
    and there is no token."""
    json_logs: bool = False
    """Whether the hub writes its log as JSON, one object per line."""
    audit_days: Annotated[int, f.Whole(1, 3650)] = 180
    """How long the audit log is kept, in days."""


class Canary(Entry):
    """Regular tests of the whole service with sessions of a service account. They are off by default."""

    enabled: Annotated[bool, Field(strict=True)] = False
    """Whether a timer on the hub host runs the tests."""
    user: f.OptionalUserName = ""
    """The account that the sessions belong to. It may run jobs like every user. No person uses it."""
    profiles: list[f.ProfileKey] = Field(default=[])
    """The profiles to test, by their keys. Empty: all."""
    kernels: list[f.KernelName] = Field(default=[])
    """The kernels to test in each session. Empty: all that the session offers."""
    schedule: f.Calendar = "hourly"
    """When to test, as for ``OnCalendar=`` of a timer of systemd."""
    minutes: Annotated[int, f.Whole(1, 1440)] = 30
    """How long one run may take, in minutes. Each profile may use the time that the others leave."""
    connect_to: f.OptionalDnsName = ""
    """The host of the web server as the hub host reaches it. Set it if the hub host cannot use the public address."""

    @model_validator(mode="after")
    def _check_user(self) -> Canary:
        if self.enabled and not self.user:
            f.complain("is enabled without a user", "set user to an account that may run jobs")
        return self


class Mail(Entry):
    """Mail to users who ask for one when their session is ready. It is off by default."""

    enabled: Annotated[bool, Field(strict=True)] = False
    """Whether users can ask for a mail. The address comes from the single sign-on; see `mail` of the claims."""
    sender: f.OptionalMailAddress = ""
    """The address of the sender."""
    host: f.OptionalDnsName = "localhost"
    """The mail server: the one on the hub host, or a relay of the site that accepts mail from the hub host."""
    port: f.Port = 25
    """The port of the mail server."""
    tls: Annotated[bool, Field(strict=True)] = False
    """Whether the connection must be encrypted (STARTTLS), with a certificate that the hub host trusts."""

    @model_validator(mode="after")
    def _check_sender(self) -> Mail:
        if self.enabled and not self.sender:
            f.complain("is enabled without a sender", "set sender to a mail address of the service")
        if self.enabled and not self.host:
            f.complain("is enabled without a mail server", "set host, or remove it to use localhost")
        return self

"""Web: the dashboard. It needs the extra ``web``, and nothing else imports it but the command line."""

from kq.web.server import serve
from kq.web.settings import DEFAULT_PORT, Password, Settings, check_address, read_password
from kq.web.site import Site

__all__ = ["DEFAULT_PORT", "Password", "Settings", "Site", "check_address", "read_password", "serve"]

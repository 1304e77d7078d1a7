"""What a host name may be, and how it is asked for."""

from __future__ import annotations

from keepalive.base.hostname import LONGEST_NAME as LONGEST_NAME
from keepalive.base.hostname import WrongName as WrongName
from keepalive.base.hostname import ascii_name as ascii_name

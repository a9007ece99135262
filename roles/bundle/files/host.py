"""Print the properties of this host that decide whether it can use a bundle, as a JSON object."""

import json
import platform
import sys

print(
    json.dumps(
        {
            "interpreter": sys.executable,
            "python": ".".join(map(str, sys.version_info[:2])),
            "architecture": platform.machine(),
            "glibc": platform.libc_ver()[1] if platform.libc_ver()[0] == "glibc" else "",
        }
    )
)

"""`python -m tests.kit.another_version …`: the gateway as a version whose Redis schema is another one.

Nothing but its number is. SCHEMA is that; SILENT_SECONDS how soon versions that are gone count no longer.
"""

import os
import sys

from gateway.redis import schema

schema.SCHEMA = int(os.environ["SCHEMA"])
schema.SILENT_SECONDS = int(os.environ.get("SILENT_SECONDS", schema.SILENT_SECONDS))

if __name__ == "__main__":
    from gateway.cli import main

    sys.exit(main())

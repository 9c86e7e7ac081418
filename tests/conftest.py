"""What hypothesis does in every test: the same examples each time, or new ones where that is asked for.

`CTPATCH_HYPOTHESIS=nightly` draws new examples in each run (`make nightly`). A failure prints the line that repeats it.
No profile has a deadline or looks at how long an example takes: a busy machine is no fault of the code.
"""

import os
from typing import Any

from hypothesis import HealthCheck, settings

_ALWAYS: dict[str, Any] = {
    "print_blob": True,
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow],
}
settings.register_profile("fixed", derandomize=True, **_ALWAYS)
settings.register_profile("nightly", derandomize=False, max_examples=500, **_ALWAYS)
settings.load_profile(os.environ.get("CTPATCH_HYPOTHESIS", "fixed"))

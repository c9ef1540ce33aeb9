"""Entry point for ``ray job submit -- python jobs/precompute_baseline.py CONFIG [key.sub=value …] --output FILE``."""

from __future__ import annotations

import sys

from bolt_ray.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["precompute-baseline"]
    main()

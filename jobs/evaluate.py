"""Entry point for ``ray job submit -- python jobs/evaluate.py CONFIG [key.sub=value …] [--model DIR …]``."""

from __future__ import annotations

import sys

from bolt_ray.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["evaluate"]
    main()

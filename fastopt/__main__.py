"""``python -m fastopt`` is ``fastopt``."""

from fastopt.cli import main

if __name__ == "__main__":
    main()

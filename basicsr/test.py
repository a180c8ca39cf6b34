"""BasicSR's testing command: ``python basicsr/test.py -opt options/test_std.yml``, from any current folder.

This folder holds no ``__init__.py``, so that the installed package ``basicsr`` stays the one that is imported.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # in place of this folder, whose train.py and test.py are no modules
    from kdsr_arch.cli import main

    sys.exit(main(["test", *sys.argv[1:]], root=ROOT))

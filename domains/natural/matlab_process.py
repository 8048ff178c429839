"""Prints variables of a MATLAB file as JSON. Run as a process of its own: a damaged file can crash SciPy's reader.

python matlab_process.py FILE VARIABLE ...
"""

import json
import sys

try:
    import resource
except ImportError:  # Windows
    resource = None

MOST_BYTES = 8 << 30


def main() -> None:
    import numpy as np
    from scipy.io import loadmat

    if resource is not None:  # what is packed may be without end
        resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    file, *keys = sys.argv[1:]
    content = loadmat(file, variable_names=keys)
    if lacking := [key for key in keys if key not in content]:
        sys.exit(f"has no '{lacking[0]}'")
    print(json.dumps({key: [plain(each) for each in np.ravel(content[key])] for key in keys}))


def plain(cell):
    """Numbers and texts out of the arrays that MATLAB wraps them in, structures as objects."""
    import numpy as np

    names = getattr(getattr(cell, "dtype", None), "names", None)
    if names:
        return {name: plain(cell[name]) for name in names}
    if isinstance(cell, np.ndarray):
        return plain(cell.ravel()[0]) if cell.size else None
    return cell.item() if isinstance(cell, np.generic) else str(cell)


if __name__ == "__main__":
    main()

"""Prints variables of a MATLAB file as JSON. Run as a process of its own: a damaged file can crash SciPy's reader.

python matlab_process.py FILE VARIABLE ...
"""

import json
import sys

try:
    import resource
except ImportError:  # Windows
    resource = None

MOST_MEMORY = 4 << 30
MOST_VALUES = 5_000_000


def main() -> None:
    import numpy as np
    from scipy.io import loadmat

    if resource is not None:  # what is packed may be without end
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    file, *keys = sys.argv[1:]
    content = loadmat(file, variable_names=keys)
    if lacking := [key for key in keys if key not in content]:
        sys.exit(f"has no '{lacking[0]}'")
    counted = [0]
    print(json.dumps({key: [plain(each, counted) for each in np.ravel(content[key])] for key in keys}))


def plain(cell, counted):
    """Structures as objects, arrays as flat lists, of one element as that element; numbers and texts."""
    import numpy as np

    counted[0] += 1
    if counted[0] > MOST_VALUES:
        sys.exit("holds more values than annotations could")
    names = getattr(getattr(cell, "dtype", None), "names", None)
    if isinstance(cell, np.ndarray):
        values = [plain(each, counted) for each in (cell.ravel()[:1] if names else cell.ravel())]
        return values[0] if len(values) == 1 else values
    if names:
        return {name: plain(cell[name], counted) for name in names}
    return cell.item() if isinstance(cell, np.generic) else str(cell)


if __name__ == "__main__":
    main()

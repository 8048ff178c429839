"""Prints a structure of a MATLAB file as JSON. Run as a process of its own: a damaged file can crash SciPy's reader.

python matlab_process.py FILE VARIABLE
"""

import json
import sys

try:
    import resource
except ImportError:  # Windows
    resource = None

MOST_MEMORY = 2 << 30
MOST_VALUES = 5_000_000


def main() -> None:
    from scipy.io import loadmat

    if resource is not None:  # what is packed may be without end
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    file, key = sys.argv[1:]
    content = loadmat(file, variable_names=[key])
    if key not in content:
        sys.exit(f"has no '{key}'")
    counted = [0]
    print(json.dumps(plain(content[key], counted)))


def plain(cell, counted):
    """Structures as objects, arrays as flat lists, of one element as that element; numbers and texts."""
    import numpy as np

    counted[0] += 1
    if counted[0] > MOST_VALUES:
        sys.exit("holds more values than attributes of people could")
    if isinstance(cell, np.ndarray) and cell.dtype.names is None:
        values = [plain(each, counted) for each in cell.ravel()]
        return values[0] if len(values) == 1 else values
    if isinstance(cell, np.ndarray):
        return plain(cell.ravel()[0], counted) if cell.size else None
    if isinstance(cell, np.void) and cell.dtype.names is not None:
        return {name: plain(cell[name], counted) for name in cell.dtype.names}
    return cell.item() if isinstance(cell, np.generic) else str(cell)


if __name__ == "__main__":
    main()

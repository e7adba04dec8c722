"""What is usual in bins of one to three items, for tests of what records say of them."""

import numpy as np

from items.evidence import MOST_CONTENTS, UsualItems

USUAL = UsualItems(
    counts=(1, 2, 3),
    means=((4.0, 0.0), (4.5, 0.5), (5.0, 1.0)),
    spreads=((1.0, 1.0), (0.9, 0.8), (0.8, 0.6)),
    distinct=((0.9, 0.05, 0.05), (0.3, 0.6, 0.1), (0.2, 0.3, 0.5)),
    volumes=tuple(np.geomspace(5, 500, MOST_CONTENTS).tolist()),
    weights=tuple(np.geomspace(0.1, 5, MOST_CONTENTS).tolist()),
)

"""FiftyOne's database in this process: mongomock, where no MongoDB can be had.

To be imported before fiftyone, which then reads and writes as ever; what mongomock does not know
yet, such as the merging pipelines of an evaluation, fails. FiftyOne's pip package fetches MongoDB
from its makers when it is built; FIFTYONE_DATABASE_URI names one that runs.
"""

import os
from typing import Any

import mongomock
import mongomock.codec_options
import pymongo
from mongomock.store import ServerStore

os.environ["FIFTYONE_DATABASE_URI"] = "mongodb://127.0.0.1"
os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"
STORE = ServerStore()


class Client(mongomock.MongoClient):
    """A client of the one database: FiftyOne opens several."""

    _closed = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"_store": STORE, **options})

    def server_info(self) -> dict[str, Any]:
        """Return a version that FiftyOne takes."""
        return {"version": "7.0.0", "versionArray": [7, 0, 0, 0]}


# Of types of FiftyOne's own, none of which a dataset of classifications holds.
mongomock.codec_options.is_supported = lambda _: mongomock.codec_options.CodecOptions()
pymongo.MongoClient = Client

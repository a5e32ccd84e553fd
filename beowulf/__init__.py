"""The operator's side of the cluster: what runs on the controller and is not Ansible."""

import sys
from pathlib import Path

# What it shares with Ansible's plugins is in the collection, which is used from this checkout and installed nowhere.
COLLECTIONS = str(Path(__file__).resolve().parent.parent / "collections")
if COLLECTIONS not in sys.path:
    sys.path.insert(0, COLLECTIONS)

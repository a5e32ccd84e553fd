"""The health of a cluster, as its nodes tell it."""

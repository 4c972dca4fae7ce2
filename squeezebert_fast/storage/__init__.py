"""Files in directories and on the hub: found, fetched, written whole or not at all, uploaded."""

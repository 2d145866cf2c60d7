"""The local model that comes with the portal: which files it may be, how they are fetched, how it is served."""

"""The web page of a saved run."""

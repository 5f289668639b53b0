"""Training: data, recipes, networks and the loop. torch lives here."""

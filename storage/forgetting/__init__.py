"""A person's rows out of a lake: every word that was asked, answered or said of them."""

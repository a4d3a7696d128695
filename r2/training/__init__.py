"""Training the router's policies and serving them: the only folder that loads torch and its kin, and only where a
module says so."""

"""Training the router's policies and serving them: the only folder that loads torch, TRL and the like, and only where a
module says so."""

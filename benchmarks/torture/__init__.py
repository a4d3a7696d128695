"""`make torture`: all that can go wrong around a run, done to it on purpose, with what was lost and paid twice."""

"""Questions and problems in: files of the user, benchmark files, tables of outcomes."""

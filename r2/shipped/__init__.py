"""Pool files, trained policies and settings files that come with the program, found from any folder."""

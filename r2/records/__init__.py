"""Every stored table and the rows made for it, declared once."""

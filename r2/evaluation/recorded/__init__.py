"""Routers compared on recorded answers: a table says what every model answered to every question, so that any order of
asking can be played without a call."""

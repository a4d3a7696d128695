"""Requests, tokens, calls in flight and money: held within a process and between the processes of one host."""

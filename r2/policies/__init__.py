"""The registry of trained versions, and their conversion to what a server loads."""

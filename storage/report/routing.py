"""When a router counts as collapsed: what both kinds of report warn of."""

ROUTING = frozenset({"r2", "query_router", "datashunt", "automix", "dot"})
"""Methods that choose among models, and so can collapse."""
COLLAPSED = 0.95
"""Share of the answering calls above which one model counts as the only one."""

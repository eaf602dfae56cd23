"""What a process of a server of several processes does."""

OWNER, QUERY = "owner", "query"

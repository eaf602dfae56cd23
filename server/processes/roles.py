"""What a process of a server of several processes does, and the words between it and the parent."""

OWNER, QUERY = "owner", "query"
WARM = b"warm\n"  # of a process: it has loaded everything
GO = b"go\n"  # of the parent: answer
READY = b"ready\n"  # of a process: it answers

"""triptych backup and triptych restore: a home as one immutable directory, and a home made of one.

`to_backup` copies what a home needs, and shares with the backup before what has not changed; `from_backup`
checks every byte and makes a new home.
"""

from scripts.backups.from_backup import ledgers_of, restore, restore_command
from scripts.backups.to_backup import back_up, backup_command

__all__ = ["back_up", "backup_command", "ledgers_of", "restore", "restore_command"]

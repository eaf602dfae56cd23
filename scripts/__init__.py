"""One file per job; each is a subcommand of `triptych`."""

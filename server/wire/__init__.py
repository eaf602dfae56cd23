"""The wire: servicers, messages to records and back, bounds on what clients send, admission of calls."""

"""triptych doctor: is everything there, sound and fitting."""

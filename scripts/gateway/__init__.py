"""triptych gateway: REST, gRPC-Web and gRPC at one address, by an Envoy whose configuration is made here.

`methods.py` reads the methods and their paths from the descriptors of the proto, `routing.py` makes routes of
them, `cluster.py` says how servers are reached, `errors.py` how Envoy's own errors look, and `config.py` puts
it together. `openapi.py` describes the JSON form. `process.py` runs Envoy, `background.py`
leaves it up; `command.py` is the command.
"""

from scripts.gateway.command import gateway_command

__all__ = ["gateway_command"]

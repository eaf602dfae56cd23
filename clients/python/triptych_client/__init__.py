"""A typed client of a Triptych server: the messages of its API are in triptych_client.pb.v1."""

"""A model and its index over HTTP: the rooms of `jaxir.serve`.

A request goes through `connections` (sockets, slow headers), `app` (limits, routes), `reading`
(what it asks), `batching` (it waits for the others) and `engine` (the model, in a few shapes).
"""

"""HTTP service: a model and its index behind a search page and a JSON API.

A request passes through `connections` (sockets, slow headers), `app` (limits, routes), `requests`
(parsing and validation), `batching` (requests of the same moment form a batch) and `engine` (the
model and the index, with a few compiled shapes).
"""

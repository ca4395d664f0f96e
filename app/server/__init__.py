"""`modernbert serve`: saved runs over HTTP.

A request passes `guard` (who, how large, now or later), a route of `routes`, waits in `batcher` until the one thread
that owns the models has computed it together with others, and is measured in `metrics`. `lifecycle` loads, opens and
stops; nothing here that is imported before the first request is answered imports torch.
"""

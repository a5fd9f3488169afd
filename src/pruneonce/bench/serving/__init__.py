"""Load on a server, from outside, and what it did to it.

In come a URL and texts; out go latencies, throughput and errors. In order: one connection (`client`); arrivals on many
of them (`load`); what was measured, as JSON and as lines (`results`).
"""

"""Fault campaigns, `make campaign`: hostile files, kills, full disks, company, long use; in docs/reliability.md.

In: tiny models, and the real MiniLM where it has been fetched. Out: a record that a later call goes on from, and the
table. `case` is what a campaign is made of; `mutants kills full_disk company long_use` are campaigns, those that write
with the `jobs`; `worker` keeps the count of a process that may die; `page` writes the table.
"""

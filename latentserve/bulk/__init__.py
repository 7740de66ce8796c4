"""Jobs: `latentserve embed|score INPUT... --to out.parquet/`, which go on where they were killed.

    command   options to a job                        job       items to parts, progress, Ctrl-C
    listing   files, folders, shards, tables: items   reading   bytes of an item, and its id
    tables    items in a column of Parquet files
    folder    parts, the job file, who holds it       schema    rows of a part
    engines   who answers: a server, or a bundle in this process (service/bulk)
    cluster   or a bundle on the machines of a Ray cluster

What holds of every job:

* The items are put in order once, by file and place in it, and each source counts once. Part k holds the items
  k * part_rows to (k + 1) * part_rows - 1 of that order, and no batch crosses a part: a job that was killed and went on
  has the bytes of one that was not.
* A part is there whole or not at all. What a killed job had not written is computed again.
* An item that fails is a row with an error.
"""

"""Search: `latentserve neighbours FOLDER.parquet --query FILE`, the items of a job that are most alike.

    command   options, the table                      nearest   every row compared: the k nearest, exactly
    queries   files or items of the job to vectors    pictures  the bytes behind a row's source, small
    page      the pictures beside each other, as HTML

There is no index: the parts of a job are read as they are. ADR 29 says how long that takes, and when a database is due.
"""

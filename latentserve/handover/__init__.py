"""Hand-over: `latentserve convert FOLDER.parquet --to WHERE`, a job's embeddings to where they are searched.

    command   options, and who takes it               npy      an array for memory maps, a CSV of names beside it
    sql       a file for psql: PostgreSQL, pgvector   lance    LanceDB
    qdrant    Qdrant: a server, or its local mode

Rows without an embedding stay behind. A row's key is its source, which a job has once: given again, a row is written
over and none is there twice. Rows of another embedding space are refused.
"""

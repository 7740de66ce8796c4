"""Jobs (`latentserve embed ... --to out.parquet/`): their speed, their memory, and what kills leave of them."""

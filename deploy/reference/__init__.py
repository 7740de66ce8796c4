"""The reference pages of the documents, made from the code: `python -m deploy.reference` writes docs/reference.

* `commands`   the command line, from each command's `--help`
* `settings`   of the server, from `service.config.Config`
* `protocol`   from the comments of `protos/latentserve/v1/embedding.proto`
* `python_api` and `errors`  from docstrings
* `manifest`   from the dataclasses of `latentserve.bundle`
"""
